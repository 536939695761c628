"""A model server that only paces: answers a chat request with `max_tokens` chunks, one write for each.

Run as `python -m benchmarks.stream_upstream --port P --interval-ms 40`. Chunk k of a stream is due k
intervals after its request came in, whatever happened to the one before: slow readers do not slow the pace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any, cast

import httptools
import uvloop

from benchmarks import wire

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
END = b"0\r\n\r\n"


def _framed(payload: bytes) -> bytes:
    """One server-sent event as one HTTP chunk."""
    event = b"data: " + payload + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _chunk(
    delta: dict[str, object], finish_reason: str | None = None, usage: dict[str, int] | None = None
) -> bytes:
    """A vLLM-shaped chunk of about 200 bytes."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "token_ids": None}
    document = {
        "id": "chatcmpl-6f1d2c3b4a5968778695a4b3c2d1e0f1",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": wire.MODEL,
        "choices": [choice],
        **({} if usage is None else {"usage": usage}),
    }
    return _framed(json.dumps(document, separators=(",", ":")).encode())


FIRST = _chunk({"role": "assistant", "content": "The"})
MIDDLE = _chunk({"content": " warehouse"})
LAST = _chunk({"content": "."}, "stop")
DONE = _framed(b"[DONE]")


def _counts(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 171, "total_tokens": 171 + tokens, "completion_tokens": tokens}


def middle_with_usage(tokens: int) -> bytes:
    """A chunk of text under `continuous_usage_stats`, the last of so many tokens."""
    return _chunk({"content": " warehouse"}, usage=_counts(tokens))


def usage(tokens: int) -> bytes:
    """The last chunk under `include_usage`."""
    usage = _counts(tokens)
    document = {
        "id": "chatcmpl-6f1d2c3b4a5968778695a4b3c2d1e0f1",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": wire.MODEL,
        "choices": [],
        "usage": usage,
    }
    return _framed(json.dumps(document, separators=(",", ":")).encode())


class Server(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url.endswith(b"/chat/completions"):
            self._answer_chat(json.loads(self._body))
        else:
            body = wire.models_answer() if self._url.endswith(b"/models") else b""
            self._transport.write(PLAIN % (len(body), body))

    def _answer_chat(self, request: dict[str, Any]) -> None:
        if not request.get("stream"):
            body = wire.chat_answer()
            self._transport.write(PLAIN % (len(body), body))
            return
        self._total = max(2, int(request.get("max_tokens") or request.get("max_completion_tokens") or 2))
        self._usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self._started = self._loop.time()
        self._sent = 1
        self._transport.write(HEAD)
        self._transport.write(FIRST)
        self._plan_next()

    def _plan_next(self) -> None:
        due = self._started + self._sent * self._interval_seconds
        self._timer = self._loop.call_at(due, self._next)

    def _next(self) -> None:
        self._sent += 1
        if self._sent < self._total:
            self._transport.write(MIDDLE)
            self._plan_next()
            return
        self._timer = None
        ending = LAST + (usage(self._total) if self._usage else b"") + DONE + END
        self._transport.write(ending)


async def serve(port: int, interval_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(interval_seconds), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interval-ms", type=float, default=40.0)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.interval_ms / 1000))


if __name__ == "__main__":
    main()
