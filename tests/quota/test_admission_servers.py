"""Every way in which a `state` URL can name a server, with real ones: unix socket, TLS, Sentinel, Cluster."""

import asyncio
import contextlib
import secrets
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from gateway.clock import SystemClock
from gateway.core.admission import Settlement
from gateway.core.errors import BudgetExceeded
from gateway.core.windows import Per
from gateway.ports import BudgetView
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.client import RedisClient, Timing
from gateway.quota.redis.leased import LeasedAdmission
from gateway.quota.redis.scripts import Scripts
from gateway.quota.redis.shared_counters import share_counters
from tests.core.builders import ask, principal, scope
from tests.quota.stores import UTC, ready, run
from tests.quota.valkey_server import ValkeyServer, free_port, idle_server, valkey_server

USUAL = 1_100_000
TRIAGE = scope(budgets={Per.LIFETIME: 3 * USUAL})
PAYER = principal(TRIAGE)
Store = RedisAdmission | LeasedAdmission


@asynccontextmanager
async def serving(
    url: str,
    *,
    org: str | None = None,
    leased: bool = False,
    spent: Callable[[Sequence[BudgetView]], list[tuple[int, int]]] | None = None,
) -> AsyncIterator[Any]:
    """Admission as it serves, on the server's own clock."""

    async def from_ledger(views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        return [(0, 0)] * len(views) if spent is None else spent(views)

    timing = Timing(connect_seconds=10.0, reply_seconds=2.0)
    client = RedisClient(parse_target(url), org or secrets.token_hex(6), Scripts(), timing)
    clock = SystemClock()
    shared = share_counters(client, clock, UTC)
    exact = RedisAdmission(shared, clock, spent_in_windows=from_ledger, quarantine_seconds=0.0)
    store: Store = LeasedAdmission(exact, shared, clock) if leased else exact
    store.configure([TRIAGE], UTC)
    await store.start()
    try:
        await ready(store)
        yield store
    finally:
        await store.close()


async def spends_three_and_no_more(store: Any) -> None:
    for _ in range(2):
        store.settle(await store.admit(ask(PAYER)), Settlement(spent_nano=USUAL))
    await store.admit(ask(PAYER))
    with pytest.raises(BudgetExceeded):
        await store.admit(ask(PAYER))


@pytest.mark.parametrize("leased", [False, True])
def test_a_unix_socket(leased: bool) -> None:
    async def scenario(server: ValkeyServer) -> None:
        async with serving(f"unix://{server.socket_path}", leased=leased) as store:
            await spends_three_and_no_more(store)

    with valkey_server() as server:
        run(lambda: scenario(server))


class Keys:
    """A server certificate for localhost, and the authority that signed it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        self.authority, self.certificate, self.key = (folder / name for name in ("ca.pem", "c.pem", "k.pem"))
        authority.cert_pem.write_to_path(str(self.authority))
        issued.cert_chain_pems[0].write_to_path(str(self.certificate))
        issued.private_key_pem.write_to_path(str(self.key))


@asynccontextmanager
async def behind_tls(server: ValkeyServer, keys: Keys) -> AsyncIterator[int]:
    """The port of a TLS terminator in front of `server`, whose program is built without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.certificate, keys.key)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while found := await reader.read(65536):
                writer.write(found)
                await writer.drain()
        writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

    terminator = await asyncio.start_server(both, "127.0.0.1", 0, ssl=context)
    async with terminator:
        yield terminator.sockets[0].getsockname()[1]


@pytest.fixture
def locked() -> Iterator[ValkeyServer]:
    with valkey_server() as server:
        with redis.Redis(port=server.port) as client:
            client.config_set("requirepass", "opensesame")
        yield server


