"""E-mail addresses."""

import re
from collections.abc import Iterator

from gateway.detect.engine import Finder, Pattern, Span

# Letters and digits beyond ASCII, without the punctuation of Chinese and Japanese.
_WORLD = r"\x{80}-\x{2fff}\x{3040}-\x{10ffff}"

_AT = r"(?:@|%40|&#64;)"
_LOCAL = rf"A-Za-su-z0-9_+\-.'~={_WORLD}"  # with "t" left out
# The end of a local part that is not "git" and nothing else: every code host writes git@host for a
# repository. RE2 has no lookbehind, so: no t; or a t after no i; or "it" after no g; or something before
# "git".
_END_OF_LOCAL = rf"(?:[{_LOCAL}]|(?:^|[^i])t|(?:^|[^g])it|[{_LOCAL}t]git)"
_HOST = rf"[A-Za-z0-9{_WORLD}][A-Za-z0-9.\-{_WORLD}]*"
# Chinese and Japanese keyboards write an ideographic full stop for the dot; before other letters it ends a
# sentence. Source: RFC 3490, section 3.1.
_LAST_LABEL = rf"(?:\.[A-Za-z{_WORLD}]{{2}}|[。｡][A-Za-z]{{2}})"
_EMAIL = Pattern(rf"{_END_OF_LOCAL}{_AT}{_HOST}{_LAST_LABEL}")
# The same with "git" as well. Part of an address may be in another piece. So the end of a line, where a
# piece ends, and both ends of the text stand for the part that is missing.
EMAIL_TRIGGER = rf"(?:^|[{_LOCAL}t]){_AT}(?:{_HOST}(?:{_LAST_LABEL}|\n|$)|\n|$)"


def has_email(text: bytes) -> bool:
    """Whether folded `text` holds an e-mail address.

    Rule: a character of a local part, "@" (also percent-encoded or as an HTML entity), and a dotted domain
    whose last label begins with two letters; letters of any script. Not one: the repository user "git".
    Source: RFC 5322 section 3.4.1 without quoted local parts and address literals, RFC 6531 for other
    scripts.
    """
    return _EMAIL.occurs_in(text)


# What a whole address is: Chinese, Japanese and Korean need no space before or after it, so their letters
# belong to it only where they stand right beside the sign.
_NEAR = r"\x{80}-\x{2fff}"
_FAR = r"\x{3040}-\x{10ffff}"
_LETTER = f"[0-9A-Za-z{_NEAR}]"
_WHOLE_LOCAL = (
    rf"(?:[0-9A-Za-z_+{_NEAR}][0-9A-Za-z_+\-.'~=!#$*/?^`{{|}}{_NEAR}]*|"
    rf"[0-9A-Za-z_+{_WORLD}][{_LOCAL}t]*[{_FAR}]|[{_FAR}])"
)
_WHOLE_DOMAIN = (
    rf"(?:{_LETTER}[0-9A-Za-z.\-{_NEAR}]*(?:\.[A-Za-z{_NEAR}]|[。｡][A-Za-z])[A-Za-z{_NEAR}]{_LETTER}*"
    rf"(?:[.\-]+{_LETTER}+)*|"
    rf"[0-9A-Za-z{_WORLD}][0-9A-Za-z.\-{_WORLD}]*\.[A-Za-z{_WORLD}]{{2}}[0-9A-Za-z{_WORLD}]*)"
)
_WHOLE_EMAIL = Finder(f"{_WHOLE_LOCAL}{_AT}{_WHOLE_DOMAIN}")
_REPOSITORY_USER = re.compile(rb"git(?:@|%40|&#64;)")


def email_spans(text: bytes) -> Iterator[Span]:
    """Where `text` has e-mail addresses: first and last offset of each."""
    for start, end in _WHOLE_EMAIL.spans(text):
        if not _REPOSITORY_USER.match(text, start):
            yield start, end
