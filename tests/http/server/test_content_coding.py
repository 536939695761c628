"""Compressed bodies: read in every coding that is offered, bounded by what comes out, whole or refused."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest, PayloadTooLarge
from gateway.http.server.content_coding import (
    MIB,
    MOST_PARTS,
    ZSTD_STEP_BYTES,
    ZSTD_WINDOW_BYTES,
    decompressed,
)
from gateway.http.server.limits import CODINGS, UnknownCoding
from tests.http.server.server_stage import BODY_LIMIT, Stage, post

CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor(level=19).compress,
    "br": brotli.compress,
}
EACH = pytest.mark.parametrize("coding", CODERS)
LIMIT = 4 * MIB
# Nothing is measured against a clock: the machine may be busy.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def plain(coding: str, body: bytes, limit: int = LIMIT) -> bytes:
    return bytes(decompressed(coding.encode(), body, limit, lambda _: None))


@EACH
@UNHURRIED
@given(st.binary(max_size=5000))
def test_what_was_compressed_comes_back(coding: str, body: bytes) -> None:
    assert plain(coding, CODERS[coding](body)) == body


@EACH
def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(coding: str) -> None:
    for body in (b"a" * LIMIT, bytes(range(256)) * (LIMIT // 256)):
        assert plain(coding, CODERS[coding](body)) == body
        with pytest.raises(PayloadTooLarge) as caught:
            plain(coding, CODERS[coding](body + b"a"))
        assert "4 MiB" in caught.value.message


@EACH
def test_a_bomb_takes_little_more_memory_than_the_limit(coding: str) -> None:
    bomb = CODERS[coding](b"\0" * (256 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            plain(coding, bomb, MIB)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 40 * MIB


def test_blocks_of_zstd_that_repeat_one_byte_are_a_bomb_as_well() -> None:
    # 128 KiB each, of four bytes: the largest output that a step of input can have.
    block = ((128 * 1024) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    frame = zstandard.FRAME_HEADER + bytes([0x00, 0x58]) + block * 100_000
    assert ZSTD_STEP_BYTES // len(block) * 128 * 1024 <= 8 * MIB
    with pytest.raises(PayloadTooLarge):
        plain("zstd", frame)


def test_a_window_that_no_recipient_has_to_keep_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    coder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = coder.compress(b"a" * (ZSTD_WINDOW_BYTES + 1)) + coder.flush()
    with pytest.raises(InvalidRequest):
        plain("zstd", body, 64 * MIB)


@EACH
def test_a_body_that_is_cut_off_anywhere_is_refused(coding: str) -> None:
    whole = CODERS[coding](b'{"model": "auto", "n": 1}' * 20)
    for size in range(1, len(whole)):
        with pytest.raises(InvalidRequest) as caught:
            plain(coding, whole[:size])
        assert (caught.value.status, caught.value.code) == (400, "invalid_content_encoding")


@EACH
def test_bytes_behind_the_end_are_refused(coding: str) -> None:
    with pytest.raises(InvalidRequest):
        plain(coding, CODERS[coding](b"{}") + b"{}")


@EACH
@UNHURRIED
@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_body_or_a_refusal(coding: str, body: bytes) -> None:
    try:
        plain(coding, body)
    except (InvalidRequest, PayloadTooLarge):
        return


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_parts_that_follow_each_other_are_one_body_up_to_a_bound(coding: str) -> None:
    one = CODERS[coding](b"part ")
    assert plain(coding, one * 3) == b"part part part "
    assert plain(coding, one * MOST_PARTS) == b"part " * MOST_PARTS
    with pytest.raises(InvalidRequest):
        plain(coding, one * (MOST_PARTS + 1))


def test_no_coding_is_no_change_and_an_unknown_one_is_refused_with_those_that_are_known() -> None:
    assert plain("identity", b"{}") == plain("", b"{}") == b"{}"
    assert plain(" GZIP ", gzip.compress(b"{}")) == b"{}"
    for coding in ("compress", "gzip, br", "aws-chunked", "\xff"):
        with pytest.raises(UnknownCoding) as caught:
            decompressed(coding.encode("latin-1"), b"{}", LIMIT, lambda _: None)
        assert caught.value.status == 415
        assert caught.value.headers == ((b"accept-encoding", CODINGS.encode()),)


# --- on the wire ---


@EACH
async def test_a_handler_gets_the_body_as_it_was(stage: Stage, coding: str) -> None:
    body = b'{"model": "auto"}' * 10_000
    request = post("/echo", CODERS[coding](body), f"Content-Encoding: {coding}")
    assert (await stage.exchange(request)).body == body


@EACH
async def test_a_body_too_large_once_decompressed_is_a_413(stage: Stage, coding: str) -> None:
    request = post("/echo", CODERS[coding](b"a" * (BODY_LIMIT + 1)), f"Content-Encoding: {coding}")
    answer = await stage.exchange(request)
    assert answer.status == 413
    assert "decompressed" in answer.error()["message"]
    # All of it had arrived, so the connection is as good as before.
    assert not answer.closes
