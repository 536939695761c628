"""Where a demo keeps its ledger: an own folder, that one demo uses at a time."""

import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.demo.failure import DemoFailed
from gateway.private_files import FOLDER_MODE, private_folder

DEFAULT = Path("tollway-demo")
MOST_DEMOS = 100
_LOCK = ".demo"  # also the sign that what is there is a demo's


@contextmanager
def demo_folder(wanted: Path | None) -> Iterator[Path]:
    """`wanted`, or the default or a numbered one that no other demo uses; emptied of what a demo left there.

    Raises DemoFailed where it cannot be written, is in use, or has what is not a demo's.
    """
    numbered = (DEFAULT.with_name(f"{DEFAULT.name}-{number}") for number in range(2, MOST_DEMOS))
    for folder in (wanted,) if wanted is not None else itertools.chain((DEFAULT,), numbered):
        with _locked(folder) as is_mine:
            if is_mine:
                yield folder
                return
    raise DemoFailed(f"{wanted or DEFAULT} is in use by another demo: name another --folder")


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether `folder` is ours, and empty, until left."""
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if not (folder / _LOCK).exists() and any(folder.iterdir()):
            raise DemoFailed(f"{folder} has files that are not a demo's: name another --folder")
        private_folder(folder)
        descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as exc:
        raise DemoFailed(f"cannot write {folder} ({exc.strerror}): name another --folder") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        yield True
    finally:
        os.close(descriptor)
