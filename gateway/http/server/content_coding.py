"""Bodies of requests that came compressed: gzip, deflate, zstd and br.

Rules:
- What comes out is bounded while it is made, in steps: a small body cannot become a large one in memory.
- A body is whole or refused: cut off, damaged, or with bytes behind its end, it is not guessed at.
- One coding: whoever stacks several has something else in mind than to save bytes.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import brotli
import zstandard

from gateway.core.errors import InvalidRequest, PayloadTooLarge
from gateway.http.server.limits import CODINGS, UnknownCoding

MIB = 1024 * 1024
# Input of one step, by what can come out of it: deflate makes a thousand bytes of one, zstd 128 KiB of four.
INFLATE_STEP_BYTES = 2048
ZSTD_STEP_BYTES = 256
BROTLI_STEP_BYTES = 64 * 1024  # this one bounds its output by itself
# RFC 9659: what a recipient of zstd over HTTP has to be able to keep, and all that a sender may ask for.
ZSTD_WINDOW_BYTES = 8 * MIB
MOST_PARTS = 1024
_GZIP = 16 + zlib.MAX_WBITS
_BROKEN = (zlib.error, brotli.error, zstandard.ZstdError, EOFError)


class _Decoder(Protocol):
    """One member or frame: `unused_data` is what stood behind its end in the last input."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes | bytearray, /) -> bytes: ...


def decompressed(
    coding: bytes, body: bytes | bytearray, limit_bytes: int, hold: Callable[[int], None]
) -> bytes | bytearray:
    """`body`, which the header content-encoding calls `coding`, as it was before.

    `hold` is told how large it is, each time it has grown, and raises where that is too much. Raises
    PayloadTooLarge beyond `limit_bytes`, UnknownCoding, and InvalidRequest for a damaged body.
    """
    name = coding.strip().lower()
    if name in (b"", b"identity"):
        return body
    decode = _DECODERS.get(name)
    if decode is None:
        raise UnknownCoding(f"A body may be coded as {CODINGS}, or not at all.")
    found = bytearray()
    try:
        for piece in decode(body):
            found += piece
            if len(found) > limit_bytes:
                raise PayloadTooLarge(
                    f"The request body is larger than the limit of {limit_bytes // MIB} MiB, decompressed."
                )
            hold(len(found))
    except _BROKEN as exc:
        raise InvalidRequest(
            f"The body is not whole, or is not what content-encoding says ({name.decode()}).",
            code="invalid_content_encoding",
        ) from exc
    return found


def _in_parts(
    body: bytes | bytearray, new_decoder: Callable[[], _Decoder], step_bytes: int
) -> Iterator[bytes]:
    """The output of members or frames that follow each other, made from `step_bytes` of input at a time."""
    at = 0
    for _ in range(MOST_PARTS):
        decoder = new_decoder()
        while not decoder.eof:
            step = body[at : at + step_bytes]
            if not step:
                raise EOFError("cut off")
            at += len(step)
            yield decoder.decompress(step)
        at -= len(decoder.unused_data)
        if at == len(body):
            return
    raise EOFError("more parts than a client has reason to make")


def _gunzipped(body: bytes | bytearray) -> Iterator[bytes]:
    return _in_parts(body, lambda: zlib.decompressobj(_GZIP), INFLATE_STEP_BYTES)


def _inflated(body: bytes | bytearray) -> Iterator[bytes]:
    return _in_parts(body, zlib.decompressobj, INFLATE_STEP_BYTES)


def _unzstded(body: bytes | bytearray) -> Iterator[bytes]:
    zstd = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    return _in_parts(body, lambda: zstd.decompressobj(read_across_frames=False), ZSTD_STEP_BYTES)


def _unbrotlied(body: bytes | bytearray) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    while not decoder.is_finished():
        piece = decoder.process(body, output_buffer_limit=BROTLI_STEP_BYTES)
        body = b""
        if not piece and not decoder.is_finished():
            raise EOFError("cut off")
        yield piece


_DECODERS: Mapping[bytes, Callable[[bytes | bytearray], Iterator[bytes]]] = {
    b"gzip": _gunzipped,
    b"x-gzip": _gunzipped,
    b"deflate": _inflated,
    b"zstd": _unzstded,
    b"br": _unbrotlied,
}
