"""What a gateway and its ledger's writer take: memory, descriptors, metric series, tasks, over time."""

import asyncio
import time
from pathlib import Path

import httpx
import msgspec

from tests.chaos.gateways import GatewayProcess, writers_of
from tests.chaos.scenario import ADMIN_TOKEN

MIB = 1024 * 1024
_COUNTS = {
    "process_resident_memory_bytes": "resident_mib",
    "process_open_fds": "descriptors",
    "tollway_event_loop_tasks": "tasks",
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look. `writer_mib` begins again with each writer, so it is shown and not bounded."""

    seconds: float
    resident_mib: float
    descriptors: float
    tasks: float
    series: int
    writer_mib: float


class Sampler:
    """Looks every `interval_seconds` until it is cancelled. A look that fails is left out, and counted."""

    def __init__(self, gateway: GatewayProcess, interval_seconds: float) -> None:
        self._gateway = gateway
        self._interval_seconds = interval_seconds
        self.samples: list[Sample] = []
        self.failed = 0

    async def run(self) -> None:
        began = time.monotonic()
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {ADMIN_TOKEN}"}) as http:
            while True:
                try:
                    self.samples.append(await self._look(http, time.monotonic() - began))
                except httpx.HTTPError:
                    self.failed += 1
                await asyncio.sleep(self._interval_seconds)

    async def _look(self, http: httpx.AsyncClient, seconds: float) -> Sample:
        answer = await http.get(f"{self._gateway.admin_url}/metrics", timeout=30)
        answer.raise_for_status()
        lines = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
        found = {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines) if name in _COUNTS
        }
        counts = {field: found[name] for name, field in _COUNTS.items()}
        counts["resident_mib"] /= MIB
        writers = sum(_resident_mib(pid) for pid in writers_of(self._gateway.pid))
        return Sample(seconds=seconds, series=len(lines), writer_mib=writers, **counts)


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:  # it has ended meanwhile
        return 0.0
    return pages * 4096 / MIB
