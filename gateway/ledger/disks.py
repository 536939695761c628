"""How much room is left on the disks that hold journal and ledger, and a word before there is none."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import structlog

from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.journal")

LOOK_SECONDS = 5.0
MIB = 1024 * 1024
# The log of SQLite, what the journals keep ahead, and some ten thousand requests.
LOW_BYTES = 256 * MIB


class DiskSpace(NamedTuple):
    """Bytes that a process without privileges may still write, and bytes in all."""

    free_bytes: int
    size_bytes: int


class DiskWatch:
    """`start`, then `close`. Used on the event loop's thread only.

    `space` has one entry for each disk, by the first of the folders on it, as of the latest look.
    """

    def __init__(self, folders: Iterable[Path], tasks: TaskRegistry) -> None:
        """`folders` need not be there yet: then it is the disk on which they will be."""
        self.space: dict[str, DiskSpace] = {}
        self._folders = [folder.absolute() for folder in folders]
        self._low: set[str] = set()
        self._task = SupervisedTask("disk-watch", self._look, tasks, wait=lambda: asyncio.sleep(LOOK_SECONDS))

    def start(self) -> None:
        self._task.start(is_due=True)

    async def close(self) -> None:
        await self._task.close()

    def problems(self) -> list[str]:
        """Which disks are nearly full."""
        return [
            f"disk of {path}: {found.free_bytes // MIB} MiB are free"
            for path, found in self.space.items()
            if found.free_bytes < LOW_BYTES
        ]

    async def _look(self) -> None:
        self.space = await asyncio.to_thread(_measured, self._folders)
        for path, found in self.space.items():
            self._tell(path, found)

    def _tell(self, path: str, found: DiskSpace) -> None:
        """One line for each change of state."""
        is_low = found.free_bytes < LOW_BYTES
        if is_low and path not in self._low:
            self._low.add(path)
            _log.warning("disk.low", path=path, free_bytes=found.free_bytes, size_bytes=found.size_bytes)
        elif not is_low and path in self._low:
            self._low.discard(path)
            _log.info("disk.has_room", path=path, free_bytes=found.free_bytes, size_bytes=found.size_bytes)


def _measured(folders: Iterable[Path]) -> dict[str, DiskSpace]:
    """Blocks. Raises OSError."""
    found: dict[str, DiskSpace] = {}
    seen: set[int] = set()
    for folder in folders:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        device = there.stat().st_dev
        if device not in seen:
            seen.add(device)
            disk = os.statvfs(there)
            found[str(folder)] = DiskSpace(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
    return found
