"""The processes: gateways, upstreams and the shared state, started, killed and started again."""

import asyncio
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.ledger.process.owner import MODULE
from tests.chaos.scenario import Address, Services, Terms, configuration
from tests.chaos.upstream import Seen, read_seen
from tests.quota.valkey_server import ValkeyServer

START_SECONDS = 60.0
STOP_SECONDS = 40.0
_COMPLAINT = re.compile(r'"level": "(error|critical)"|Traceback')
_ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT)}


def writers_of(pid: int) -> list[int]:
    """The processes of the ledger's writer that the gateway or supervisor `pid` runs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if MODULE in Path(f"/proc/{child}/cmdline").read_text().split("\0")
        ]
    except OSError:  # one has ended meanwhile
        return []


def free_ports(count: int) -> list[int]:
    """Ports that nobody used a moment ago, all different."""
    plugs = [socket.socket() for _ in range(count)]
    try:
        for plug in plugs:
            plug.bind(("127.0.0.1", 0))
        return [plug.getsockname()[1] for plug in plugs]
    finally:
        for plug in plugs:
            plug.close()


class GatewayProcess:
    """One `tollway serve`, at the same address over all its lives."""

    def __init__(self, number: int, address: Address, folder: Path, text: str, journal: Path) -> None:
        """`text` is its configuration, with `address` and `journal` in it."""
        self.number = number
        self.address = address
        self.log = folder / f"gateway-{number}.log"
        self.journal = journal
        self._config = folder / f"gateway-{number}.yaml"
        self._config.write_text(text)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def config(self) -> Path:
        return self._config

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.address.admin_port}"

    @property
    def data_url(self) -> str:
        return f"http://127.0.0.1:{self.address.data_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Return once it serves."""
        begins = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = "from gateway.cli import main; main()"
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", command, "serve", "--config", str(self._config)),
                env=environment(),
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START_SECONDS):
            while b" serves http" not in self._tail(begins):
                assert process.returncode is None, self._tail(begins).decode()
                await asyncio.sleep(0.05)

    async def end(self, how: signal.Signals) -> None:
        """Return once it is gone."""
        process = self._process
        assert process is not None
        with suppress(ProcessLookupError):
            process.send_signal(how)
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()

    async def kill_writer(self) -> None:
        """Kill the process that writes its ledger, if one runs just now."""
        process = self._process
        if process is not None and process.returncode is None:
            for pid in writers_of(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def complaints(self) -> list[str]:
        """What it logged as an error, and every traceback."""
        text = self.log.read_text()
        return [line[:300] for line in text.splitlines() if _COMPLAINT.search(line)]

    def _tail(self, begins: int) -> bytes:
        return self.log.read_bytes()[begins:]


class Upstream:
    """One simulator process."""

    def __init__(self, kind: str, path: Path) -> None:
        self._kind = kind
        self._path = path
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.upstream", self._kind, str(self._path)),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        self.url = (await process.stdout.readline()).decode().strip()
        assert self.url, f"the {self._kind} simulator did not start"

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    def seen(self) -> list[Seen]:
        """Every attempt that it saw, once it has stopped."""
        return read_seen(self._path)


class SharedState:
    """One Valkey with an append-only file, which a loss takes away."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._server = ValkeyServer(folder)

    @property
    def url(self) -> str:
        return self._server.url

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start, "--appendonly", "yes")

    async def restart(self, how: signal.Signals, *, down_seconds: float, lose: bool) -> None:
        """Down for a while; then back as it was, or empty when it is to lose what it knew."""
        await asyncio.to_thread(self._server.stop, how)
        if lose:
            shutil.rmtree(self._folder / "appendonlydir")
        await asyncio.sleep(down_seconds)
        await self.start()

    def stop(self) -> None:
        self._server.stop()


@asynccontextmanager
async def upstreams(folder: Path) -> AsyncIterator[list[Upstream]]:
    """GPT-4o first, then two replicas of Scout."""
    started = [Upstream(kind, folder / f"seen-{n}") for n, kind in enumerate(("openai", "vllm", "vllm"))]
    try:
        await asyncio.gather(*(upstream.start() for upstream in started))
        yield started
    finally:
        await asyncio.gather(*(upstream.stop() for upstream in started))


@asynccontextmanager
async def running_gateways(
    count: int, folder: Path, services: Services, terms: Terms
) -> AsyncIterator[list[GatewayProcess]]:
    ports = free_ports(2 * count)
    addresses = [Address(*ports[2 * number : 2 * number + 2]) for number in range(count)]
    gateways = [
        GatewayProcess(number, address, folder, configuration(address, services, terms), services.journal)
        for number, address in enumerate(addresses)
    ]
    try:
        # One alone first: it makes the tables.
        await gateways[0].start()
        await asyncio.gather(*(gateway.start() for gateway in gateways[1:]))
        yield gateways
    finally:
        await asyncio.gather(*(gateway.end(signal.SIGTERM) for gateway in gateways if gateway.is_alive))
