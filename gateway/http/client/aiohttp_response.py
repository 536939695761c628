"""One answer of the aiohttp client, behind `UpstreamResponse`."""

import asyncio

from aiohttp import ClientResponse

from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.aiohttp_errors import translated
from gateway.http.client.aiohttp_parts import Exchange
from gateway.http.client.decoding import BodyDecoder
from gateway.http.client.parser import HEAD_LIMIT_BYTES, coding_of, without_coding
from gateway.http.client.request_head import is_name
from gateway.http.client.response import ABORTED, ExchangeFailure


class AiohttpResponse:
    """Implements `UpstreamResponse`. Raises UpstreamFailure(PROTOCOL) for a head that is not acceptable."""

    def __init__(self, answer: ClientResponse, exchange: Exchange) -> None:
        headers = [(name.lower(), value) for name, value in answer.raw_headers]
        _check_head(answer, headers)
        self.status = answer.status
        self.peer = exchange.peer
        self._answer = answer
        self._exchange = exchange
        self._failure: ExchangeFailure | None = None
        self._collected_at = 0.0
        self._waiting = False
        bodyless = answer.method == "HEAD" or answer.status in (204, 304)
        encodings = b",".join(value for name, value in headers if name == b"content-encoding")
        coding = None if bodyless else coding_of(encodings)
        self.headers = headers if coding is None else without_coding(headers)
        self._decoder = None if coding is None else BodyDecoder(coding)
        self._watch = asyncio.get_running_loop().call_at(exchange.total, self._expire)
        answer.content.on_eof(self._watch.cancel)

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body in at most `limit_bytes`. Raises UpstreamFailure; kind BODY when it is larger."""
        pieces = []
        size = 0
        while piece := await self.next_chunk():
            size += len(piece)
            if size > limit_bytes:
                self.abort()
                raise UpstreamFailure(FailureKind.BODY, f"response body larger than {limit_bytes} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def next_chunk(self) -> bytes:
        """Body bytes that have arrived, at least one; b"" at the end. Raises UpstreamFailure."""
        if self._decoder is None:
            return await self._arrived()
        try:
            while not (decoded := self._decoder.pull()):
                compressed = await self._arrived()
                if not compressed:
                    self._decoder.finish()
                    return b""
                self._decoder.push(compressed)
        except UpstreamFailure:
            self.abort()
            raise
        return decoded

    def abort(self) -> None:
        """Close the connection at once; buffered bytes are dropped."""
        self._end(ABORTED)

    def _end(self, failure: ExchangeFailure) -> None:
        if self._failure is None:
            self._failure = failure
            self._watch.cancel()
            if not self._answer.closed:
                self._exchange.abort()
            self._answer.close()

    async def _arrived(self) -> bytes:
        if self._failure is not None:
            raise self._failure.error()
        if self._waiting:
            raise RuntimeError("two readers of one response")
        self._waiting = True
        due, kind = self._deadline()
        try:
            async with asyncio.timeout_at(due):
                data = await self._answer.content.readany()
        except TimeoutError as error:
            self._end(ExchangeFailure(kind, f"no byte of the body in time, {self.peer}", error))
            raise self._failure_or_aborted().error() from error
        except Exception as error:
            failure = translated(error, connected=True)
            self._end(ExchangeFailure(failure.kind, failure.detail, error))
            raise self._failure_or_aborted().error() from error
        except BaseException:
            self.abort()
            raise
        finally:
            self._waiting = False
        self._collected_at = asyncio.get_running_loop().time()
        return data

    def _failure_or_aborted(self) -> ExchangeFailure:
        return self._failure or ABORTED

    def _deadline(self) -> tuple[float, FailureKind]:
        handler = self._exchange.handler
        last_byte_at = 0.0 if handler is None else handler.last_byte_at
        quiet_since = max(last_byte_at, self._collected_at)
        due = quiet_since + self._exchange.timeouts.between_bytes_seconds
        if self._exchange.total <= due:
            return self._exchange.total, FailureKind.TOTAL_TIMEOUT
        return due, FailureKind.BETWEEN_BYTES_TIMEOUT

    def _expire(self) -> None:
        self._end(ExchangeFailure(FailureKind.TOTAL_TIMEOUT, f"not complete in time, {self.peer}"))


def _check_head(answer: ClientResponse, headers: list[tuple[bytes, bytes]]) -> None:
    """What aiohttp lets through. Raises UpstreamFailure(PROTOCOL)."""
    if sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_LIMIT_BYTES:
        raise _refused(f"response header larger than {HEAD_LIMIT_BYTES} bytes")
    if not all(is_name(name) for name, _ in headers):
        raise _refused("malformed header name")
    if not 200 <= answer.status < 600:
        raise _refused(f"status {answer.status:03d} cannot answer this request")
    version = answer.version
    if version is None or tuple(version) not in ((1, 0), (1, 1)):
        raise _refused("the answer is not HTTP/1.1")
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    lengths = sum(name == b"content-length" for name, _ in headers)
    if codings and (codings != [b"chunked"] or lengths or tuple(version) == (1, 0)):
        raise _refused("transfer-encoding other than one plain `chunked`")
    if lengths > 1:
        raise _refused("more than one content-length")


def _refused(problem: str) -> UpstreamFailure:
    return UpstreamFailure(FailureKind.PROTOCOL, problem)
