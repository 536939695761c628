"""An upstream's error in any shape: its reason is kept, our credentials are not, and there is a bound."""

import base64
import json
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.envelope import envelope
from gateway.core.errors import UpstreamRejected
from gateway.core.upstream_error import (
    MAX_EXTRA_BYTES,
    MAX_FIELD_BYTES,
    MAX_MESSAGE_BYTES,
    UpstreamError,
    bare_secrets_in,
    read_error,
    retry_after_seconds,
    secrets_in,
    without_secrets,
)
from gateway.proxy.verdict import rejected

REASON = "At most 5 images"
KEY = "sk-proj-abcdefghijklmnop1234"

# What servers and what stands before them send, and what is to be told of it.
SHAPES: list[tuple[str, Any, dict[str, Any]]] = [
    (
        "openai",
        {"error": {"message": REASON, "type": "invalid_request_error", "param": "n", "code": "bad"}},
        {"type": "invalid_request_error", "param": "n", "code": "bad"},
    ),
    ("code as int", {"error": {"message": REASON, "type": "B", "code": 400}}, {"type": "B", "code": "400"}),
    ("code as float", {"error": {"message": REASON, "code": 400.0}}, {"code": "400"}),
    ("error as text", {"error": REASON}, {}),
    ("error in a list", [{"error": {"message": REASON, "code": 400}}], {"code": "400"}),
    ("errors", {"success": False, "errors": [{"code": 7003, "message": REASON}]}, {"code": "7003"}),
    ("an error within an error", {"error": {"error": {"message": REASON}}}, {}),
    (
        "old vllm",
        {"object": "error", "message": REASON, "type": "BadRequestError", "param": "image", "code": 400},
        {"type": "BadRequestError", "param": "image", "code": "400"},
    ),
    ("detail as text", {"detail": REASON}, {}),
    ("detail as object", {"detail": {"message": REASON, "code": "x"}}, {"code": "x"}),
    ("message", {"message": REASON}, {}),
    ("msg", {"msg": REASON, "code": 11}, {"code": "11"}),
    ("message as list", {"message": [REASON]}, {}),
    ("param as list", {"error": {"message": REASON, "param": ["a", "b", 0]}}, {"param": "a, b, 0"}),
    (
        "anthropic",
        {"type": "error", "error": {"type": "overloaded_error", "message": REASON}, "request_id": "r"},
        {"type": "overloaded_error"},
    ),
    (
        "google",
        {"error": {"code": 400, "message": REASON, "status": "INVALID_ARGUMENT"}},
        {"code": "400", "type": "INVALID_ARGUMENT", "extras": {"status": "INVALID_ARGUMENT"}},
    ),
    (
        "azure",
        {"error": {"message": REASON, "code": "content_filter", "innererror": {"code": "Policy", "x": [1]}}},
        {
            "code": "content_filter",
            "inner_code": "Policy",
            "extras": {"innererror": {"code": "Policy", "x": [1]}},
        },
    ),
    ("oauth", {"error": "invalid_token", "error_description": REASON}, {"code": "invalid_token"}),
    (
        "errors beside a message",
        {"error": {"code": 403, "message": REASON, "errors": [{"message": "other", "reason": "r"}]}},
        {"code": "403", "extras": {"errors": [{"message": "other", "reason": "r"}]}},
    ),
    ("message beside errors", {"message": REASON, "errors": [{"message": "other"}]}, {}),
    ("spring", {"status": 400, "error": "Bad Request", "message": REASON, "path": "/v1"}, {}),
    ("problem", {"type": "about:blank", "title": REASON, "status": 400}, {"type": "about:blank"}),
    ("apigee", {"fault": {"faultstring": REASON, "detail": {"errorcode": "p.q"}}}, {}),
    ("aws", {"__type": "ValidationException", "message": REASON}, {"type": "ValidationException"}),
]
SHOWN = ("message", "type", "param", "code", "inner_code")


