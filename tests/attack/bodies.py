"""Bodies that cost more than their bytes. Others are asked meanwhile, and must not notice."""

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable, Iterator

import httpx

from tests.attack.case import Case, Victim, expect

MIB = 1024 * 1024
# The loop may be held for 50 ms. What a shared machine adds to one exchange is allowed for.
STALL_SECONDS = 0.25
PROBE_SECONDS = 0.01


def _filled(unit: bytes, size: int) -> bytes:
    """An innocent request with a member that has `size` bytes of `unit`."""
    head = b'{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"x":['
    return head + unit * (size // (len(unit) + 1)) + b"0]}"


BODIES = {
    **{f"{size} MiB of []": _filled(b"[],", size * MIB) for size in (1, 4, 16)},
    "16 MiB of {}": _filled(b"{},", 16 * MIB),
    "16 MiB of numbers": _filled(b"1,", 16 * MIB),
    "8 MiB of floats": _filled(b"1e9,", 8 * MIB),
    "8 MiB of names": b'{"model":"gpt-4o","messages":[{"role":"user","content":"a"}]'
    + b"".join(b',"k%d":0' % number for number in range(8 * MIB // 12))
    + b"}",
    "nested 100,000 deep": b'{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"x":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}",
    "100,000 messages": b'{"model":"gpt-4o","messages":['
    + b'{"role":"user","content":"a"},' * 100_000
    + b'{"role":"user","content":"a"}]}',
    "a number of a million digits": b'{"model":"gpt-4o","messages":[],"seed":' + b"9" * 1_000_000 + b"}",
    "16 MiB of escapes": b'{"model":"gpt-4o","messages":[{"role":"user","content":"'
    + b"\\u0040" * (16 * MIB // 6)
    + b'"}]}',
}


async def _slowest_probe(victim: Victim, done: asyncio.Event) -> float:
    slowest = 0.0
    async with httpx.AsyncClient(timeout=60) as http:
        while not done.is_set():
            began = time.monotonic()
            await http.get(f"{victim.data_url}/v1/models", headers={"authorization": f"Bearer {victim.key}"})
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(PROBE_SECONDS)
    return slowest


def _bounded(body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> Callable[[Victim], Awaitable[None]]:
    async def run(victim: Victim) -> None:
        done = asyncio.Event()
        probing = asyncio.create_task(_slowest_probe(victim, done))
        try:
            answer = await victim.post(body, *headers)
        finally:
            done.set()
            slowest = await probing
        expect(answer.status_code < 500, f"answered with {answer.status_code}")
        expect(slowest < STALL_SECONDS, f"others waited {slowest * 1000:.0f} ms")

    return run


def _cases() -> Iterator[Case]:
    for name, body in BODIES.items():
        yield Case("JSON bombs", name, _bounded(body))
    zeros = gzip.compress(b'{"model":"gpt-4o","x":"' + b"0" * (200 * MIB) + b'"}')
    yield Case("JSON bombs", "gzip of 200 MiB", _bounded(zeros, (("content-encoding", "gzip"),)))


CASES = list(_cases())
