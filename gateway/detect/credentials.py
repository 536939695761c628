"""Credentials: by their issuer's form, and values that are assigned to the name of one."""

import binascii
import re
from collections.abc import Iterator

from gateway.detect.engine import Finder, Pattern, Span

_SIGN = r"[0-9A-Za-z_\-]"

# The head that each form begins with is in SECRET_TRIGGER as well.
_PREFIXED = (
    r"sk-(?:proj|svcacct|admin|ant|or|live|test)-[0-9A-Za-z_\-]{16}",
    r"\bsk-[0-9A-Za-z_\-]{20}",
    r"sk-[0-9A-Za-z]{32}",
    r"A(?:[KS]I|BI|CC)A[0-9A-Z]{16}",
    r"gh[pousr]_[0-9A-Za-z]{30}",
    r"github_pat_[0-9A-Za-z_]{22}",
    rf"gl(?:pat|dt|rt|ptt|soat|agent|cbt)-{_SIGN}{{20}}",
    r"xox[a-z](?:\.xox[a-z])?-[0-9A-Za-z\-]{10}",
    r"xapp-[0-9]-[0-9A-Za-z\-]{16}",
    rf"AIza{_SIGN}{{35}}",
    rf"ya29\.{_SIGN}{{20}}",
    rf"GOCSPX-{_SIGN}{{20}}",
    r"[sr]k_(?:live|test)_[0-9A-Za-z]{10}",
    r"whsec_[0-9A-Za-z+/]{24}",
    r"hf_[0-9A-Za-z]{30}",
    r"npm_[0-9A-Za-z]{36}",
    rf"pypi-AgE{_SIGN}{{24}}",
    rf"SG\.{_SIGN}{{16,32}}\.{_SIGN}{{16}}",
    rf"\b[0-9]{{8,10}}:AA{_SIGN}{{32}}",
    r"\bgsk_[0-9A-Za-z]{32}",
    r"\bxai-[0-9A-Za-z]{32}",
    r"\bpplx-[0-9a-f]{32}",
    r"\br8_[0-9A-Za-z]{32}",
    r"\bdapi[0-9a-f]{32}",
    r"\bdo[opr]_v1_[0-9a-f]{32}",
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    rf"\bhvs\.{_SIGN}{{24}}",
    rf"dckr_pat_{_SIGN}{{20}}",
    r"lin_api_[0-9A-Za-z]{32}",
    r"glsa_[0-9A-Za-z]{32}",
    r"\bNRAK-[0-9A-Z]{27}",
    r"\bAGE-SECRET-KEY-1[0-9A-Z]{20}",
    r"hooks\.slack\.com/(?:services|workflows|triggers)/[0-9A-Za-z_/]{16}",
    rf"discord(?:app)?\.com/api/(?:v[0-9]+/)?webhooks/[0-9]{{17,20}}/{_SIGN}{{20}}",
    r"webhook\.office\.com/webhookb2/[0-9a-fA-F\-]{36}",
    rf"logic\.azure\.com(?::443)?/workflows/[^\s\"']{{1,200}}[?&]sig={_SIGN}{{16}}",
    rf"chat\.googleapis\.com/v1/spaces/{_SIGN}+/messages\?[^\s\"']{{0,100}}token={_SIGN}{{16}}",
    r"(?i:account_?key)[\"'\\ :=]{1,5}[0-9A-Za-z/+]{86}",
    rf"[?&]sig=(?:{_SIGN}|%2[bBfF]|[+/]){{40}}",
    rf"[0-9A-Za-z_~.\-]{{3}}[78]Q~{_SIGN}{{31}}",
    r"-----BEGIN (?:[0-9A-Z]+ )*PRIVATE KEY",
    r"PuTTY-User-Key-File-[23]",
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


_ASSIGNED = r"""\\?["']?[ \t]{0,3}(?:=|:)[=>]?[ \t]{0,3}\\?["']?"""
_NAME = (
    r"(?i:passw(?:or)?d|passphrase|pwd|secret|token|"
    r"(?:api|access|account|secret|private|encryption|signing)[_\-]?key)"
)
_NAME_OF_ONE = (
    r"(?:(?i:passw(?:or)?d|passwort|passcode|passphrase|pwd|contraseñ?n?a|senha|mot de passe)|"
    r"パスワ[ー\-]ド|暗証番号|密码|密碼|비밀번호)"
)
# A person says "is" as well, and markup closes a tag.
_SAID = r"""\\?["']?[ \t]{0,3}(?:(?:=|:|：)[=>]?|>|は|が|是|(?i:is))[ \t]{0,3}\\?["'「]?"""
_EIGHT_SIGNS = r"[!-~]{8}"
_BEARER = r"(?i:bearer[ \t]{1,3})"
_BASIC = r"(?i:\bbasic)[ \t]{1,3}([0-9A-Za-z+/]{8,400}={0,2})"
_IN_URL = r"""[a-z]://[^\s:/@"'<>]{0,32}:([^\s/@"'<>]{6,200})@[0-9A-Za-z]"""

_SURE = Pattern("|".join(_PREFIXED))
_WHOLE_PREFIXED = Finder("|".join(_PREFIXED))
_WHOLE_NAMED = Finder(f"(?:{_NAME}{_ASSIGNED}|{_BEARER})({_mixed_value()})")
_WHOLE_PASSWORD = Finder(f"{_NAME_OF_ONE}{_SAID}({_EIGHT_SIGNS})")
_WHOLE_BASIC = Finder(_BASIC)
_WHOLE_IN_URL = Finder(_IN_URL)
_REST_OF_KEY = re.compile(rb"[0-9A-Za-z_\-.+/=~]*")
_REST_OF_VALUE = re.compile(rb"""[^\s"'\\,;`<>&]*""")
_PEM_HEAD, _PEM_END = b"-----BEGIN ", re.compile(rb"-----END [^-]*-----")

SECRET_TRIGGER = (
    r"sk-[0-9A-Za-z]|A[KSBC][IC]A[0-9A-Z]|gh[pousr]_|github_pat_|gl[a-z]{2,5}-|xox[a-z][.\-]|xapp-|"
    r"AIza|ya29\.|GOCSPX-|[sr]k_(?:live|test)_|whsec_|hf_|npm_|pypi-AgE|SG\.[0-9A-Za-z_\-]{4}|[0-9]{8}:AA|"
    r"gsk_|xai-|pplx-|r8_|dapi[0-9a-f]|"
    r"do[opr]_v1_|shp[acps][ast]_|hvs\.|dckr_pat_|lin_api_|glsa_|NRAK-|AGE-SECRET|hooks\.slack|/webhooks/|"
    r"webhook\.office|logic\.azure|chat\.googleapis|[?&]sig=|[78]Q~|PRIVATE KEY|PuTTY-User|eyJ|"
    r"(?i:passw(?:or)?[dt]|passcode|passphrase|pwd|contrase|senha|mot de passe|secret|token|key)"
    r"""\\?["']?[ \t]{0,3}(?:[:=>]|(?i:is))|パスワ|暗証番号|密码|密碼|비밀번호|"""
    rf"(?i:basic[ \t]{{1,3}})|{_BEARER}|[a-z]://[^\s:/@]{{0,32}}:[^\s/@]{{6}}"
)

# So many different values of one text are looked at in vain. With more of them the text counts as found.
MOST_ASSIGNED = 5_000
# A name of two words and more, in one case; and the attribute of one, in any.
_NAME_OF_SOMETHING = re.compile(
    rb"(?:[a-z$_][0-9a-z]*(?:_[0-9a-z]*)+|[A-Z_][0-9A-Z]*(?:_[0-9A-Z]*)+|"
    rb"[A-Za-z_$][0-9A-Za-z_]*(?:\.[A-Za-z_][0-9A-Za-z_]*)+)[),\]}]*"
)
_PLACEHOLDER = re.compile(
    rb"(?i)[$<{%*.#]|x{4}|(.)\1{5}|process\.env|os\.environ|env\.|your|example|change|placeholder|redacted"
)
_TOLD_IN_URL = re.compile(rb"(?i)[$<{%*]|\[|(?:pass(?:word|wd)?|pwd|secret|user(?:name)?|token)\Z")
_NAME_OF_ONES = re.compile(rb"(?i)(?:[a-z_]*_)?passw(?:or)?d[0-9_]*\Z")
_LETTER, _DIGIT = re.compile(rb"[A-Za-z]"), re.compile(rb"[0-9]")
_SHORTEST_PASSWORD = 8
_MOST_DIGITS_OF_A_NAME = 3


def has_secret(text: bytes) -> bool:
    """Whether folded `text` holds a credential.

    Rule: the issuer's own form (keys of clouds, code hosts, model providers, payment and mail services;
    webhooks of chat tools), a private key's header, a JWT; Basic credentials that decode to a name and a
    password; a password in an address; or a value that is assigned to a name: after password or passphrase
    one of eight characters with a letter and a digit, after token, secret, api_key or the like one of
    sixteen with both letters and digits. Not one: a call, a variable and its attributes, a placeholder.
    Source: the issuers' documentation of their formats, RFC 7468 (PEM), RFC 7519 (JWT), RFC 7617 (Basic).
    """
    return _SURE.occurs_in(text) or next(_by_context(text), None) is not None


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
            yield start, _end_of(_REST_OF_KEY, text, end)
    yield from _by_context(text)


def _by_context(text: bytes) -> Iterator[Span]:
    """The values that only what stands before them makes credentials."""
    failed: set[bytes] = set()
    for finder, counts in (
        (_WHOLE_NAMED, _is_value),
        (_WHOLE_PASSWORD, _is_password),
        (_WHOLE_BASIC, _is_basic),
        (_WHOLE_IN_URL, _is_in_url),
    ):
        for start, found_end in finder.spans(text):
            end = found_end if finder is _WHOLE_IN_URL else _end_of(_REST_OF_VALUE, text, found_end)
            written = text[start - 1 : end]
            if written in failed:
                continue
            if len(failed) == MOST_ASSIGNED or counts(text, start, end):
                yield start, end
            else:
                failed.add(written)


def _end_of(rest: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = rest.match(text, at)
    return match.end() if match else at


def _is_value(text: bytes, start: int, end: int) -> bool:
    """A value that is not the program's own name for one."""
    value = text[start:end]
    if _is_quoted(text, start):
        return True
    return b"(" not in value and not _names_something(value)


def _is_password(text: bytes, start: int, end: int) -> bool:
    value = text[start:end].rstrip(b".)]}")
    if len(value) < _SHORTEST_PASSWORD or not _LETTER.search(value):
        return False
    if _PLACEHOLDER.match(value) or _NAME_OF_ONES.match(value):
        return False
    if _DIGIT.search(value) is None:
        return False
    return _is_value(text, start, start + len(value))


def _names_something(value: bytes) -> bool:
    """Whether unquoted `value` is a variable of two words or an attribute; few of them have many digits."""
    return (
        _NAME_OF_SOMETHING.fullmatch(value) is not None
        and len(_DIGIT.findall(value)) <= _MOST_DIGITS_OF_A_NAME
    )


def _is_quoted(text: bytes, start: int) -> bool:
    return text[start - 1 : start] in {b'"', b"'"}


def _is_basic(text: bytes, start: int, end: int) -> bool:
    encoded = text[start:end].rstrip(b"=")
    if len(encoded) % 4 == 1:
        return False
    try:
        decoded = binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4))
    except binascii.Error:
        return False
    return b":" in decoded and all(0x20 <= byte < 0x7F for byte in decoded)


def _is_in_url(text: bytes, start: int, end: int) -> bool:
    return _TOLD_IN_URL.match(text[start:end]) is None
