"""Rows that no database would take, as JSON lines in files: nothing metered is thrown away.

Two kinds of file, both one JSON object a line, named by column:
- `<database>.unsaved-<id>.jsonl`: rows that release 0.1.0 left when it stopped while the database was
  unavailable. The next start puts them into the ledger and removes the file.
- `<database>.refused.jsonl`: rows that the database refused for good, with the reason, for a person to read.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from gateway.ledger.errors import LedgerUnavailable, file_failure
from gateway.ledger.rows import Row
from gateway.ledger.tables import COLUMNS, COSTS
from gateway.private_files import open_private, private_folder

# What files of an earlier version lack.
ADDED_LATER: dict[str, str | int] = {
    "facts": "{}",
    "address": "",
    "usage": "{}",
    "flags": "",
    "reported": "{}",
    "rates": "{}",
    "unit_nano_usd": "{}",
    **dict.fromkeys(COSTS, 0),
}

_encode = msgspec.json.Encoder(enc_hook=ascii).encode  # even a field of a wrong type leaves a trace
_decode = msgspec.json.Decoder(dict[str, str | int | float | None]).decode


class Spill:
    """The spill files of the database called `name` in `folder`. All methods block on the file system."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def refuse(self, row: Row, reason: str) -> Path:
        """Add `row` to the file of refused rows. Raises LedgerUnavailable when that fails."""
        path = self._folder / f"{self._name}.refused.jsonl"
        line = _encode({"reason": reason, "row": _named(row)}) + b"\n"
        try:
            private_folder(self._folder, is_ours=False)
            with open(path, "a+b", opener=open_private) as file:  # Path.open takes no opener
                if _is_torn(file):  # a disk that was full, or a kill: what follows stays readable
                    line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())  # this is all that is left of the row
        except OSError as exc:
            raise file_failure(f"ledger: cannot write {path}", self._folder, exc) from exc
        return path

    def files(self) -> list[Path]:
        """Files that wait to be replayed."""
        if not self._folder.is_dir():
            return []
        start = f"{self._name}.unsaved-"
        return sorted(
            path for path in self._folder.iterdir() if path.name.startswith(start) and path.suffix == ".jsonl"
        )

    def rows(self, path: Path, unreadable: list[str]) -> Iterator[Row]:
        """The rows of `path`, one after another; lines that are no row go to `unreadable`.

        None when another worker has replayed and removed the file. Raises LedgerUnavailable.
        """
        try:
            with path.open("rb") as file:
                for line in file:
                    try:
                        named = _decode(line)
                        yield tuple(_value(named, column) for column in COLUMNS)
                    except (msgspec.MsgspecError, KeyError):
                        unreadable.append(line.decode("utf-8", "replace"))
        except FileNotFoundError:
            return
        except OSError as exc:
            raise LedgerUnavailable(f"ledger: cannot read {path}: {exc.strerror}") from exc

    def done(self, path: Path, unreadable: Sequence[str]) -> None:
        """Remove a replayed file, or keep it under another name when some lines could not be read."""
        with suppress(FileNotFoundError):  # another worker may have replayed it at the same time
            if unreadable:
                path.replace(path.with_suffix(".unreadable"))
            else:
                path.unlink()


def _is_torn(file: BinaryIO) -> bool:
    """Whether its last line has no end."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _value(named: dict[str, str | int | float | None], column: str) -> str | int | float | None:
    return named[column] if column in named else ADDED_LATER[column]


def _named(row: Row) -> dict[str, Any]:
    return dict(zip(COLUMNS, row, strict=True))