@pytest.mark.parametrize(("_name", "body", "told"), SHAPES)
def test_the_reason_is_kept_whatever_shape_it_comes_in(_name: str, body: Any, told: dict[str, Any]) -> None:
    error = read_error(400, json.dumps(body).encode())
    assert error.said
    expected = {"message": REASON, "type": None, "param": None, "code": None, "inner_code": None} | told
    extras = expected.pop("extras", None)
    assert {name: getattr(error, name) for name in SHOWN} == expected
    if extras is not None:
        assert error.extras == extras


def test_a_list_of_complaints_is_one_message_and_names_the_first_place() -> None:
    detail = [
        {"type": "extra_forbidden", "loc": ["body", "messages", 0, "x"], "msg": "Extra inputs", "input": 1},
        {"type": "missing", "loc": ["body", "model"], "msg": "Field required"},
    ]
    error = read_error(422, json.dumps({"detail": detail}).encode())
    assert error.message == "messages.0.x: Extra inputs; model: Field required"
    assert error.param == "messages.0.x"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"upstream connect error or disconnect/reset before headers", None),
        (b"\xef\xbb\xbfno healthy upstream\r\n", "no healthy upstream"),
        (b'{"error":{"message":"cut o', None),
        (
            b"<html>\r\n<head><title>502 Bad Gateway</title></head><body><h1>x</h1></body></html>",
            "502 Bad Gateway",
        ),
        (b"<!DOCTYPE html><style>p{}</style><p>No &amp; never</p><script>go()</script>", "No & never"),
        (b"<html><body><center>plain</center></body></html>", "plain"),
    ],
)
def test_words_that_are_no_json_are_the_message(body: bytes, message: str | None) -> None:
    assert read_error(502, body).message == (message or body.decode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"null",
        b"[]",
        b"[1]",
        b"{}",
        b'{"error":{}}',
        b'{"error":null}',
        b'{"error":{"message":5}}',
        b'{"choices":[]}',
        b"<html></html>",
        b"\x00\x01\x02binary",
        bytes(range(128, 256)),
    ],
)
def test_where_nothing_is_said_the_message_names_the_status(body: bytes) -> None:
    message = "The upstream answered with status 503."
    assert read_error(503, body) == UpstreamError(status=503, message=message)


def test_what_is_nested_too_deeply_is_read_within_bounds() -> None:
    for body in (
        b"[" * 100_000,
        b'{"error":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"error":' * 50 + b"1" + b"}" * 50,
    ):
        assert len(read_error(400, body).message.encode()) <= MAX_MESSAGE_BYTES


# --- bounds ---


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u6f22", "\U0001f600"])
def test_a_long_message_is_cut_to_two_kilobytes_between_characters(letter: str) -> None:
    error = read_error(400, json.dumps({"error": {"message": letter * 100_000}}).encode())
    assert MAX_MESSAGE_BYTES - 4 <= len(error.message.encode()) <= MAX_MESSAGE_BYTES
    assert set(error.message) == {letter, "\u2026"}


def test_extras_are_bounded_together_and_their_neighbours_stay() -> None:
    small = {"a": [1, None, True]}
    given = {"message": "no", "huge": "x" * 10_000, "small": small, "more": ["y" * 3_000] * 2}
    error = read_error(400, json.dumps({"error": given}).encode())
    assert error.extras == {"small": small}


def test_extras_never_stand_in_for_the_four_keys() -> None:
    error = read_error(400, b'{"error":{"message":"no","type":7,"param":{},"code":[],"x":1}}')
    told = json.loads(envelope(rejected(error)))["error"]
    expected = {"message": "no", "type": "invalid_request_error", "param": None, "code": None, "x": 1}
    assert told == expected


