"""`tollway serve` in a process of its own, in front of simulators, to be killed and started again."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from gateway.simulators.running import Simulator
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, NARROW_KEY, Metrics, config_text
from tests.ledger.ledger_records import until

SERVES = re.compile(r"serves (\S+)/v1 \(admin (\S+)\)")


class Served:
    """A gateway in a process of its own, on one ledger and configuration over all its lives."""

    def __init__(
        self,
        folder: Path,
        hosted: Simulator,
        pool: Sequence[Simulator],
        changes: Mapping[str, Any] = {},
        ledger_url: str | None = None,
    ) -> None:
        self.ledger = folder / "ledger.db"
        self.journal = folder / "ledger.db.journal"
        self._log = folder / "log"
        self.config = folder / "tollway.yaml"
        self.config.write_text(config_text(changes))
        self.environ = {
            **os.environ,
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "APP_KEY": APP_KEY,
            "NARROW_KEY": NARROW_KEY,
            "LEDGER": ledger_url or f"sqlite:///{self.ledger}",
            "EXTERNAL": hosted.url,
            **{f"REPLICA_{number}": replica.url for number, replica in enumerate(pool, 1)},
        }
        self.data_url = self.admin_url = ""

    @asynccontextmanager
    async def running(self, said: re.Pattern[str] = SERVES) -> AsyncIterator[asyncio.subprocess.Process]:
        """From when it says `said`, until it is killed, or stopped when nobody killed it."""
        with self._log.open("wb") as log:
            command = "from gateway.cli import main; main()"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", command, "serve", "--config", str(self.config)),
                env=self.environ,
                stderr=log,
            )
        try:
            await until(lambda: process.returncode is not None or self._says(said))
            assert process.returncode is None, self._log.read_text()
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    def log(self) -> str:
        return self._log.read_text()

    def _says(self, said: re.Pattern[str]) -> bool:
        found = said.search(self.log())
        if found:
            self.data_url, self.admin_url = found.groups()
        return found is not None

    async def spent_nano(self) -> int:
        async with httpx.AsyncClient() as client:
            headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
            answer = await client.get(f"{self.admin_url}/metrics", headers=headers)
        return Metrics(answer.text).nano("budget_spent_usd", scope="org")
