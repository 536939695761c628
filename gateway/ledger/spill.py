"""Rows that no database would take, as JSON lines in files: nothing metered is thrown away.

Two kinds of file, both one JSON object a line, named by column:
- `<database>.unsaved-<id>.jsonl`: rows left when the gateway had to stop while the database was unavailable.
  The next start puts them into the ledger and removes the file.
- `<database>.refused.jsonl`: rows that the database refused for good, with the reason, for a person to read.
"""

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.record import UsageRecord
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.rows import Row, careful_row_of
from gateway.ledger.tables import COLUMNS

# What files of an earlier version lack.
ADDED_LATER = {"facts": "{}", "address": ""}

_encode = msgspec.json.Encoder(enc_hook=ascii).encode  # even a field of a wrong type leaves a trace
_decode = msgspec.json.Decoder(dict[str, str | int | float | None]).decode


class Spill:
    """The spill files of the database called `name` in `folder`. All methods block on the file system."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def save(self, records: Iterable[UsageRecord]) -> Path:
        """Write `records` to a new file and return its path. Raises LedgerUnavailable when that fails.

        The name appears only once the file is whole and on the disk, so that no start replays half of it.
        """
        final = self._folder / f"{self._name}.unsaved-{uuid.uuid4().hex}.jsonl"
        partial = final.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.writelines(_encode(_readable(record)) + b"\n" for record in records)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(final)
            _sync_folder(
                self._folder
            )  # the journal lets go of these rows now: a power cut must not take the name
        except OSError as exc:
            with suppress(OSError):
                partial.unlink(missing_ok=True)  # nobody reads it, and a full disk needs the room
            raise LedgerUnavailable(f"ledger: cannot write {final}: {exc.strerror}") from exc
        return final

    def refuse(self, record: UsageRecord, reason: str) -> Path:
        """Add `record` to the file of refused rows. Raises LedgerUnavailable when that fails."""
        path = self._folder / f"{self._name}.refused.jsonl"
        line = _encode({"reason": reason, "row": _readable(record)}) + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())  # this is all that is left of the row
        except OSError as exc:
            raise LedgerUnavailable(f"ledger: cannot write {path}: {exc.strerror}") from exc
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


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _value(named: dict[str, str | int | float | None], column: str) -> str | int | float | None:
    return named[column] if column in named else ADDED_LATER[column]


def _named(row: Row) -> dict[str, Any]:
    return dict(zip(COLUMNS, row, strict=True))


def _readable(record: UsageRecord) -> Any:
    try:
        return _named(careful_row_of(record))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return {"unreadable": ascii(record)}  # fields of a wrong type are a bug, and still money
