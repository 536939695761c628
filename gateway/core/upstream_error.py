"""What an upstream's error says, whatever its shape, and what of it may be told.

Rules:
- The reason is kept: OpenAI's envelope, those of other servers and proxies, plain text and pages of HTML.
- At most MAX_MESSAGE_BYTES of message and MAX_EXTRA_BYTES of other members are kept.
- Our own credentials are cut out of all of it: an upstream may echo the key that it was given, as it is, in
  percent, JSON, HTML or hexadecimal escapes, or in base64.
- Of answers nobody looks for more than the credential as it is: to decode them would cost more than they do.
"""

import base64
import datetime
import email.utils
import functools
import html
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import orjson

MAX_MESSAGE_BYTES = 2048
MAX_FIELD_BYTES = 256
MAX_EXTRA_BYTES = 4096
MAX_DEPTH = 6
HIDDEN = "[hidden]"
_HIDDEN = HIDDEN.encode()
LONGEST_WAIT_SECONDS = 31 * 86_400.0

_MOST_INT = 2**63 - 1  # what every JSON reader takes
# So much of a text is looked at: the rest could not be shown, and patterns take their time.
_SCANNED_CHARS = 8192
_SHORTEST_SECRET = 8
_MOST_BACKSLASHES = 8  # JSON in JSON in JSON
_LONGEST_ESCAPE = _MOST_BACKSLASHES + len("u0000")
_URLSAFE = str.maketrans("+/", "-_")
_NO_SECRETS = frozenset({b"content-type", b"accept", b"accept-encoding", b"user-agent"})
_ACCOUNT_IDS = re.compile(r"\b(?:org|proj)[-_][A-Za-z0-9]{6,}\b")

