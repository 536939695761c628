"""Schema of what raises a request's class: detectors, what a find does, and content that none can read."""

from decimal import Decimal
from typing import Literal

from pydantic import Field

from gateway.config.kinds import Count, FilePath, Flag, Name, Probability, Section, Text

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


class Entities(Section):
    """Named entities, by a recogniser in a process of its own. What it cannot rule out in time counts as
    found."""

    find: tuple[Text, ...] = Field(description="types of entities, such as PERSON", min_length=1)
    raise_to: Name = Field(description="class that the request is raised to at least")
    by_default: Flag = Field(default=False, description="true: for all features but those that switch it off")
    language: Text = Field(default="en", description="language of the pipeline")
    model: Text = Field(
        default="en_core_web_sm",
        description="spaCy pipeline that is installed, or `blank` for patterns only",
    )
    min_score: Probability = Field(default=Decimal("0.5"), description="least score that counts, 0 to 1")
    deadline_ms: Count = Field(default=300, description="most milliseconds for one request")
    queue: Count = Field(default=64, description="most requests that wait for it at once")
    command: tuple[Text, ...] | None = Field(
        default=None, description="program to run in place of the built-in recogniser", min_length=1
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


class FeatureScreening(Section):
    """What one feature says of the search, see `tenancy.Feature`."""

    detect: dict[Name, Flag]
    media: "Media"
    mask: tuple[Name, ...]
    entities: Flag | None


class Media(Section):
    """For each kind of content that no detector reads, the class that it counts as; left out: the most
    sensitive class. Token ids whose tokenizer is known are read as the text that they stand for."""

    image: Name | None = Field(default=None, description="class that images count as")
    audio: Name | None = Field(default=None, description="class that audio counts as")
    video: Name | None = Field(default=None, description="class that video counts as")
    file: Name | None = Field(default=None, description="class that files count as")
    tokens: Name | None = Field(
        default=None,
        description="class that prompts of token ids count as, where their tokenizer is not known",
    )
