"""A journal from which the writer takes entries."""

from pathlib import Path

from gateway.ledger.journal.tail import JournalTail, LedgerEntry
from gateway.ledger.writer import JournalPosition


class JournalSource:
    """The journal at `position`, in `folder`. It is read once `begin` was told where."""

    def __init__(self, folder: Path, position: JournalPosition) -> None:
        self.position = position
        self.paused_at: int | None = None  # nothing beyond this number may be committed
        self._folder = folder
        self._tail: JournalTail | None = None
        self._is_closed = False

    @property
    def is_ready(self) -> bool:
        return self._tail is not None

    @property
    def may_begin(self) -> bool:
        """Whether nothing is on its way that would be read once more."""
        return not (self.is_ready or self._is_closed or self.position.queued)

    def begin(self, committed: int) -> JournalTail:
        """Read what is not `committed`."""
        self.position.committed = committed
        self._tail = JournalTail(self._folder, self.position.worker, committed)
        return self._tail

    def read(self, limit: int) -> list[LedgerEntry]:
        """The next entries that may be committed. Raises OSError."""
        return [] if self._tail is None else self._tail.read(limit, self.paused_at)

    def has_committed(self, until: int) -> bool:
        """Whether everything up to `until` is in the ledger that may be."""
        goal = until if self.paused_at is None else min(until, self.paused_at)
        return self.is_ready and self.position.committed >= goal

    def close(self) -> None:
        """Read nothing more of it."""
        self._is_closed = True
        tail, self._tail = self._tail, None
        if tail is not None:
            tail.close()
