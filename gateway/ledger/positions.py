"""How far the journal of each worker is in the ledger, kept in the same transaction as its rows and notes.

So a writer that was killed is followed by one that begins where its last commit ended, and nothing is
entered twice.
"""

from collections.abc import Iterable
from typing import Any

TABLE = "journal_position"

COMMITTED = f"SELECT committed FROM {TABLE} WHERE worker = ?"  # noqa: S608
# Changes no row when somebody else has committed a part of that journal meanwhile.
ADVANCE = f"UPDATE {TABLE} SET committed = ? WHERE worker = ? AND committed = ?"  # noqa: S608
BEGIN = f"INSERT INTO {TABLE} (worker, committed) VALUES (?, ?) ON CONFLICT DO NOTHING"  # noqa: S608
FORGET = f"DELETE FROM {TABLE} WHERE worker = ?"  # noqa: S608


def committed_in(rows: Iterable[Any]) -> int:
    """The answer to COMMITTED."""
    return next((int(row[0]) for row in rows), 0)
