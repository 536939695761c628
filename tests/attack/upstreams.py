"""Upstreams that lie about usage, break HTTP, echo our credential or send garbage in place of events."""

from collections.abc import Awaitable, Callable, Iterator

import orjson

from tests.attack.case import Case, Victim, expect

MOST_USD = 0.01  # more than any hold here: 8,192 tokens of context and 64 of output


def _json(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (status, len(body))
    return head + b"".join(line + b"\r\n" for line in lines) + b"connection: close\r\n\r\n" + body


def _events(*events: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + b"".join(
        events
    )


def _answer(**usage: object) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    return orjson.dumps(
        {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    )


def _delta(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"


LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"

USAGES: dict[str, dict[str, object]] = {
    "100 million tokens": {
        "prompt_tokens": 10,
        "completion_tokens": 100_000_000,
        "total_tokens": 100_000_010,
    },
    "below zero": {"prompt_tokens": -5, "completion_tokens": -5, "total_tokens": -10},
    "beyond 64 bits": {"prompt_tokens": 2**63, "completion_tokens": 1e30, "total_tokens": 1},
    "text": {"prompt_tokens": "many", "completion_tokens": "few", "total_tokens": "some"},
    "nothing": {},
}

WIRE = {
    "no HTTP": b"hello\r\n\r\n",
    "RTSP": b"RTSP/1.0 200 OK\r\n\r\n",
    "a shorter body than its length": _json(_answer())[:-20],
    "a length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a header of 1 MB": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
    "10,000 interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000,
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "HTML under 200": _json(b"<html>maintenance</html>"),
    "deep JSON": _json(b"[" * 100_000 + b"]" * 100_000),
    "an empty body": _json(b""),
    "a head without an end": b"HTTP/1.1 200 OK\r\nx: y",
}

STREAMS = {
    "CR alone": _events(
        _delta("a").replace(b"\n", b"\r"), LAST.replace(b"\n", b"\r"), DONE.replace(b"\n", b"\r")
    ),
    "mixed line ends": _events(_delta("a").replace(b"\n\n", b"\r\n\n"), LAST, DONE),
    "an event of 40 MB": _events(b"data: " + b"x" * 40_000_000),
    "no blank line": _events(_delta("a").rstrip() + b"\n", LAST.rstrip() + b"\n"),
    "broken JSON between": _events(_delta("a"), b"data: {oops\n\n", LAST, DONE),
    "NUL and high bytes": _events(_delta("a"), b"data: \0\xff\xfe\n\n", LAST, DONE),
    "no end": _events(_delta("a"), _delta("b")),
    "events behind the end": _events(_delta("a"), LAST, DONE, _delta("more"), b"event: evil\ndata: x\n\n"),
    "half a JSON at the end": _events(_delta("a"), b'data: {"choices":[{"ind'),
    "only comments": _events(b": ping\n\n" * 1000),
}


def _sane(answer: bytes, *, stream: bool = False) -> Callable[[Victim], Awaitable[None]]:
    """The client gets a whole answer or one error in our words, never our credential, at a bounded cost."""

    async def run(victim: Victim) -> None:
        assert victim.own is not None
        victim.own.liar.answer = answer
        # For another feature: what it books must not use up the budget of all other cases.
        body = {**victim.chat(), "model": "liar", "stream": stream}
        got = await victim.post(body, ("x-tollway-feature", "triage"))
        shown = b"\n".join(value for pair in got.headers.raw for value in pair) + got.content
        expect(victim.own.provider_key.encode() not in shown, "our credential was shown")
        expect(len(got.content) < 100_000, f"the client was sent {len(got.content):,} bytes")
        cost = float(got.headers.get("x-tollway-cost-usd", "0"))
        expect(0 <= cost <= MOST_USD, f"it was booked as {cost} USD")
        if got.status_code == 200 and stream:
            is_ended = b"data: [DONE]" in got.content
            expect(is_ended or b'"error"' in got.content, f"a stream without an end: {got.content[-80:]!r}")
        elif got.status_code != 200:
            expect("error" in got.json(), "the error is none of ours")

    return run


def _unsized(body: bytes, status: bytes) -> bytes:
    """Its length is that of the connection: what is put in for a placeholder counts too."""
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n%b" % (status, body)


ECHOES = {
    "in an error": _unsized(
        b'{"error":{"message":"bad key {authorization}","code":"x"}}', b"400 Bad Request"
    ),
    "in an error's code": _unsized(
        b'{"error":{"message":"no","code":"{authorization}"}}', b"422 Unprocessable"
    ),
    "in a page": _unsized(b"<html>{authorization}</html>", b"500 Broken"),
    "in a header": _json(_answer(), b"x-request-id: {authorization}"),
}


def _cases() -> Iterator[Case]:
    for name, usage in USAGES.items():
        whole = _json(_answer(**usage))
        yield Case("lying upstream", f"usage: {name}", _sane(whole), needs_own=True)
        event = b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n"
        streamed = _events(_delta("a"), LAST, event, DONE)
        yield Case(
            "lying upstream", f"usage of a stream: {name}", _sane(streamed, stream=True), needs_own=True
        )
    for name, answer in WIRE.items():
        yield Case("lying upstream", name, _sane(answer), needs_own=True)
    for name, answer in ECHOES.items():
        yield Case("lying upstream", f"our credential {name}", _sane(answer), needs_own=True)
    for name, answer in STREAMS.items():
        yield Case("SSE garbage", name, _sane(answer, stream=True), needs_own=True)


CASES = list(_cases())
