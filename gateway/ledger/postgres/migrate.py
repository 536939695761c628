"""Bring a ledger in PostgreSQL to the revision that this version of Tollway writes."""

import asyncio
import io

from gateway.ledger.postgres.address import PostgresAddress
from gateway.ledger.postgres.connection import MIGRATION_LOCK, Connection
from gateway.ledger.revisions import (
    ADOPT,
    HEAD,
    LEAST_TABLE,
    VERSION_TABLE,
    refuse_old,
    revision_in,
    run_alembic,
)

MIGRATION_SECONDS = 300.0

# Not to_regclass: it may answer from a cache that does not know yet what the last holder of a lock has made.
_HAS_TABLE = (
    "SELECT EXISTS (SELECT FROM pg_tables WHERE tablename = $1 AND schemaname = ANY (current_schemas(false)))"
)


async def revision_of(connection: Connection, address: PostgresAddress) -> str | None:
    """The revision of the database, None when it holds no ledger. Raises LedgerUnavailable for a newer."""
    schema, least = [await _number_in(connection, name) for name in (VERSION_TABLE, LEAST_TABLE)]
    return revision_in(schema, least, address)


async def _number_in(connection: Connection, name: str) -> str | None:
    if not await connection.fetchval(_HAS_TABLE, name):
        return None
    number = await connection.fetchval(f"SELECT version_num FROM {name}")  # noqa: S608  # one of two constants
    return None if number is None else str(number)


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
    if revision is not None:
        output.writelines(f"{statement};\n" for statement in ADOPT)
    run_alembic({"output": output}, f"{revision or 'base'}:{HEAD}", sql=True)
    return output.getvalue()