_MESSAGES = (
    "message",
    "msg",
    "detail",
    "error_description",
    "error_message",
    "errorMessage",
    "description",
    "title",
    "reason",
    "faultstring",
)
_TYPES = ("type", "error_type", "status", "__type")
_CODES = ("code", "error_code", "errorCode")
_OWN_FIELDS = frozenset({"message", "type", "param", "code"})

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_UNSEEN = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_LOOKS_LIKE_HTML = re.compile(r"\s*<(?:!doctype|html|head|body|center|h1)\b", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CODE = re.compile(r"[\w.-]{1,64}")

_Object = Mapping[str, Any]


class UpstreamError(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream's error in OpenAI's four fields. Integer codes become strings.

    `said`: the message is its own; where it gave none, that names the status. `inner_code` is that of a
    nested error (Azure's `innererror`). `extras` are the other members of its error object.
    """

    status: int
    message: str
    said: bool = False
    type: str | None = None
    param: str | None = None
    code: str | None = None
    inner_code: str | None = None
    extras: Mapping[str, Any] = {}


def is_code(text: str) -> bool:
    """Whether it looks like a code. Anything else may hold a piece of the prompt, and is not written down."""
    return _CODE.fullmatch(text) is not None


def secrets_in(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, ...]:
    """The credentials among the headers that a deployment's requests carry."""
    found = []
    for name, value in headers:
        if name.lower() not in _NO_SECRETS:
            whole = value.decode("latin-1")
            found += [whole, whole.partition(" ")[2]]
    return tuple(secret for secret in found if len(secret) >= _SHORTEST_SECRET)


def bare_secrets_in(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, ...]:
    """The same without the words before them: where one of these is not, none of the others is."""
    found = []
    for name, value in headers:
        if name.lower() not in _NO_SECRETS:
            whole = value.decode("latin-1")
            bare = whole.partition(" ")[2]
            found.append(bare if len(bare) >= _SHORTEST_SECRET else whole)
    return tuple(secret for secret in found if len(secret) >= _SHORTEST_SECRET)


def without_secrets(text: bytes, secrets: tuple[bytes, ...]) -> bytes:
    """`text`, an answer or a piece of one, with none of `secrets` as it is."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, _HIDDEN)
    return text


def read_error(status: int, body: bytes, secrets: Sequence[str] = ()) -> UpstreamError:
    """The error of an answer with `status`, or of what stands in place of one under 200.

    Nothing of `secrets` is left in it.
    """
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        found = _error_in(json.loads(text))
    except (ValueError, RecursionError):
        found = {"message": _plain(text)}
    return _error(status, found, _scrubber(tuple(secrets)))


def _error(status: int, found: _Object, scrub: "_Scrubber") -> UpstreamError:
    member, text = _message(found)
    message = _cut(scrub(text), MAX_MESSAGE_BYTES)
    inner = found.get("innererror")
    return UpstreamError(
        status=status,
        message=message or f"The upstream answered with status {status}.",
        said=bool(message),
        type=_text(found, _TYPES, scrub),
        param=_param(found, scrub),
        code=_code(found, scrub),
        inner_code=_code(inner, scrub) if isinstance(inner, Mapping) else None,
        extras=_extras(found, member, scrub),
    )


# --- where the error stands ---


def _error_in(document: Any, depth: int = 0) -> _Object:
    """The object that has the error's members; its text alone becomes a message."""
    if isinstance(document, str):
        return {"message": document}
    if isinstance(document, Sequence):
        return _error_in(document[0], depth + 1) if document and depth < MAX_DEPTH else {}
    if not isinstance(document, Mapping) or depth >= MAX_DEPTH:
        return {}
    inner = _inner(document, depth)
    if inner is None:
        return document if depth else _members(document)
    return _beside(document, inner) if isinstance(inner, str) else _error_in(inner, depth + 1)


def _inner(document: _Object, depth: int) -> Any:
    """What in `document` is the error, or holds it; None: nothing, so it is the error itself."""
    error, member = document.get("error"), _message(document)[0]
    if error and not (depth and member):
        return error
    if member and not isinstance(document[member], Mapping):
        return None
    held = (document.get(name) for name in ("errors", "fault", "detail"))
    return next((item for item in held if isinstance(item, Mapping | list) and item), None)


def _beside(document: _Object, text: str) -> _Object:
    """`text` is the error, unless what stands beside it says more: `{"error": "x", "message": ...}`."""
    beside = _members(document)
    if not _message(beside)[1]:
        return {**beside, "message": text}
    return beside if " " in text else {"code": text, **beside}


def _members(document: _Object) -> dict[str, Any]:
    """Those that can be the error's own, where they stand among an answer's."""
    names = (*_MESSAGES, *_TYPES, *_CODES, "param")
    return {name: document[name] for name in names if document.get(name) is not None}


def _message(found: _Object) -> tuple[str, str]:
    """The member that is the message, and its text."""
    for name in _MESSAGES:
        if text := _sentence(found.get(name)):
            return name, text
    return "", ""


def _sentence(value: Any, depth: int = 0) -> str:
    """What a message is, where it is a text, a list of complaints, or an object that has one."""
    if isinstance(value, str):
        return value.strip()
    if depth >= MAX_DEPTH:
        return ""
    if isinstance(value, Mapping):
        text = next(filter(None, (_sentence(value.get(name), depth + 1) for name in _MESSAGES)), "")
        place = _path(value.get("loc"))
        return f"{place}: {text}" if place and text else text
    if isinstance(value, Sequence):
        return "; ".join(filter(None, (_sentence(item, depth + 1) for item in value[:20])))
    return ""


def _plain(text: str) -> str:
    """The words of a body that is no JSON; none where it is not even text."""
    text = text[:_SCANNED_CHARS]
    if _LOOKS_LIKE_HTML.match(text):
        title = _TITLE.search(text)
        shown = title[1] if title is not None and title[1].strip() else _UNSEEN.sub(" ", text)
        text = html.unescape(_TAG.sub(" ", shown))
    if _CONTROL.search(text) or text.count("\ufffd") > len(text) // 20:
        return ""
    return " ".join(text.split())


# --- the members ---


def _text(found: _Object, names: Sequence[str], scrub: "_Scrubber") -> str | None:
    given = (found.get(name) for name in names)
    value = next((item for item in given if isinstance(item, str) and item), None)
    return None if value is None else _cut(scrub(value), MAX_FIELD_BYTES)


def _code(found: _Object, scrub: "_Scrubber") -> str | None:
    for name in _CODES:
        value = found.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_INT:
            return str(int(value) if value == int(value) else value)
    return _text(found, _CODES, scrub)


def _param(found: _Object, scrub: "_Scrubber") -> str | None:
    value = found.get("param")
    if value is None and isinstance(detail := found.get("detail"), Sequence) and not isinstance(detail, str):
        first = detail[0] if detail else None
        value = _path(first.get("loc")) if isinstance(first, Mapping) else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(str(item) for item in value[:20] if isinstance(item, str | int))
    return _cut(scrub(value), MAX_FIELD_BYTES) if isinstance(value, str) and value else None


def _path(location: Any) -> str:
    """FastAPI's `loc`, as `messages.0.content`."""
    if not isinstance(location, Sequence) or isinstance(location, str):
        return ""
    words = [str(item) for item in location[:20] if isinstance(item, str | int)]
    return ".".join(words[1:] if words[:1] == ["body"] else words)


def _extras(found: _Object, member: str, scrub: "_Scrubber") -> dict[str, Any]:
    """The error object's members beside its four and its message, as far as there is room for them."""
    room, kept = MAX_EXTRA_BYTES, {}
    for name, value in found.items():
        if name in _OWN_FIELDS or name == member:
            continue
        try:
            written = orjson.dumps({name: value})
        except (TypeError, ValueError):  # nothing that every reader of JSON takes
            continue
        if len(written) <= room:
            room -= len(written)
            kept.update(_scrubbed(orjson.loads(written), scrub))
    return kept


def _scrubbed(value: Any, scrub: "_Scrubber") -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {scrub(name): _scrubbed(item, scrub) for name, item in value.items()}
    return [_scrubbed(item, scrub) for item in value] if isinstance(value, list) else value


class _Scrubber:
    """Takes credentials out of a text, and what shows a part of one: `sk-ab***wxyz`."""

    __slots__ = ("_longest", "_masked", "_secrets", "_spelt")

    def __init__(self, secrets: Sequence[str]) -> None:
        spellings = {form for secret in secrets for form in (secret, *_encoded(secret))}
        self._secrets = sorted(spellings, key=len, reverse=True)
        # As it is as well: the longest spelling of each, of which a cut may have left the beginning.
        self._longest = max((_LONGEST_ESCAPE * len(secret) for secret in secrets), default=0)
        escaped = ("".join(map(_escaped, secret)) for secret in sorted(secrets, key=len, reverse=True))
        self._spelt = re.compile("|".join(escaped)) if secrets else None
        begins = "|".join(sorted({re.escape(secret[:3]) for secret in secrets if " " not in secret}))
        mask = r"(?:[*\u2022\u2026]|\.{3})"
        self._masked = (
            re.compile(rf"(?<![\w.-])(?:{begins})[\w.-]*?{mask}[\w.*\u2022\u2026-]*") if begins else None
        )

    def __call__(self, text: str) -> str:
        # A lone surrogate cannot be written in UTF-8.
        whole = text[:_SCANNED_CHARS].encode("utf-8", "replace").decode("utf-8")
        for secret in self._secrets:
            whole = whole.replace(secret, HIDDEN)
        if self._spelt is not None:
            whole = self._spelt.sub(HIDDEN, whole)
        if len(text) > _SCANNED_CHARS and self._longest:
            whole = whole[: -self._longest]  # the cut may have left the beginning of one
        if self._masked is not None:
            whole = self._masked.sub(HIDDEN, whole)
        return _ACCOUNT_IDS.sub(HIDDEN, whole)


@functools.lru_cache(maxsize=64)
def _scrubber(secrets: tuple[str, ...]) -> _Scrubber:
    """A deployment's credentials do not change, and its errors may come in floods."""
    return _Scrubber(secrets)


def _escaped(char: str) -> str:
    """An expression for one character as it is, and as percent, JSON, HTML and C escapes write it."""
    number = ord(char)
    digits = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{number:02x}")
    escapes = rf"\\{{1,{_MOST_BACKSLASHES}}}(?:u00|x){digits}"
    return (
        rf"(?:{re.escape(char)}|%(?:25){{0,2}}{digits}|{escapes}"
        rf"|&\#(?:0{{0,4}}{number}|[xX]0{{0,4}}{digits});)"
    )


def _encoded(secret: str) -> Iterator[str]:
    """`secret` in hexadecimal and in base64, also where it stands within a longer text."""
    raw = secret.encode("latin-1", "replace")
    yield raw.hex()
    yield raw.hex().upper()
    for before in range(3):
        # Groups of three bytes become four characters; those at the ends also say what stands beside.
        whole = (len(raw) + before) // 3 * 3 - before
        group = base64.b64encode(bytes(before) + raw[:whole]).decode()
        inner = group[4:] if before else group
        if len(inner) >= _SHORTEST_SECRET:
            yield inner
            yield inner.translate(_URLSAFE)


def _cut(text: str, most_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= most_bytes:
        return text
    return encoded[: most_bytes - 3].decode("utf-8", "ignore") + "\u2026"


# --- when to come back ---


def retry_after_seconds(headers: Iterable[tuple[bytes, bytes]], now: float) -> float | None:
    """How long an answer tells to wait: `retry-after-ms`, or `retry-after` in seconds or as an HTTP date.

    `now` is UTC seconds. Names are in lower case. None: it does not tell.
    """
    told = ((name, value) for name, value in headers if name.startswith(b"retry-after"))
    found = {name: value.decode("latin-1").strip() for name, value in told}
    milliseconds = _number(found.get(b"retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    given = found.get(b"retry-after")
    seconds = _number(given)
    if seconds is not None:
        return min(seconds, LONGEST_WAIT_SECONDS)
    return None if given is None else _until(given, now)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return min(max(number, 0.0), LONGEST_WAIT_SECONDS * 1000) if math.isfinite(number) else None


def _until(text: str, now: float) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000": UTC, of which the parser is not sure
        moment = moment.replace(tzinfo=datetime.UTC)
    return min(max(moment.timestamp() - now, 0.0), LONGEST_WAIT_SECONDS)
