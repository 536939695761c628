"""A gateway under mixed traffic and recurring faults for as long as you like, and what became of it.

    make soak ARGS="--minutes 60 --rate 100 --json soak.json"

Exit 1 where memory, descriptors, metric series or tasks grow, or where a row is missing, twice or wrong.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import uvloop

from tests.chaos.books import Books, Shared, read_rows
from tests.chaos.gateways import GatewayProcess, SharedState, Upstream, running_gateways, upstreams
from tests.chaos.load import Load
from tests.chaos.run import at_rest, read_shared, usage_nano
from tests.chaos.scenario import Services, Terms, limits
from tests.soak.faults import RecurringFaults
from tests.soak.report import Report, lines_of, text, warm_up_seconds
from tests.soak.sampling import Sampler
from tests.soak.traffic import mixed_request

_EVENT = re.compile(r'"event": "([^"]+)"')
UNBOUNDED = 10**12
FEWEST_SAMPLES, INTERVAL_SECONDS = 40, 10.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `rate` in requests a second."""

    folder: Path
    minutes: float = 20.0
    rate: float = 60.0
    connections: int = 32
    fault_seconds: float = 30.0
    admission: str = "leased"
    seed: int = 0

    @property
    def seconds(self) -> float:
        return self.minutes * 60

    @property
    def expected_requests(self) -> int:
        return max(int(self.seconds * self.rate), 1)


async def soak(options: Options) -> Report:
    """Run it all. Raises TimeoutError when it does not come to rest."""
    async with upstreams(options.folder) as simulators, _shared_state(options.folder / "state") as state:
        services = Services(
            state=state.url,
            ledger=f"sqlite:///{options.folder / 'ledger.db'}",
            journal=options.folder / "journal",
            hosted=simulators[0].url,
            pool=[simulator.url for simulator in simulators[1:]],
        )
        # Budgets as large as the whole load: a soak that is refused for money soaks nothing.
        terms = Terms(requests=3 * options.expected_requests, admission=options.admission, lease_seconds=5.0)
        async with running_gateways(1, options.folder, services, terms) as [gateway]:
            load = Load(
                *([gateway.address], UNBOUNDED, options.connections, options.seed),
                rate=options.rate,
                make_request=mixed_request,
            )
            faults = RecurringFaults(gateway, state, simulators, options.fault_seconds, options.seed)
            sampler = Sampler(gateway, min(INTERVAL_SECONDS, options.seconds / FEWEST_SAMPLES))
            seconds = await _run(load, faults, sampler, options.seconds)
            await at_rest([gateway], state.url)
            shared, usage = read_shared(state.url), await usage_nano(gateway.config)
        await asyncio.gather(*(simulator.stop() for simulator in simulators))
        books = _books(simulators, services, terms, load, shared, usage)
    return _report(load, faults, sampler, books, gateway, seconds)


@asynccontextmanager
async def _shared_state(folder: Path) -> AsyncIterator[SharedState]:
    state = SharedState(folder)
    await state.start()
    try:
        yield state
    finally:
        state.stop()


async def _run(load: Load, faults: RecurringFaults, sampler: Sampler, seconds: float) -> float:
    """Seconds under load. What is going wrong at the end is over when this returns."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(sampler.run())
        failing = group.create_task(faults.run())
        loading = group.create_task(load.run())
        await asyncio.wait({loading, failing, sampling}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        load.enough = True
        await faults.stop(failing)
        sampling.cancel()
    return time.monotonic() - began


def _books(
    simulators: Sequence[Upstream],
    services: Services,
    terms: Terms,
    load: Load,
    shared: Shared,
    usage: int,
) -> Books:
    seen = {"gpt-4o": simulators[0].seen(), "scout": [item for one in simulators[1:] for item in one.seen()]}
    books = Books(seen, read_rows(services.ledger), limits(terms.requests))
    books.check_answers(load.answered)
    books.check_at_rest(shared, exactly=True)
    books.check_usage(usage)
    return books


def _report(
    load: Load,
    faults: RecurringFaults,
    sampler: Sampler,
    books: Books,
    gateway: GatewayProcess,
    seconds: float,
) -> Report:
    return Report(
        seconds=seconds,
        warm_up_seconds=warm_up_seconds(seconds),
        requests=load.sent,
        statuses=dict(load.statuses),
        disconnects=load.disconnects,
        broken_connections=load.broken,
        faults=dict(faults.happened),
        attempts=len(books.seen),
        rows=len(books.rows),
        disagreements=books.problems,
        logged_errors=dict(Counter(map(_event, gateway.complaints()))),
        lines=lines_of(sampler.samples, seconds),
        samples=sampler.samples,
    )


def _event(line: str) -> str:
    found = _EVENT.search(line)
    return found[1] if found else line


def run(options: Options) -> Report:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(soak(options))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak")
    for name, usual in (("minutes", 20.0), ("rate", 60.0), ("fault-seconds", 30.0)):
        parser.add_argument(f"--{name}", type=float, default=usual)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--admission", choices=("exact", "leased"), default="leased")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--json", type=Path, help="also write the report there, with every sample")
    given = vars(parser.parse_args())
    path = given.pop("json")
    with tempfile.TemporaryDirectory(prefix="tollway-soak-") as folder:
        report = run(Options(folder=Path(folder), **given))
    print(text(report))
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    sys.exit(1 if report.is_broken else 0)


if __name__ == "__main__":
    main()
