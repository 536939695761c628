"""Files and folders that only their owner may read, whatever the umask is.

What a gateway made wider before is made narrow. A folder that may hold what is not the gateway's stays as it
is, with a word in the log.
"""

import os
import stat
from pathlib import Path

import structlog

_log = structlog.get_logger("tollway.files")

FILE_MODE, FOLDER_MODE = 0o600, 0o700
_OTHERS = 0o077


def private_folder(path: Path, *, is_ours: bool = True) -> None:
    """Make the folder `path`, and those above it. Raises OSError.

    `is_ours`: one that is there has nothing else in it, and is made narrow too.
    """
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    _narrow(path, FOLDER_MODE, is_ours=is_ours)


def private_file(path: Path) -> None:
    """Make an empty file at `path`, or make the one that is there narrow. Raises OSError."""
    os.close(open_private(path, os.O_WRONLY))


def open_private(path: str | Path, flags: int) -> int:
    """A descriptor of the file at `path`, made where there is none. Raises OSError. Also an `opener`."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    _narrow(Path(path), FILE_MODE, is_ours=True)
    return descriptor


def write_private(path: Path, content: bytes) -> None:
    """`content` in a file of its own at `path`. One that is there keeps its mode. Raises OSError."""
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, FILE_MODE), "wb") as file:
        file.write(content)


def narrow_if_there(path: Path) -> None:
    """Make the file at `path` narrow, if there is one."""
    if path.exists():
        _narrow(path, FILE_MODE, is_ours=True)


def _narrow(path: Path, mode: int, *, is_ours: bool) -> None:
    found = path.stat()
    # What is no plain file, such as /dev/null, is nobody's to change.
    if not found.st_mode & _OTHERS or not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return
    before = oct(stat.S_IMODE(found.st_mode))
    if is_ours and found.st_uid == os.geteuid():
        path.chmod(mode)
        _log.warning("files.narrowed", path=str(path), mode_before=before)
    else:
        _log.warning("files.open_to_others", path=str(path), mode=before)
