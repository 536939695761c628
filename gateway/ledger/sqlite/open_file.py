"""Whether the file that a connection has open is still the one at its path."""

import os
from pathlib import Path

from gateway.ledger.errors import LedgerUnavailable

_Identity = tuple[int, int]


class OpenFile:
    """The database at `path` and its log, as they were when they were first seen.

    Whoever goes on writing into a file that was deleted or replaced writes for nobody.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self._identity: _Identity | None = None
        self._log_identity: _Identity | None = None

    def check(self) -> None:
        """Raise LedgerUnavailable unless the database at the path is the one that was seen."""
        if self._identity is None:
            return
        found = _identity_of(self._path)
        if found is None:
            raise LedgerUnavailable(
                f"ledger {self._path}: the file was deleted while it was in use; rows wait in the journal. "
                "Put it back; a restart of the gateway would begin a new one"
            )
        if found != self._identity:
            raise LedgerUnavailable(
                f"ledger {self._path}: another file has taken its place; rows wait in the journal. "
                "Put the one before back, or restart the gateway to go on with this one"
            )

    def note(self) -> None:
        """The connection works: what stands at the path is what it has open."""
        if self._identity is None:
            self._identity = _identity_of(self._path)
        if self._log_identity is None:
            self._log_identity = _identity_of(self._log)

    def forget_log(self) -> None:
        """The connection is closed; the next one may have another log."""
        self._log_identity = None

    @property
    def has_lost_log(self) -> bool:
        """Whether somebody has removed the log that the connection writes."""
        return self._log_identity is not None and _identity_of(self._log) != self._log_identity


def _identity_of(path: Path) -> _Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # before each commit
    except OSError:
        return None
    return found.st_dev, found.st_ino
