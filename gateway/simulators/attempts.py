"""The record of every attempt that reached a simulator: the evidence against which a gateway is checked."""

import hashlib
import json
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway.simulators.refusals import Header

_KEPT_ATTEMPTS = 20_000
_KEPT_BODY_BYTES = 8_192
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


class SeenAttempt(msgspec.Struct, kw_only=True):
    """One POST, from the moment its body has arrived whole. Changes until its outcome is known.

    Many attributes: one for each fact that `GET /_sim/attempts` tells.
    """

    n: int
    request_id: str | None
    attempt_id: str | None
    path: str
    headers: dict[str, str]
    model: str | None = None
    stream: bool = False
    outcome: str = "running"
    status: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    usage_sent: bool = False
    ttft_ms: float | None = None
    finished_after_ms: float | None = None
    disconnected_after_ms: float | None = None
    body_bytes: int = 0
    body_sha256: str = ""
    body_truncated: bool = False

    @property
    def is_running(self) -> bool:
        return self.outcome == "running"


class _Kept(msgspec.Struct):
    attempt: SeenAttempt
    body: bytes
    received_at: float


class AttemptLog:
    """The last 20,000 attempts in order, with the first 8 KB of each body. Times are in milliseconds."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque(maxlen=_KEPT_ATTEMPTS)
        self._count = 0

    def register(self, path: str, headers: Sequence[Header], body: bytes) -> "Recorder":
        self._count += 1
        readable = _readable(headers)
        attempt = SeenAttempt(
            n=self._count,
            request_id=readable.get("x-request-id"),
            attempt_id=readable.get("x-tollway-attempt"),
            path=path,
            headers=readable,
            body_bytes=len(body),
            body_sha256=hashlib.sha256(body).hexdigest(),
            body_truncated=len(body) > _KEPT_BODY_BYTES,
        )
        kept = _Kept(attempt=attempt, body=body[:_KEPT_BODY_BYTES], received_at=time.monotonic())
        self._kept.append(kept)
        return Recorder(attempt, kept.received_at)

    def list(self, contains: str | None = None) -> list[SeenAttempt]:
        """All attempts, or those whose body holds the text, as it was sent or once its JSON is decoded."""
        return [kept.attempt for kept in self._kept if contains is None or _holds(kept.body, contains)]

    def clear(self) -> None:
        self._kept.clear()


class Recorder:
    """Writes the course of one attempt. The first outcome stands."""

    def __init__(self, attempt: SeenAttempt, received_at: float) -> None:
        self.attempt = attempt
        self.received_at = received_at

    def first_token(self) -> float:
        """Seconds since the request arrived."""
        seconds = time.monotonic() - self.received_at
        self.attempt.ttft_ms = round(seconds * 1000, 3)
        return seconds

    def finish(self, outcome: str) -> None:
        if self.attempt.is_running:
            self.attempt.outcome = outcome
            self.attempt.finished_after_ms = self._elapsed_ms()

    def disconnected(self) -> None:
        """The client left. An injected fault keeps its name: there the client could only leave."""
        if self.attempt.disconnected_after_ms is None:
            self.attempt.disconnected_after_ms = self._elapsed_ms()
        self.finish("disconnected")

    def _elapsed_ms(self) -> float:
        return round((time.monotonic() - self.received_at) * 1000, 3)


def _readable(headers: Sequence[Header]) -> dict[str, str]:
    readable = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    if "authorization" in readable:  # enough to see whose key came, not enough to use it
        key = readable["authorization"].rpartition(" ")[2]
        readable["authorization"] = f"...{key[-4:]}" if len(key) > 8 else "..."
    return readable


def _holds(body: bytes, text: str) -> bool:
    raw = body.decode("utf-8", errors="replace")
    if text in raw:
        return True
    try:
        document = json.loads(raw)
    except ValueError:  # cut at 8 KB, or no JSON at all
        return text in _unescaped(raw)
    return any(text in part for part in _strings(document))


def _unescaped(raw: str) -> str:
    joined = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), raw)
    joined = joined.encode("utf-16", "surrogatepass").decode(
        "utf-16", "replace"
    )  # pairs become one character
    return joined.replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"').replace("\\/", "/")


def _strings(document: Any) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, list):
        for item in document:
            yield from _strings(item)
    elif isinstance(document, dict):
        for name, value in document.items():
            yield name
            yield from _strings(value)
