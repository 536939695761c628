"""What a pattern alone proves: e-mail addresses and credentials."""

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
_LAST_LABEL = rf"\.[A-Za-z{_WORLD}]{{2}}"
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
    rf"(?:{_LETTER}[0-9A-Za-z.\-{_NEAR}]*\.[A-Za-z{_NEAR}]{{2}}{_LETTER}*(?:[.\-]+{_LETTER}+)*|"
    rf"[0-9A-Za-z{_WORLD}][0-9A-Za-z.\-{_WORLD}]*\.[A-Za-z{_WORLD}]{{2}}[0-9A-Za-z{_WORLD}]*)"
)
_WHOLE_EMAIL = Finder(f"{_WHOLE_LOCAL}{_AT}{_WHOLE_DOMAIN}")
_REPOSITORY_USER = re.compile(rb"git(?:@|%40|&#64;)")


def email_spans(text: bytes) -> Iterator[Span]:
    """Where `text` has e-mail addresses: first and last offset of each."""
    for start, end in _WHOLE_EMAIL.spans(text):
        if not _REPOSITORY_USER.match(text, start):
            yield start, end


_PREFIXED = (
    r"sk-(?:proj|svcacct|admin|ant|or|live|test)-[0-9A-Za-z_\-]{16}",
    r"\bsk-[0-9A-Za-z_\-]{20}",
    r"sk-[0-9A-Za-z]{32}",
    r"A[KS]IA[0-9A-Z]{16}",
    r"gh[pousr]_[0-9A-Za-z]{30}",
    r"github_pat_[0-9A-Za-z_]{22}",
    r"glpat-[0-9A-Za-z_\-]{20}",
    r"xox[a-z]-[0-9A-Za-z\-]{10}",
    r"AIza[0-9A-Za-z_\-]{35}",
    r"[sr]k_live_[0-9A-Za-z]{10}",
    r"hf_[0-9A-Za-z]{30}",
    r"npm_[0-9A-Za-z]{36}",
    r"-----BEGIN (?:[0-9A-Z]+ )*PRIVATE KEY",
    r"""(?i:secret_?access_?key)["'\\ :=]{1,5}[0-9A-Za-z/+]{40}""",
    r"eyJ[0-9A-Za-z_\-]{8,}\.[0-9A-Za-z_\-]{8,}\.[0-9A-Za-z_\-]{8}",
)

# A value is long and mixes letters with digits: that tells it from a word, a name and a plain number.
_SHORTEST_VALUE = 16
_SIGNS = r"_\-+/="


def _mixed_value() -> str:
    """A value's first sixteen characters: some of one kind, the first of the other, then anything."""
    value = f"[0-9A-Za-z{_SIGNS}]"
    starts = range(1, _SHORTEST_VALUE)
    letters_first = (f"[A-Za-z{_SIGNS}]{{{n}}}[0-9]{value}{{{_SHORTEST_VALUE - n - 1}}}" for n in starts)
    digits_first = (f"[0-9]{{{n}}}[A-Za-z]{value}{{{_SHORTEST_VALUE - n - 1}}}" for n in starts)
    return "|".join((*letters_first, *digits_first))


_NAMED = (
    r"(?i:passw(?:or)?d|passphrase|pwd|secret|token|"
    r"(?:api|access|account|secret|private|encryption|signing)[_\-]?key)"
    r"""\\?["']?[ \t]{0,3}(?:=|:)[=>]?[ \t]{0,3}\\?["']?"""
)
_BEARER = r"(?i:bearer[ \t]{1,3})"
_SECRET = Pattern("|".join((*_PREFIXED, f"(?:{_NAMED}|{_BEARER})(?:{_mixed_value()})")))
_WHOLE_PREFIXED = Finder("|".join(_PREFIXED))
_WHOLE_NAMED = Finder(f"(?:{_NAMED}|{_BEARER})({_mixed_value()})")
_REST_OF_TOKEN = re.compile(rb"[0-9A-Za-z_\-.+/=~]*")
_REST_OF_VALUE = re.compile(rb"""[^\s"'\\,;]*""")
_PEM_HEAD, _PEM_END = b"-----BEGIN ", re.compile(rb"-----END [^-]*-----")
SECRET_TRIGGER = (
    r"sk-[0-9A-Za-z]|A[KS]IA[0-9A-Z]|gh[pousr]_|github_pat_|glpat-|xox[a-z]-|AIza|[sr]k_live_|hf_|npm_|"
    r"PRIVATE KEY|eyJ|(?i:passw(?:or)?d|passphrase|pwd|secret|token|key)"
    + r"""\\?["']?[ \t]{0,3}[:=]"""
    + f"|{_BEARER}"
)


def has_secret(text: bytes) -> bool:
    """Whether folded `text` holds a credential.

    Rule: the issuer's own prefix and a value long enough (OpenAI and compatible, AWS, GitHub, GitLab, Slack,
    Google, Stripe live keys, Hugging Face, npm), a PEM private key header, a JWT, or a value of sixteen
    characters or more with both letters and digits that is assigned to a name such as password, token or
    api_key. Source: the issuers' documentation of their formats, RFC 7468 (PEM), RFC 7519 (JWT).
    """
    return _SECRET.occurs_in(text)


def secret_spans(text: bytes) -> Iterator[Span]:
    """Where `text` has credentials: first and last offset of each; a private key reaches to its end line."""
    covered = 0
    for start, end in _WHOLE_PREFIXED.spans(text):
        if start < covered:
            continue
        if text.startswith(_PEM_HEAD, start):
            foot = _PEM_END.search(text, end)
            covered = foot.end() if foot else len(text)
            yield start, covered
        else:
            yield start, _end_of(_REST_OF_TOKEN, text, end)
    for start, end in _WHOLE_NAMED.spans(text):
        yield start, _end_of(_REST_OF_VALUE, text, end)


def _end_of(rest: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = rest.match(text, at)
    return match.end() if match else at
