"""One answer of an upstream: the connection puts bytes in, the reader takes them out."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.decoding import BodyDecoder
from gateway.ports import Headers


class ExchangeFailure(NamedTuple):
    """Why an exchange ended; an exception is made of it for each call that has to raise."""

    kind: FailureKind
    detail: str
    cause: BaseException | None = None

    def error(self, *, stale: bool = False) -> UpstreamFailure:
        error = UpstreamFailure(self.kind, self.detail, stale=stale)
        error.__cause__ = self.cause
        return error


ABORTED = ExchangeFailure(FailureKind.RESET, "aborted by the gateway")


class ResponseSource(Protocol):
    """What a response needs of the connection that it comes from."""

    peer: str
    paused: bool

    def collected(self) -> None:
        """The reader took what had been waiting for it."""

    def fail(self, failure: ExchangeFailure) -> None:
        """End the exchange, and the connection with it."""


class HttpResponse:
    """Implements `UpstreamResponse`. `status` is 0 until the head is there.

    `connection` is None once the body is complete, failed or aborted: then only buffered bytes are left.
    """

    __slots__ = (
        "_loop",
        "complete",
        "connection",
        "decoder",
        "failure",
        "headers",
        "parts",
        "peer",
        "status",
        "taker",
        "waiter",
    )

    def __init__(self, connection: ResponseSource, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.peer = connection.peer
        self.connection: ResponseSource | None = connection
        self.parts: list[bytes] = []
        self.complete = False
        self.decoder: BodyDecoder | None = None
        self.failure: ExchangeFailure | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.taker: Callable[[bytes], bool] | None = None
        self._loop = loop

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body in at most `limit_bytes`. Raises UpstreamFailure; kind BODY when it is larger."""
        if self.complete and self.decoder is None:
            parts = self.parts
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if len(body) > limit_bytes:
                raise self._too_large(limit_bytes)
            return body
        pieces = []
        size = 0
        while piece := await self.next_chunk():
            size += len(piece)
            if size > limit_bytes:
                raise self._too_large(limit_bytes)
            pieces.append(piece)
        return b"".join(pieces)

    async def next_chunk(self) -> bytes:
        """Body bytes that have arrived, at least one; b"" at the end. Raises UpstreamFailure."""
        if self.decoder is not None:
            return await self._next_decoded(self.decoder)
        if not self.parts:
            if self.complete:
                return b""
            await self._arrival()
            if self.connection is not None and self.connection.paused:
                self.connection.collected()
        elif self.connection is not None:
            self.connection.collected()
        return self._take()

    def tap(self, take: Callable[[bytes], bool]) -> None:
        """Offer to `take` what arrives while `next_chunk` waits; it says whether it took all of it."""
        if self.decoder is None:
            self.taker = take

    @property
    def is_awaited(self) -> bool:
        """See `UpstreamResponse.is_awaited`."""
        return self.waiter is not None

    def break_off(self, kind: FailureKind, detail: str) -> None:
        """See `UpstreamResponse.break_off`."""
        if self.connection is not None:
            self.connection.fail(ExchangeFailure(kind, f"{detail}, {self.peer}"))

    def abort(self) -> None:
        """Close the connection at once, unless the body is complete; buffered bytes are dropped."""
        self.parts.clear()
        self.taker = None
        if self.connection is not None:
            self.connection.fail(ABORTED)
        elif self.failure is None:
            self.complete = False  # a later read must not take the empty buffer for the end of the body
            self.failure = ABORTED

    async def _arrival(self) -> None:
        """Wait until bytes are buffered or the body is complete. Raises UpstreamFailure."""
        if self.failure is None:
            if self.waiter is not None:
                raise RuntimeError("two readers of one response")
            self.waiter = waiter = self._loop.create_future()
            try:
                await waiter
            except BaseException:
                self.abort()
                raise
        if not self.parts:
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure.error()

    async def _next_decoded(self, decoder: BodyDecoder) -> bytes:
        while True:
            try:
                decoded = decoder.pull()
                if decoded:
                    return decoded
                if not self.parts and self.complete:
                    decoder.finish()
                    return b""
            except UpstreamFailure:
                self.abort()
                raise
            if not self.parts:
                await self._arrival()
            if self.connection is not None:
                self.connection.collected()
            decoder.push(self._take())

    def _take(self) -> bytes:
        parts = self.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return body

    def _too_large(self, limit_bytes: int) -> UpstreamFailure:
        self.abort()
        return UpstreamFailure(FailureKind.BODY, f"response body larger than {limit_bytes} bytes")