def test_numbers_that_not_every_reader_takes_are_left_out() -> None:
    error = read_error(400, b'{"error":{"message":"no","code":%d,"a":%d,"b":NaN}}' % (10**30, 10**30))
    assert error.code is None
    assert error.extras in ({}, {"b": None})


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
members = st.sampled_from(
    [
        "error",
        "errors",
        "detail",
        "message",
        "msg",
        "type",
        "param",
        "code",
        "loc",
        "innererror",
        "fault",
        "x",
    ]
)
errors = st.recursive(
    any_json,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner, max_size=5),
    max_leaves=20,
)


@given(errors.map(json.dumps).map(str.encode) | st.binary(max_size=200), st.integers(400, 599))
def test_anything_is_read_within_bounds_and_can_be_told(body: bytes, status: int) -> None:
    error = read_error(status, body, (KEY,))
    assert 0 < len(error.message.encode()) <= MAX_MESSAGE_BYTES
    assert all(
        len((text or "").encode()) <= MAX_FIELD_BYTES for text in (error.type, error.param, error.code)
    )
    assert len(orjson.dumps(error.extras)) <= MAX_EXTRA_BYTES + 2
    told = json.loads(envelope(rejected(error)))["error"]
    assert list(told)[:4] == ["message", "type", "param", "code"]


# --- credentials ---

HEADERS = (
    (b"content-type", b"application/json"),
    (b"user-agent", b"tollway/0.2"),
    (b"authorization", f"Bearer {KEY}".encode()),
    (b"x-team", b"a"),
    (b"x-api-key", b"another-secret/with+signs"),
)


def test_every_header_but_the_usual_ones_may_be_a_credential() -> None:
    assert set(secrets_in(HEADERS)) == {f"Bearer {KEY}", KEY, "another-secret/with+signs"}


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        f"Bearer {KEY}",
        f'"{KEY}",',
        "another-secret/with+signs",
        "another-secret%2Fwith%2Bsigns",
        "sk-proj-********1234",
        "sk-p...1234",
        "sk-pr\u20261234",
        "\\u0073k-proj-abcdefghijklmnop1234",
        "org-AbCdEf123456",
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        '{"error":{"message":"Incorrect: %s"}}',
        '{"error":{"message":"no","code":"%s","x":{"%s":["%s"]}}}',
        "plain %s!",
    ],
)
def test_nothing_of_our_credentials_is_told(echo: str, place: str) -> None:
    if place.startswith("plain"):
        echo = echo.replace("\\u0073", "s")
    echo = echo.replace('"', "'")
    body = place.replace("%s", echo).encode()
    error = read_error(401, body, secrets_in(HEADERS))
    told = envelope(rejected(error)).decode()
    for part in (KEY, "1234", "another-secret", "AbCdEf"):
        assert part not in told
    assert "[hidden]" in told


def test_a_credential_at_the_cut_is_not_told_in_part() -> None:
    for before in range(8192 - len(KEY) - 2, 8192 + 2):
        error = read_error(400, b"." * before + KEY.encode() * 2, (KEY,))
        assert "sk-" not in error.message
    many = read_error(400, (KEY * 1000).encode(), (KEY,))
    assert "sk-" not in many.message


def test_words_that_begin_like_a_key_are_left_alone() -> None:
    message = "Skipping sk- and task-list ... is fine"
    assert read_error(400, message.encode(), (KEY,)).message == message


