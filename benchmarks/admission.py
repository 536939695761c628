"""What an admission costs: memory, Redis exact and Redis leased, over key, feature, team and org.

    python -m benchmarks.admission [--seconds 3] [--concurrency 64] [--url redis://...]

Each subject admits and settles from `concurrency` tasks, in short turns one after another, so that whatever
else the machine does meets all of them alike. `redis-py` calls the same function through redis-py's asyncio
client: the reason why the adapter writes its own bytes (docs/decisions/0017).
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from zoneinfo import ZoneInfo

import redis.asyncio
import uvloop

from gateway.clock import SystemClock
from gateway.core.admission import Ask, Settlement
from gateway.core.windows import Per
from gateway.quota.memory import MemoryAdmission
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.client import RedisClient, Timing
from gateway.quota.redis.leased import LeasedAdmission
from gateway.quota.redis.scripts import Scripts
from gateway.quota.redis.shared_counters import SharedCounters, share_counters
from gateway.quota.redis.specs import packed_ask
from tests.core.builders import ask, principal, scope
from tests.quota.valkey_server import valkey_server

UTC = ZoneInfo("UTC")
MUCH = 10**15
TURN_SECONDS = 0.25
USED = Settlement(spent_nano=1_000, rate_tokens=600)

SCOPES = [
    scope(
        kind,
        kind,
        requests=60_000_000,
        tokens=10**11,
        concurrent=20_000,
        budgets={Per.DAY: MUCH, Per.MONTH: MUCH},
    )
    for kind in ("key", "feature", "team", "org")
]
PAYER = principal(*SCOPES)

Request = Callable[[], Awaitable[None]]


async def load(request: Request, concurrency: int, seconds: float) -> tuple[int, float, list[float]]:
    """Requests done, CPU seconds of this process, and a sample of latencies in seconds."""
    until = time.perf_counter() + seconds
    done, waits = 0, []

    async def client() -> None:
        nonlocal done
        while (started := time.perf_counter()) < until:
            await request()
            done += 1
            if done % 64 == 0:
                waits.append(time.perf_counter() - started)
            # A real request waits for its upstream, and others run meanwhile.
            await asyncio.sleep(0)

    cpu = time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return done, time.process_time() - cpu, waits


def through(store: Any, given: Ask) -> Request:
    async def request() -> None:
        store.settle(await store.admit(given), USED)

    return request


async def subjects(url: str) -> tuple[dict[str, Request], list[Any]]:
    clock = SystemClock()
    given = ask(PAYER)
    memory = MemoryAdmission(clock)
    memory.configure(SCOPES, UTC)
    counters, leased_counters = (
        share_counters(RedisClient(parse_target(url), org, Scripts(), Timing(reply_seconds=1.0)), clock, UTC)
        for org in ("bench-exact", "bench-leased")
    )
    exact = RedisAdmission(counters, clock, quarantine_seconds=0.0)
    behind = RedisAdmission(leased_counters, clock, quarantine_seconds=0.0)
    leased = LeasedAdmission(behind, leased_counters, clock)
    for store in (exact, leased):
        store.configure(SCOPES, UTC)
        await store.start()
    while exact.problem() or leased.problem():
        await asyncio.sleep(0.01)
    client = redis.asyncio.Redis.from_url(url)
    called = itself(counters, given)

    async def by_redis_py() -> None:
        await client.execute_command(*called())

    stores = {"memory": memory, "exact": exact, "leased": leased}
    requests = {name: through(store, given) for name, store in stores.items()}
    return requests | {"redis-py": by_redis_py}, [exact, leased, client]


def itself(counters: SharedCounters, given: Ask) -> Callable[[], list[Any]]:
    """The arguments of an admit for another client; nothing settles these, so they are admits only."""
    holds, spec = counters.holds, counters.cache.spec(PAYER)
    head = counters.client._heads["admit"]
    return lambda: [
        *head,
        holds.epoch,
        spec.packed,
        packed_ask(given, holds.next_id(), 30_000_000, given.output_tokens),
    ]


async def measure(url: str, seconds: float, concurrency: int) -> list[dict[str, object]]:
    requests, owned = await subjects(url)
    rounds: dict[str, list[tuple[int, float, list[float]]]] = {name: [] for name in requests}
    # Leases are sized by what a full second needed, so leased gets to know its load first.
    await load(requests["leased"], concurrency, 2.5)
    for _ in range(max(int(seconds / TURN_SECONDS), 1)):
        for name, request in requests.items():
            if name == "leased":
                await load(request, concurrency, TURN_SECONDS)
            rounds[name].append(await load(request, concurrency, TURN_SECONDS))
    for item in owned:
        await (item.aclose() if hasattr(item, "aclose") else item.close())
    rows = []
    for name, turns in rounds.items():
        waits = sorted(wait for _, _, sample in turns for wait in sample)
        done = sum(count for count, _, _ in turns)
        rows.append(
            {
                "subject": name,
                "requests_per_second": round(done / len(turns) / TURN_SECONDS),
                "cpu_us": round(sum(cpu for _, cpu, _ in turns) / done * 1e6, 1),
                "p50_us": round(waits[len(waits) // 2] * 1e6),
                "p99_us": round(waits[int(len(waits) * 0.99)] * 1e6),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--url")
    given = parser.parse_args()

    def report(url: str) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for row in runner.run(measure(url, given.seconds, given.concurrency)):
                print(json.dumps(row))

    if given.url is not None:
        report(given.url)
        return
    with valkey_server() as server:
        report(server.url)


if __name__ == "__main__":
    main()
