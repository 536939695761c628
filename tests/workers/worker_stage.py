"""`tollway serve --workers N` in processes of its own, over simulators and a shared state."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import orjson

from gateway.simulators.running import Simulator
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, NARROW_KEY, Metrics, config_text, read_rows

PATIENCE_SECONDS = 60  # a hang fails the test; nothing is measured against it
_SERVES = re.compile(r"serves (\S+)/v1 \(admin (\S+)\) with (\d+) workers")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.02)


class Served:
    """A supervisor and its workers on one configuration."""

    def __init__(
        self, folder: Path, urls: Mapping[str, str], changes: Mapping[str, Any], workers: int
    ) -> None:
        self.ledger = folder / "ledger.db"
        self.workers = workers
        self._log = folder / "log"
        self.config = folder / "tollway.yaml"
        self.config.write_text(config_text(changes))
        self._environ = {
            **os.environ,
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "APP_KEY": APP_KEY,
            "NARROW_KEY": NARROW_KEY,
            "LEDGER": f"sqlite:///{self.ledger}",
            **urls,
        }
        self.data_url = self.admin_url = ""
        self.process: asyncio.subprocess.Process

    async def spawn(self) -> None:
        with self._log.open("wb") as log:
            command = "from gateway.cli import main; main()"
            options = "serve", "--config", str(self.config), "--workers", str(self.workers)
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", command, *options), env=self._environ, stderr=log
            )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Served"]:
        """From the moment when all workers take requests until all processes have ended."""
        await self.spawn()
        try:
            await until(lambda: self.process.returncode is not None or self._is_up())
            assert self.process.returncode is None, self.log
            yield self
        finally:
            with suppress(ProcessLookupError):
                self.process.terminate()
            await asyncio.wait_for(self.process.wait(), PATIENCE_SECONDS)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What was logged as `event`."""
        found = (orjson.loads(line) for line in self.log.splitlines() if line.startswith("{"))
        return [line for line in found if line["event"] == event]

    def pids(self) -> dict[int, int]:
        """Process of each worker by its number, the latest one."""
        return {line["worker"]: line["pid"] for line in self.lines("supervisor.worker_started")}

    async def metrics(self) -> Metrics:
        return Metrics((await self.admin("/metrics")).text)

    async def admin(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, verify=False) as client:
            given = {"authorization": f"Bearer {ADMIN_TOKEN}"} | headers
            return await client.request(method, f"{self.admin_url}{path}", headers=given)

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.ledger)

    def _is_up(self) -> bool:
        found = _SERVES.search(self.log)
        if found:
            self.data_url, self.admin_url = found[1], found[2]
        return found is not None


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Zombies are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def urls_of(hosted: Simulator, pool: Sequence[Simulator]) -> dict[str, str]:
    replicas = {f"REPLICA_{number}": replica.url for number, replica in enumerate(pool, 1)}
    return {"EXTERNAL": hosted.url, **replicas}
