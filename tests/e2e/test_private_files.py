"""Every file that a gateway makes is its owner's alone, whatever the umask and whatever was there before."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gateway.private_files import narrow_if_there, open_private, private_file, private_folder, write_private
from tests.e2e.harness import chat, running


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wide(folder: Path) -> dict[str, str]:
    """What others may read below `folder`, itself included."""
    found = (folder, *folder.rglob("*"))
    return {str(path): oct(mode(path)) for path in found if mode(path) & 0o077}


def test_what_is_made_is_narrow(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    private_folder(folder)
    private_file(folder / "empty")
    write_private(folder / "written", b"x")
    os.close(open_private(folder / "opened", os.O_WRONLY))
    assert wide(folder) == {}


def test_what_is_ours_is_made_narrow_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir(mode=0o777)
    file = folder / "rows"
    file.write_text("x")
    file.chmod(0o644)
    with structlog.testing.capture_logs() as logs:
        private_folder(folder)
        narrow_if_there(file)
        private_file(file)
    assert wide(folder) == {}
    assert file.read_text() == "x"
    assert [(entry["event"], entry["mode_before"]) for entry in logs] == [
        ("files.narrowed", "0o777"),
        ("files.narrowed", "0o644"),
    ]


def test_a_folder_that_may_hold_other_things_stays_and_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    with structlog.testing.capture_logs() as logs:
        private_folder(folder, is_ours=False)
    assert mode(folder) == 0o755
    assert [(entry["event"], entry["mode"]) for entry in logs] == [("files.open_to_others", "0o755")]


async def test_a_gateway_leaves_nothing_that_others_can_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    changes = {
        "ledger": f"sqlite:///{home}/var/ledger.db",
        "server": {"journal_dir": str(home / "journal")},
    }
    async with running(tmp_path, changes, writer_process=True) as harness:
        assert (await harness.post(chat())).status_code == 200
        await harness.gateway.flush()
        owner = harness.gateway.parts.ledger_writer
        assert owner is not None
        assert wide(owner.path.parent) == {}
        assert wide(home) == {}
    assert wide(home) == {}
    assert len(list(home.rglob("*"))) >= 2


async def test_files_of_a_ledger_that_were_wide_are_made_narrow(tmp_path: Path) -> None:
    for _ in range(2):
        async with running(tmp_path) as harness:
            assert (await harness.post(chat())).status_code == 200
            await harness.gateway.flush()
            made = [path for path in tmp_path.rglob("ledger.db*") if path.exists()]
            assert {str(path): oct(mode(path)) for path in made if mode(path) & 0o077} == {}
        for path in tmp_path.rglob("ledger.db*"):
            path.chmod(0o777 if path.is_dir() else 0o666)


def test_a_file_that_somebody_opened_to_others_keeps_its_mode_when_it_is_written_anew(tmp_path: Path) -> None:
    out = tmp_path / "focus.csv"
    write_private(out, b"1")
    assert mode(out) == 0o600
    out.chmod(0o640)
    write_private(out, b"2")
    assert (mode(out), out.read_bytes()) == (0o640, b"2")
