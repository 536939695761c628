"""Bring a ledger in PostgreSQL to the revision that this version of Tollway writes."""

import asyncio
import io

from gateway.ledger.postgres.address import PostgresAddress
from gateway.ledger.postgres.connection import MIGRATION_LOCK, Connection
from gateway.ledger.revisions import HEAD, VERSION_TABLE, refuse_newer, refuse_old, run_alembic

MIGRATION_SECONDS = 300.0

# Not to_regclass: it may answer from a cache that does not know yet what the last holder of a lock has made.
_HAS_TABLE = (
    "SELECT EXISTS (SELECT FROM pg_tables WHERE tablename = $1 AND schemaname = ANY (current_schemas(false)))"
)


async def revision_of(connection: Connection, address: PostgresAddress) -> str | None:
    """The revision of the database, None when it holds no ledger. Raises LedgerUnavailable for a newer."""
    if not await connection.fetchval(_HAS_TABLE, VERSION_TABLE):
        return None
    revision = await connection.fetchval(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608  # a constant
    refuse_newer(revision, address)
    return None if revision is None else str(revision)


async def require_head(connection: Connection, address: PostgresAddress) -> None:
    """Raise LedgerUnavailable unless the database is at the revision of this version."""
    refuse_old(await revision_of(connection, address), address)


async def migrate(connection: Connection, address: PostgresAddress) -> None:
    """Make or migrate the tables. Several processes may: one does, the others find it done."""
    if await revision_of(connection, address) == HEAD:
        return
    async with asyncio.timeout(MIGRATION_SECONDS), connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SET LOCAL lock_timeout = 0")
        lock = "SELECT pg_advisory_xact_lock($1)"
        await connection.execute(lock, MIGRATION_LOCK, timeout=MIGRATION_SECONDS)
        revision = await revision_of(connection, address)
        if revision != HEAD:
            await connection.execute(_script(revision), timeout=MIGRATION_SECONDS)


def _script(revision: str | None) -> str:
    """SQL that takes a ledger from `revision` (None: an empty database) to HEAD."""
    output = io.StringIO()
    run_alembic({"output": output}, f"{revision or 'base'}:{HEAD}", sql=True)
    return output.getvalue()
