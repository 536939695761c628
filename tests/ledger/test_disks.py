"""The room on the disks of ledger and journal: measured, and told before there is none."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.ledger import disks
from gateway.ledger.disks import MIB, DiskWatch
from gateway.ledger.journal.opening import folders_on_disk
from gateway.supervised import TaskRegistry
from tests.ledger.journal.disks import small_disk
from tests.ledger.ledger_records import run, until

SIZE_BYTES = 8 * MIB


def test_a_disk_is_told_once_when_it_is_nearly_full_and_once_when_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "LOW_BYTES", SIZE_BYTES // 2)
    monkeypatch.setattr(disks, "LOOK_SECONDS", 0.005)

    async def scenario() -> None:
        with small_disk(tmp_path / "disk", SIZE_BYTES) as disk:
            path = str(disk.path / "not" / "there" / "yet")
            watch = DiskWatch([Path(path)], TaskRegistry())
            with capture_logs() as logs:
                watch.start()
                await until(lambda: watch.space)
                assert watch.space[path] == (SIZE_BYTES, SIZE_BYTES)
                assert watch.problems() == []
                for _ in range(2):
                    disk.fill(leave_bytes=MIB)
                    await until(watch.problems)
                    assert watch.problems() == [f"disk of {path}: 1 MiB are free"]
                    disk.free()
                    await until(lambda: not watch.problems())
                    await asyncio.sleep(0)  # a look tells before it waits
                await watch.close()
        assert [entry["event"] for entry in logs] == ["disk.low", "disk.has_room"] * 2
        assert logs[0]["path"] == path

    run(scenario())


def test_one_disk_is_measured_once_and_two_are_told_apart(tmp_path: Path) -> None:
    async def paths(folders: list[Path]) -> list[str]:
        watch = DiskWatch(folders, TaskRegistry())
        watch.start()
        await until(lambda: watch.space)
        await watch.close()
        return list(watch.space)

    async def scenario() -> None:
        url = f"sqlite:///{tmp_path}/ledger.db"
        assert await paths(folders_on_disk(url, None)) == [str(tmp_path)]
        with small_disk(tmp_path / "disk", SIZE_BYTES) as disk:
            assert await paths(folders_on_disk(url, disk.path)) == [str(tmp_path), str(disk.path)]
            assert await paths(folders_on_disk("postgresql://u@h/d", disk.path)) == [str(disk.path)]

    run(scenario())
