"""A gateway process of one release, to be killed, stopped, and asked."""

import contextlib
import os
import re
import signal
import subprocess
from decimal import Decimal
from pathlib import Path

import httpx

from tests.upgrade.prices import NANO
from tests.upgrade.releases import Release
from tests.upgrade.waiting import until

_SERVES = re.compile(r"serves (\S+)/v1 \(admin (\S+)\)")
_COMPLAINT = re.compile(r'"level": "(error|critical)"|Traceback')


class Gateway:
    """A `tollway serve` of one release."""

    def __init__(self, release: Release, config: Path, log: Path, admin_token: str) -> None:
        self.release = release
        self._config = config
        self._admin_token = admin_token
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.data_url = self.admin_url = ""

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def complaints(self) -> list[str]:
        """What it logged as an error, and every traceback."""
        return [line[:500] for line in self.log.splitlines() if _COMPLAINT.search(line)]

    def open_files(self) -> set[Path]:
        assert self._process is not None
        return {link.resolve() for link in Path(f"/proc/{self._process.pid}/fd").iterdir()}

    async def start(self) -> None:
        """Return once it serves, and so once it has brought in what dead ones left behind."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.release.command("serve", "--config", str(self._config)),
                env=self.release.environment(),
                cwd=self._config.parent,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that `kill_all` reaches whatever it starts, and nobody else
            )
        await until(lambda: not self.is_alive or _SERVES.search(self.log) is not None)
        assert self.is_alive, f"{self.release.name} does not start: {self.log}"
        found = _SERVES.search(self.log)
        assert found is not None
        self.data_url, self.admin_url = found.groups()

    def kill(self) -> None:
        """kill -9 of the process that serves. Others that it has started find out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def kill_all(self) -> None:
        """kill -9 of everything that it has started too, as when its container or its machine ends."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and it ends well."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        await until(lambda: not self.is_alive)
        assert self._process.returncode == 0, f"{self.release.name} does not end well: {self.log}"

    async def budget_nano(self, family: str, scope: str) -> int:
        """Its metric `tollway_budget_<family>_usd` of a scope with one budget, in nano-USD."""
        usd = await self._metric(rf'tollway_budget_{family}_usd{{[^}}]*scope="{scope}"[^}}]*}}')
        return int((usd * NANO).to_integral_value())

    async def has_committed_all(self) -> bool:
        """Whether everything that has ended so far is in the database."""
        return await self._metric("tollway_ledger_lag_rows") == 0

    async def _metric(self, series: str) -> Decimal:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {self._admin_token}"}) as http:
            answer = await http.get(f"{self.admin_url}/metrics")
        found = re.search(rf"^{series} (\S+)$", answer.text, re.MULTILINE)
        assert found is not None, answer.text
        return Decimal(found[1])
