"""What a pattern alone proves: e-mail addresses and credentials."""

from gateway.core.detect.engine import Pattern

# Letters and digits beyond ASCII, without the punctuation of Chinese and Japanese.
_WORLD = r"\x{80}-\x{2fff}\x{3040}-\x{10ffff}"

_AT = r"(?:@|%40|&#64;)"
_LOCAL = rf"A-Za-su-z0-9_+\-.'~={_WORLD}"  # with "t" left out
# The end of a local part that is not "git" and nothing else: every code host writes git@host for a
# repository. RE2 has no lookbehind, so: no t; or a t after no i; or "it" after no g; or something before
# "git".
_END_OF_LOCAL = rf"(?:[{_LOCAL}]|(?:^|[^i])t|(?:^|[^g])it|[{_LOCAL}t]git)"
_DOMAIN = rf"[A-Za-z0-9{_WORLD}][A-Za-z0-9.\-{_WORLD}]*\.[A-Za-z{_WORLD}]{{2}}"
_EMAIL = Pattern(rf"{_END_OF_LOCAL}{_AT}{_DOMAIN}")
EMAIL_TRIGGER = _AT


def has_email(text: bytes) -> bool:
    """Whether folded `text` holds an e-mail address.

    Rule: a character of a local part, "@" (also percent-encoded or as an HTML entity), and a dotted domain
    whose last label begins with two letters; letters of any script. Not one: the repository user "git".
    Source: RFC 5322 section 3.4.1 without quoted local parts and address literals, RFC 6531 for other
    scripts.
    """
    return _EMAIL.occurs_in(text)


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