@pytest.mark.parametrize("leased", [False, True])
def test_tls_with_a_password(
    locked: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leased: bool
) -> None:
    keys = Keys(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(keys.authority))

    async def scenario() -> None:
        async with behind_tls(locked, keys) as port:
            url = f"rediss://:opensesame@localhost:{port}/0"
            async with serving(url, leased=leased) as store:
                await spends_three_and_no_more(store)

    run(scenario)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_that_is_not_trusted_or_of_another_name_is_not_accepted(
    locked: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    keys = Keys(tmp_path)
    if host != "localhost":  # trusted, but for another name
        monkeypatch.setenv("SSL_CERT_FILE", str(keys.authority))

    async def scenario() -> None:
        async with behind_tls(locked, keys) as port:
            target = parse_target(f"rediss://:opensesame@{host}:{port}")
            client = RedisClient(target, "acme", Scripts(), Timing())
            keeping = asyncio.create_task(client.run())
            await eventually(lambda: "certificate" in str(client.problem).lower())
            assert not client.is_connected
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    run(scenario)


def test_a_wrong_password_is_said_without_repeating_it(locked: ValkeyServer) -> None:
    async def scenario() -> None:
        target = parse_target(f"redis://:sesame-open@127.0.0.1:{locked.port}")
        client = RedisClient(target, "acme", Scripts(), Timing())
        keeping = asyncio.create_task(client.run())
        await eventually(lambda: client.problem != "not connected yet")
        assert not client.is_connected
        assert "sesame" not in str(client.problem)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    run(scenario)


@pytest.mark.parametrize("leased", [False, True])
def test_sentinel_and_a_failover_in_which_spending_was_lost(leased: bool) -> None:
    """The replica that is promoted never saw the last settlement: the ledger did."""
    known = [0]

    async def scenario(sentinel: ValkeyServer, master: ValkeyServer) -> None:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/tills"
        async with serving(url, leased=leased, spent=lambda views: [(known[0], 0) for _ in views]) as store:
            store.settle(await store.admit(ask(PAYER)), Settlement(spent_nano=USUAL))
            await store.flush()
            known[0], epoch = 2 * USUAL, epoch_of(store)
            master.stop(signal.SIGKILL)
            await eventually(lambda: epoch_of(store) != epoch)
            await ready(store)
            await store.admit(ask(PAYER))
            with pytest.raises(BudgetExceeded):
                await store.admit(ask(PAYER))

    with (
        valkey_server() as master,
        valkey_server("--replicaof", f"127.0.0.1 {master.port}") as replica,
        idle_server() as sentinel,
    ):
        wait_until(replica, lambda client: client.info("replication").get("master_link_status") == "up")
        sentinel.start_sentinel("tills", master)
        wait_until(sentinel, lambda client: client.execute_command("SENTINEL", "REPLICAS", "tills"))
        run(lambda: scenario(sentinel, master))


@pytest.mark.parametrize("leased", [False, True])
def test_a_cluster_whose_other_node_holds_the_org(leased: bool) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-port")
    # Else the bus has the port 10,000 above the server's, which may be none.
    bus, other_bus = str(free_port()), str(free_port())

    async def scenario(asked: ValkeyServer, owner: ValkeyServer) -> None:
        with redis.Redis(port=owner.port) as client:
            org = next(name for name in orgs() if slot(client, name) >= 8192)
            async with serving(f"redis+cluster://127.0.0.1:{asked.port}", org=org, leased=leased) as store:
                await spends_three_and_no_more(store)
            assert client.exists(f"tollway:{{{org}}}:state")

    with valkey_server(*options, bus) as first, valkey_server(*options, other_bus) as second:
        for server, slots in ((first, (0, 8191)), (second, (8192, 16383))):
            with redis.Redis(port=server.port) as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, bus)
        wait_until(first, lambda client: b"8192-16383" in client.execute_command("CLUSTER", "NODES"))
        run(lambda: scenario(first, second))


def epoch_of(store: Store) -> bytes:
    exact = store.exact if isinstance(store, LeasedAdmission) else store
    return exact._holds.epoch


def orgs() -> Iterator[str]:
    while True:
        yield secrets.token_hex(6)


def slot(client: "redis.Redis[bytes]", org: str) -> int:
    return int(client.execute_command("CLUSTER", "KEYSLOT", f"tollway:{{{org}}}:state"))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def wait_until(server: ValkeyServer, condition: Callable[["redis.Redis[bytes]"], object]) -> None:
    deadline = time.monotonic() + 30
    with redis.Redis(port=server.port) as client:
        while not condition(client):
            assert time.monotonic() < deadline
            time.sleep(0.02)
