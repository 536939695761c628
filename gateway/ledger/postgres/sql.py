"""Statements of the ledger's writer on PostgreSQL.

Rows come by COPY into a temporary table, from where the server itself keeps ids unique, dates late rows,
inserts, and adds up.
"""

import itertools
import re

from gateway.ledger.periods import DATE_LATE_ROWS
from gateway.ledger.rollups import keep_rollups_on_postgres
from gateway.ledger.tables import ALL_COLUMNS, COLUMNS, usage_record

STAGED = "staged"


def numbered(statement: str) -> str:
    """`statement` with numbered parameters in place of question marks."""
    numbers = itertools.count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", statement)


# Booleans arrive as 0 and 1, as everywhere in `rows`.
_BOOLEANS = frozenset(
    column.name
    for column in usage_record.columns
    if column.type.python_type is bool and column.name in COLUMNS
)

# A server that is set to answer before a commit is on its disk forgets it in a crash, and by then the journal
# has let go of the rows. Only the URL may choose that.
DURABLE = (
    "SELECT set_config('synchronous_commit', 'local', false) FROM pg_settings "
    "WHERE name = 'synchronous_commit' AND setting = 'off' AND source <> 'client'"
)

STAGE = (
    f"CREATE TEMPORARY TABLE {STAGED} (LIKE usage_record INCLUDING DEFAULTS) ON COMMIT DELETE ROWS",
    *(f"ALTER TABLE {STAGED} ALTER {name} TYPE integer USING 0" for name in sorted(_BOOLEANS)),
)

# Also forgets those of the staged rows that the ledger has already, in whatever month.
CLAIM_ATTEMPTS = (
    f"WITH claimed AS (INSERT INTO usage_attempt (attempt_id, at) SELECT attempt_id, at FROM {STAGED} "  # noqa: S608
    "ON CONFLICT DO NOTHING RETURNING attempt_id) "
    f"DELETE FROM {STAGED} AS s WHERE NOT EXISTS (SELECT 1 FROM claimed c WHERE c.attempt_id = s.attempt_id)"
)
DATE_LATE = DATE_LATE_ROWS.format(rows=STAGED, open="$1")
TAKE = (
    f"INSERT INTO usage_record ({', '.join(ALL_COLUMNS)}) SELECT "  # noqa: S608  # names from this package
    + ", ".join(f"{name} = 1" if name in _BOOLEANS else name for name in ALL_COLUMNS)
    + f" FROM {STAGED}"
)
KEEP_ROLLUPS = keep_rollups_on_postgres(STAGED)
