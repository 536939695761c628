"""Bytes of bodies that are held: counted from the first one, bounded, and given back on every way out."""

import asyncio
import gzip
from typing import Any

import pytest

from gateway.core.errors import LimitExceeded, Unavailable
from gateway.http.server.body_bytes import COUNTED_BYTES, DRAINED_BYTES, BodyBytes, HeldBody
from gateway.http.server.exchange import Exchange
from gateway.http.server.limits import RequestTimeout

MOST, OF_KEY = 1_000_000, 600_000


class Flow:
    """The part of a connection that an exchange asks for its body."""

    def resume_reading(self) -> None:
        pass


def made(held: BodyBytes, **headers: str) -> Exchange:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    flow: Any = Flow()
    fields: Any = None
    return Exchange(flow, fields, "POST", "/", b"", named, False, True, held)


def bounded() -> BodyBytes:
    return BodyBytes(MOST, OF_KEY)


async def test_a_body_is_counted_from_its_first_byte_to_the_end_of_its_request() -> None:
    held = bounded()
    exchange = made(held)
    exchange.feed(b"x" * COUNTED_BYTES)
    assert held.held == 0  # so small a body is not worth it
    exchange.feed(b"x")
    assert held.held == COUNTED_BYTES + 1
    exchange.finish()
    assert len(await exchange.body(MOST, "app")) == COUNTED_BYTES + 1
    assert held.held_of("app") == held.held == COUNTED_BYTES + 1
    exchange.release()
    exchange.release()
    assert held.held_of("app") == held.held == 0


async def test_one_key_may_hold_a_part_and_others_the_rest() -> None:
    held = bounded()
    exchanges = [made(held) for _ in range(3)]
    for exchange in exchanges:
        exchange.feed(b"x" * 320_000)
        exchange.finish()
    await exchanges[0].body(MOST, "greedy")
    with pytest.raises(LimitExceeded) as refused:
        await exchanges[1].body(MOST, "greedy")
    assert (refused.value.scope, refused.value.limit) == ("key:greedy", "body_bytes")
    assert refused.value.retry_after_seconds == 1.0
    await exchanges[2].body(MOST, "other")
    assert held.held == 640_000  # what was refused is held no longer
    for exchange in exchanges:
        exchange.release()
    assert held.held == held.held_of("greedy") == held.held_of("other") == 0


async def test_the_process_holds_no_more_than_it_may_and_reads_no_further() -> None:
    held = bounded()
    first, second = made(held), made(held)
    waiting = [asyncio.create_task(one.body(2 * MOST, name)) for one, name in ((first, "a"), (second, "b"))]
    await asyncio.sleep(0)
    for _ in range(20):
        first.feed(b"x" * 30_000)
        second.feed(b"x" * 30_000)
    with pytest.raises(Unavailable) as refused:
        await waiting[1]
    assert refused.value.status == 503
    assert held.held == 600_000
    first.finish()
    assert len(await waiting[0]) == 600_000
    first.release()
    assert held.held == 0


async def test_a_body_that_never_comes_whole_is_given_back() -> None:
    held = bounded()
    exchange = made(held)
    exchange.feed(b"x" * 100_000)
    exchange.fail(RequestTimeout("late"))
    assert held.held == 0
    with pytest.raises(RequestTimeout):
        await exchange.body(MOST, "app")
    exchange.client_gone()
    exchange.release()
    assert held.held == 0


async def test_what_comes_out_of_a_compressed_body_counts_as_well() -> None:
    held = bounded()
    compressed = gzip.compress(bytes(400_000))
    exchange = made(held, content_encoding="gzip")
    exchange.feed(compressed)
    exchange.finish()
    assert len(await exchange.body(MOST, "app")) == 400_000
    assert held.held_of("app") == held.held == 400_000 + len(compressed)
    second = made(held, content_encoding="gzip")
    second.feed(compressed)
    second.finish()
    with pytest.raises(LimitExceeded):
        await second.body(MOST, "app")
    for one in (exchange, second):
        one.release()
    assert held.held == held.held_of("app") == 0


def test_bodies_without_a_byte_belong_to_nobody() -> None:
    held = bounded()
    bodies = [HeldBody(), HeldBody()]
    for body in bodies:
        held.belong(body, "app")
    for body in bodies:
        held.close(body)
    assert held.held_of("app") == 0


def test_it_is_told_when_most_of_many_bytes_are_gone() -> None:
    told: list[int] = []
    held = BodyBytes(10 * DRAINED_BYTES, 10 * DRAINED_BYTES, lambda: told.append(held.held))
    bodies = [HeldBody() for _ in range(4)]
    held.grow(bodies[0], DRAINED_BYTES // 2)
    held.close(bodies[0])
    assert told == []
    for body in bodies[1:]:
        held.grow(body, DRAINED_BYTES)
    for body in bodies[1:]:
        held.close(body)
    assert told == [0]
