"""The whole of it: a scenario, a load, faults, and the books afterwards.

    make chaos ARGS="--requests 200000 --seed 1 --ledger sqlite --admission exact"

Exit 1 when anything does not agree.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import redis
import uvloop

from tests.chaos.books import Books, Counter4, Shared, read_rows
from tests.chaos.faults import Counts, Faults
from tests.chaos.gateways import (
    GatewayProcess,
    SharedState,
    Upstream,
    environment,
    running_gateways,
    upstreams,
)
from tests.chaos.load import Load
from tests.chaos.scenario import ADMIN_TOKEN, ORG, Services, Terms, limits
from tests.ledger.postgres_server import postgres_server

GATEWAYS = 4
SETTLE_SECONDS = 60.0
PROGRESS_SECONDS = 10.0
KEYS = f"tollway:{{{ORG}}}:"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    requests: int = 200_000
    seed: int = 0
    seconds_limit: float = 600.0
    ledger: str = "sqlite"
    admission: str = "exact"
    lease_seconds: float = 5.0
    connections: int = 48
    folder: Path
    counts: Counts


def usual_counts(requests: int) -> Counts:
    """As many of each as let a run of 200,000 requests take some minutes."""
    return Counts(
        kills=max(requests // 4_000, 4),
        writer_kills=max(requests // 4_000, 4),
        terminations=max(requests // 20_000, 1),
        state_restarts=max(requests // 20_000, 2),
        state_losses=max(requests // 20_000, 2),
        weather_changes=max(requests // 2_000, 4),
    )


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was, in numbers, and all that did not agree."""

    options: Options
    seconds: float
    load: Load
    faults: Faults
    books: Books
    left: Shared
    presumed: int
    logged: list[str]

    @property
    def problems(self) -> list[str]:
        return self.books.problems


async def chaos(options: Options) -> Result:
    """Run it all. Raises TimeoutError when it does not come to rest."""
    async with ledger_url(options) as ledger, upstreams(options.folder) as simulators:
        state = SharedState(options.folder / "state")
        await state.start()
        try:
            services = Services(
                state=state.url,
                ledger=ledger,
                journal=options.folder / "journal",
                hosted=simulators[0].url,
                pool=[simulator.url for simulator in simulators[1:]],
            )
            return await _chaos(options, services, state, simulators)
        finally:
            state.stop()


async def _chaos(
    options: Options, services: Services, state: SharedState, simulators: Sequence[Upstream]
) -> Result:
    terms = Terms(requests=options.requests, admission=options.admission, lease_seconds=options.lease_seconds)
    async with running_gateways(GATEWAYS, options.folder, services, terms) as gateways:
        load = Load(
            [gateway.address for gateway in gateways], options.requests, options.connections, options.seed
        )
        faults = Faults(load, gateways, state, simulators, options.counts, options.seed)
        seconds = await _run_load(load, faults, options.seconds_limit)
        await at_rest(gateways, state.url)
        shared = read_shared(state.url)
        # The faults are over; what is forgotten now can only come from the ledger.
        await state.restart(signal.SIGKILL, down_seconds=0, lose=True)
        await rebuilt_everywhere(gateways, state.url)
        rebuilt = read_shared(state.url)
        usage = await usage_nano(gateways[0].config)
    await asyncio.gather(*(simulator.stop() for simulator in simulators))
    seen = {"gpt-4o": simulators[0].seen(), "scout": [item for s in simulators[1:] for item in s.seen()]}
    books = Books(seen, read_rows(services.ledger), limits(options.requests))
    books.check_answers(load.answered)
    books.check_at_rest(shared, exactly=not (options.counts.kills or options.counts.terminations))
    books.check_rebuilt(rebuilt)
    books.check_usage(usage)
    return Result(
        options=options,
        seconds=seconds,
        load=load,
        faults=faults,
        books=books,
        left=shared,
        presumed=books.outcomes["presumed"],
        logged=[line for gateway in gateways for line in gateway.complaints()],
    )


