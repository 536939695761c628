"""One process's chain of the audit log, written in the same transactions as the ledger's rows.

So a row is in the ledger if and only if its receipt is in the chain, whatever crashes in between. One entry
holds the receipts of a whole slice of rows: hash and signature then cost next to nothing for each.

A commit whose answer never came may have been carried out. Until the database has said how far the chain has
come, its next entry has no number: `needs_heads`.
"""

import operator
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gateway.core.audit import GENESIS, Entry, EntryKind, Head, Opening, Receipt, json_text, link
from gateway.ledger.journal.frames import Note
from gateway.ledger.rows import Row
from gateway.ledger.tables import COLUMNS

if TYPE_CHECKING:  # reports import this file too, and they sign nothing
    from gateway.ledger.audit.keys import Signer

CHAIN_MOVED = "ledger: this process's chain of the audit log has come further than it knows; it looks again"

HEADS = "SELECT chain, seq, hash FROM audit_head ORDER BY chain"
INSERT_ENTRY = (
    "INSERT INTO audit_entry (chain, seq, at, kind, payload, hash, signature) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
SET_HEAD = (
    "INSERT INTO audit_head (chain, seq, hash) VALUES (?, ?, ?) "
    "ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, hash = excluded.hash"
)

_receipt = operator.itemgetter(*(COLUMNS.index(name) for name in Receipt.__struct_fields__))


class Draft:
    """Entries of a transaction that is not committed yet."""

    __slots__ = ("entries", "head")

    def __init__(self, head: Head) -> None:
        self.entries: list[Entry] = []
        self.head = head


class AuditTrail:
    """Writes one chain, on one thread."""

    def __init__(self, signer: "Signer", now: Callable[[], float], *, version: str) -> None:
        """`now` gives UTC seconds."""
        self._signer = signer
        self._now = now
        self._version = version
        self._head = Head(f"{int(now()):08x}{secrets.token_hex(4)}", 0, GENESIS)
        self._pledged: dict[Head, Draft] = {}  # by where the chain ends if it was committed

    @property
    def needs_heads(self) -> bool:
        """Whether `draft` needs the ends of all chains: for its first entry, or while its own is in doubt."""
        return not self._is_open or bool(self._pledged)

    @property
    def _is_open(self) -> bool:
        return self._head.seq > 0

    def draft(
        self, rows: Sequence[Row], heads: Sequence[Sequence[Any]] = (), notes: Sequence[Note] = ()
    ) -> Draft:
        """What a transaction that commits `rows` and `notes` has to add. `heads`: see `needs_heads`."""
        self._catch_up(heads)
        draft, now = Draft(self._head), self._microseconds()
        if not self._is_open:
            opening = Opening(self._signer.public_key, self._version, [Head(*head) for head in heads])
            self._add(draft, EntryKind.OPENED, now, json_text(opening))
        for note in notes:
            self._add(draft, note.kind, note.at, note.payload)
        if rows:
            self._add(draft, EntryKind.ATTEMPTS, now, json_text([_receipt(row) for row in rows]))
        return draft

    def pledge(self, draft: Draft) -> None:
        """`draft` is about to be committed: until it is adopted nobody here knows whether it was."""
        self._pledged[draft.head] = draft
        draft.entries.clear()  # they are with the database; while it is unreachable many drafts may wait here

    def adopt(self, draft: Draft) -> None:
        """`draft` is committed."""
        self._pledged.clear()
        self._head = draft.head

    def _catch_up(self, heads: Sequence[Sequence[Any]]) -> None:
        """Adopt what was committed without our hearing of it. All that was pledged follows the same entry."""
        for head in heads:
            if (committed := self._pledged.get(Head(*head))) is not None:
                self.adopt(committed)
                return

    def _add(self, draft: Draft, kind: str, at: int, payload: str) -> None:
        before = draft.head
        seq = before.seq + 1
        digest = link(before.hash, before.chain, seq, at, kind, payload)
        entry = Entry(before.chain, seq, at, str(kind), payload, digest, self._signer.sign(digest))
        draft.entries.append(entry)
        draft.head = Head(before.chain, seq, digest)

    def _microseconds(self) -> int:
        return int(self._now() * 1_000_000)


def entry_values(entry: Entry) -> tuple[Any, ...]:
    """The parameters of INSERT_ENTRY."""
    return (entry.chain, entry.seq, entry.at, entry.kind, entry.payload, entry.hash, entry.signature)


def head_values(head: Head) -> tuple[Any, ...]:
    """The parameters of SET_HEAD."""
    return (head.chain, head.seq, head.hash)
