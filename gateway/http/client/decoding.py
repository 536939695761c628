"""Compressed bodies that nobody asked for: decoded in bounded steps, because usage must be read."""

import zlib

from gateway.core.errors import FailureKind, UpstreamFailure

STEP_BYTES = 256 * 1024
_GZIP_WBITS = 16 + zlib.MAX_WBITS


class BodyDecoder:
    """Incremental gzip or deflate. One call returns at most STEP_BYTES, whatever the ratio of the input."""

    __slots__ = ("_coding", "_inflate", "_input")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._input = b""
        self._inflate: zlib._Decompress | None = None

    def push(self, compressed: bytes) -> None:
        """Add input; memory grows by its compressed size only."""
        self._input += compressed

    def pull(self) -> bytes:
        """Next output; b"" when more input is needed. Raises UpstreamFailure(PROTOCOL)."""
        if self._inflate is None:
            if len(self._input) < 2:
                return b""
            self._inflate = zlib.decompressobj(self._window_bits())
        while self._input:
            if self._inflate.eof:
                self._inflate = self._next_member()
            output = self._step(self._inflate)
            if output:
                return output
        # All input can be taken in while output still waits inside zlib.
        return b"" if self._inflate.eof else self._step(self._inflate)

    def finish(self) -> None:
        """No more input will come. Raises UpstreamFailure(PROTOCOL) when the stream is cut short."""
        cut_short = self._input if self._inflate is None else not self._inflate.eof
        if cut_short:
            raise UpstreamFailure(FailureKind.PROTOCOL, f"{self._coding} body ends early")

    def _window_bits(self) -> int:
        if self._coding == "gzip":
            return _GZIP_WBITS
        # Some servers send raw deflate under this name; a zlib header is known by its first two bytes.
        first, second = self._input[:2]
        has_zlib_header = first & 0x0F == 8 and (first << 8 | second) % 31 == 0
        return zlib.MAX_WBITS if has_zlib_header else -zlib.MAX_WBITS

    def _next_member(self) -> "zlib._Decompress":
        if self._coding != "gzip":
            raise UpstreamFailure(FailureKind.PROTOCOL, "bytes after the end of the deflate body")
        return zlib.decompressobj(_GZIP_WBITS)

    def _step(self, inflate: "zlib._Decompress") -> bytes:
        try:
            output = inflate.decompress(self._input, STEP_BYTES)
        except zlib.error as error:
            raise UpstreamFailure(FailureKind.PROTOCOL, f"broken {self._coding} body") from error
        self._input = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        return output