async def _run_load(load: Load, faults: Faults, seconds_limit: float) -> float:
    """Seconds until all requests were sent and the last thing that goes wrong is over."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        progress = asyncio.create_task(_report_progress(load, faults, began))
        group.create_task(faults.run())
        working = group.create_task(load.run())
        await asyncio.wait({working}, timeout=seconds_limit)
        load.enough = True
    progress.cancel()
    return time.monotonic() - began


async def _report_progress(load: Load, faults: Faults, began: float) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        print(
            f"{time.monotonic() - began:5.0f} s  {load.sent:,} requests, {load.broken} broken, "
            f"{sum(faults.happened.values())} events, {dict(load.statuses)}",
            file=sys.stderr,
        )


# --- rest ---


async def at_rest(gateways: Sequence[GatewayProcess], state_url: str) -> None:
    """Return once nothing is held, and the ledger has everything that gateways, dead or alive, have noted."""
    waited_for = {}
    async with httpx.AsyncClient() as http:
        for _ in range(int(SETTLE_SECONDS / 0.2)):
            waited_for = {
                "holds": read_shared(state_url).holds,
                "dead journals": dead_journals(gateways),
                "rows to be committed": await _lag_rows(http, gateways),
            }
            if not any(waited_for.values()):
                return
            await asyncio.sleep(0.2)
    raise TimeoutError(f"it does not come to rest: {waited_for}")


def dead_journals(gateways: Sequence[GatewayProcess]) -> int:
    """How many more workers have left a journal than live."""
    return len(list(gateways[0].journal.glob("*.lock"))) - len(gateways)


async def _lag_rows(http: httpx.AsyncClient, gateways: Sequence[GatewayProcess]) -> float:
    rows = 0.0
    for gateway in gateways:
        answer = await http.get(
            f"{gateway.admin_url}/metrics", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        rows += sum(
            float(line.split()[-1])
            for line in answer.text.splitlines()
            if line.startswith("tollway_ledger_lag_rows")
        )
    return rows


async def rebuilt_everywhere(gateways: Sequence[GatewayProcess], state_url: str) -> None:
    """Until budgets are open again and every gateway knows it."""
    async with httpx.AsyncClient() as http, asyncio.timeout(SETTLE_SECONDS):
        while not (is_open(state_url) and await _are_ready(http, gateways)):
            await asyncio.sleep(0.1)


async def _are_ready(http: httpx.AsyncClient, gateways: Sequence[GatewayProcess]) -> bool:
    answers = [await http.get(f"{gateway.admin_url}/readyz") for gateway in gateways]
    return all(answer.status_code == 200 for answer in answers)


# --- the shared state, read past the gateways ---


def is_open(url: str) -> bool:
    with redis.Redis.from_url(url) as server:
        epoch, closed = server.hmget(f"{KEYS}state", "epoch", "closed")
    return epoch is not None and closed is None


def read_shared(url: str) -> Shared:
    with redis.Redis.from_url(url, decode_responses=True) as server:
        state = server.hgetall(f"{KEYS}state")
        now = time.time() * 1_000_000
        slots = sum(server.zcount(key, now, "+inf") for key in server.scan_iter(f"{KEYS}slots:*"))
        return Shared(
            counters={
                name.removesuffix("|w"): Counter4(
                    *(int(state.get(name[:-1] + field, 0)) for field in ("s", "h", "u"))
                )
                for name in state
                if name.endswith("|w")
            },
            holds=server.hlen(f"{KEYS}holds"),
            leases=server.zcard(f"{KEYS}due"),
            slots=slots,
        )


async def usage_nano(config: Path) -> int:
    """What `tollway usage` adds up to."""
    command = "from gateway.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", command, "usage", "--config", str(config), "--by", "key", "--format", "json"),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return sum(round(row["cost_usd"] * 1_000_000_000) for row in json.loads(printed))


@asynccontextmanager
async def ledger_url(options: Options) -> AsyncIterator[str]:
    if options.ledger == "sqlite":
        yield f"sqlite:///{options.folder / 'ledger.db'}"
        return
    with postgres_server() as server:
        yield server.url()


# --- the report ---


def report(result: Result) -> str:
    load, books, options, left = result.load, result.books, result.options, result.left
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(load.statuses.items()))
    lines = [
        f"{load.sent:,} requests in {result.seconds:.0f} s over {GATEWAYS} gateways "
        f"({options.admission}, {options.ledger}, seed {options.seed})",
        f"answers: {statuses}; {load.disconnects:,} clients left, {load.broken:,} lost their gateway",
        *(f"{count} x {what}" for what, count in sorted(result.faults.happened.items())),
        f"{len(books.seen):,} attempts seen, {len(books.rows):,} rows, {result.presumed} presumed; "
        f"rows that no upstream read: {dict(books.unread)}",
        f"outcomes: {dict(books.outcomes)}",
        *(
            f"{account.limit.name}: limit {account.limit.nano:,}, true {account.true:,}, ledger "
            f"{account.cost:,} + {account.unseen:,} unseen"
            for account in books.accounts
        ),
        f"overspend: {books.overspend} nano-USD; left: {left.holds} holds, "
        f"{sum(counter.held for counter in left.counters.values())} nano-USD held, {left.slots} slots; "
        f"{len(books.problems)} disagreements",
        *result.logged,
        *books.problems,
    ]
    return "\n".join(lines)


def options_from(arguments: Sequence[str], folder: Path) -> Options:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--seconds-limit", type=float, default=600.0, help="send no more after so long")
    parser.add_argument("--ledger", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--admission", choices=("exact", "leased"), default="exact")
    parser.add_argument("--lease-seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=48)
    for field in msgspec.structs.fields(Counts):
        text = f"{field.name.replace('_', ' ')}; a suitable number unless given"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, help=text)
    given = vars(parser.parse_args(arguments))
    counts = usual_counts(given["requests"])
    named = {field.name: given.pop(field.name) for field in msgspec.structs.fields(Counts)}
    chosen = {name: value for name, value in named.items() if value is not None}
    return Options(folder=folder, counts=msgspec.structs.replace(counts, **chosen), **given)


def run(options: Options) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(chaos(options))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tollway-chaos-") as folder:
        result = run(options_from(sys.argv[1:], Path(folder)))
    print(report(result))
    sys.exit(1 if result.problems else 0)


if __name__ == "__main__":
    main()
