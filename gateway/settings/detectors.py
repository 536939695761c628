"""Schema of what raises a request's class: detectors, what a find does, and content that none can read."""

from typing import Literal

from pydantic import Field

from gateway.settings.kinds import FilePath, Flag, Name, Section, Text

Validator = Literal["luhn", "iban", "ean13", "my_number"]


class Detector(Section):
    """A detector of your own, by `regex` or by words; or, with neither, an allow-list of a built-in one."""

    regex: Text | None = Field(
        default=None, description="expression in RE2 syntax; a group in it is what counts as the value"
    )
    validator: Validator | None = Field(
        default=None, description="check digit that a match of `regex` must have as well"
    )
    words: tuple[Text, ...] | None = Field(
        default=None, description="words or phrases, found whole, upper and lower case alike", min_length=1
    )
    words_file: FilePath | None = Field(
        default=None, description="text file of such words, one a line, UTF-8; lines after # are comments"
    )
    allow: tuple[Text, ...] = Field(default=(), description="values that do not count")
    allow_regex: tuple[Text, ...] = Field(
        default=(), description="expressions in RE2 syntax; values that one matches whole do not count"
    )


class Detection(Section):
    find: tuple[Name, ...] = Field(
        description="detectors, of which any one suffices: built-in ones or names of `privacy.detectors`",
        min_length=1,
    )
    raise_to: Name = Field(description="class that the request is raised to at least")
    by_default: Flag = Field(
        default=True, description="false: only for features that switch the detectors on"
    )


class Media(Section):
    """For each kind of content that no detector reads, the class that it counts as; left out: the most
    sensitive class."""

    image: Name | None = Field(default=None, description="class that images count as")
    audio: Name | None = Field(default=None, description="class that audio counts as")
    video: Name | None = Field(default=None, description="class that video counts as")
    file: Name | None = Field(default=None, description="class that files count as")