# --- when to come back ---

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"retry-after", b"37")], 37.0),
        ([(b"retry-after", b" 0.5 ")], 0.5),
        ([(b"retry-after", b"0")], 0.0),
        ([(b"retry-after", b"-3")], 0.0),
        ([(b"retry-after-ms", b"1500")], 1.5),
        ([(b"retry-after", b"37"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"37"), (b"retry-after-ms", b"soon")], 37.0),
        ([(b"retry-after", formatdate(NOW + 90, usegmt=True).encode())], 90.0),
        ([(b"retry-after", formatdate(NOW - 90, usegmt=True).encode())], 0.0),
        ([(b"retry-after", formatdate(NOW + 90).encode())], 90.0),
        ([(b"retry-after", b"1e300")], 31 * 86_400.0),
        ([(b"retry-after-ms", b"1e300")], 31 * 86_400.0),
        ([(b"retry-after", b"Fri, 31 Dec 9999 23:59:59 GMT")], 31 * 86_400.0),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"inf")], None),
        ([(b"retry-after", b"Wed, 99 Foo 2026 00:00:00 GMT")], None),
        ([(b"retry-after", b"\xff")], None),
    ],
)
def test_the_wait_is_read_in_every_form(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == seconds


def test_a_rejection_keeps_all_that_was_said() -> None:
    error = read_error(422, b'{"error":{"message":"no","type":"t","param":"p","code":9,"x":1}}')
    told = rejected(error)
    assert isinstance(told, UpstreamRejected)
    assert (told.status, told.message, told.type, told.param, told.code) == (422, "no", "t", "p", "9")
    assert told.extras == {"x": 1}


ECHOED_KEY = "sk-proj-Ab/9+xyz_0123456789-LMNOP"


def _as_percent(text: str) -> str:
    return "".join(f"%{ord(char):02x}" for char in text)


ECHOES = {
    "raw": ECHOED_KEY,
    "url": quote(ECHOED_KEY, safe=""),
    "every byte in percent": _as_percent(ECHOED_KEY),
    "twice in percent": quote(_as_percent(ECHOED_KEY), safe=""),
    "base64": base64.b64encode(ECHOED_KEY.encode()).decode(),
    "base64 of the header": base64.b64encode(f"Bearer {ECHOED_KEY}".encode()).decode(),
    "base64 within a dump": base64.b64encode(
        f"host: x, authorization: Bearer {ECHOED_KEY}, accept".encode()
    ).decode(),
    "urlsafe base64": base64.urlsafe_b64encode(f"x{ECHOED_KEY}".encode()).decode(),
    "json escapes": json.dumps("".join(f"\\u{ord(char):04x}" for char in ECHOED_KEY)),
    "json in json in json": json.dumps(json.dumps("".join(f"\\u{ord(char):04X}" for char in ECHOED_KEY))),
    "html": "".join(f"&#{ord(char)};" for char in ECHOED_KEY),
    "html in hexadecimal": "".join(f"&#x{ord(char):X};" for char in ECHOED_KEY),
    "c escapes": "".join(f"\\x{ord(char):02x}" for char in ECHOED_KEY),
    "hexadecimal": ECHOED_KEY.encode().hex(),
}


@pytest.mark.parametrize("spelling", ECHOES)
def test_our_credential_is_found_in_every_spelling_that_an_upstream_may_echo(spelling: str) -> None:
    secrets = secrets_in([(b"authorization", f"Bearer {ECHOED_KEY}".encode())])
    echo = ECHOES[spelling]
    bodies = [
        json.dumps({"error": {"message": f"bad key: {echo}.", "code": echo, "param": echo, "saw": [echo]}}),
        f"unauthorized: {echo}",
    ]
    for body in bodies:
        error = read_error(401, body.encode(), secrets)
        told = json.dumps([error.message, error.code, error.param, error.extras])
        core = echo.strip('"')[8:-8]
        assert core not in told
        assert json.dumps(core)[1:-1] not in told
        assert ECHOED_KEY[8:-8] not in told
        assert "[hidden]" in error.message


def test_an_answer_shows_no_credential_as_it_is() -> None:
    secrets = tuple(
        one.encode() for one in bare_secrets_in([(b"authorization", f"Bearer {ECHOED_KEY}".encode())])
    )
    assert without_secrets(f"a {ECHOED_KEY} b {ECHOED_KEY}".encode(), secrets) == b"a [hidden] b [hidden]"
    assert without_secrets(b"nothing", secrets) == b"nothing"
