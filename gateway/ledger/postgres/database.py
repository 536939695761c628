"""The `Database` that is one of a PostgreSQL server's."""

import re
from contextlib import AbstractContextManager

from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.database import Maintenance, ReadTransaction, RowStore
from gateway.ledger.paths import LedgerPaths
from gateway.ledger.postgres.address import PostgresAddress
from gateway.ledger.postgres.connection import connect, disconnect, translated
from gateway.ledger.postgres.loop_thread import LoopThread
from gateway.ledger.postgres.maintenance import postgres_maintenance
from gateway.ledger.postgres.migrate import migrate, revision_of
from gateway.ledger.postgres.reading import postgres_reading
from gateway.ledger.postgres.store import PostgresStore
from gateway.ledger.revisions import HEAD


class PostgresDatabase:
    """The database at `address`, which exists; its tables need not."""

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        name = re.sub(r"[^\w.-]", "_", address.database)
        self.paths = LedgerPaths(name=name, identity=f"{address.server}/{address.database}")

    def __str__(self) -> str:
        return str(self._address)

    __repr__ = __str__

    def row_store(self, trail: AuditTrail | None = None, *, sync_each_commit: bool = False) -> RowStore:
        """Every commit is on the server's disk when it returns, `sync_each_commit` or not."""
        return PostgresStore(self._address, trail)

    def reading(self) -> AbstractContextManager[ReadTransaction]:
        return postgres_reading(self._address)

    def maintenance(self, *, is_quick: bool = False) -> AbstractContextManager[Maintenance]:
        return postgres_maintenance(self._address, is_quick=is_quick)

    def create_if_absent(self) -> None:
        self._migrate(only_if_absent=True)

    def create_or_migrate(self) -> tuple[str | None, str]:
        return self._migrate(), HEAD

    def _migrate(self, *, only_if_absent: bool = False) -> str | None:
        """The revision before."""
        with LoopThread() as loop:
            return loop.run(_migrate(self._address, only_if_absent=only_if_absent))


async def _migrate(address: PostgresAddress, *, only_if_absent: bool) -> str | None:
    connection = await connect(address)
    try:
        with translated(address):
            before = await revision_of(connection, address)
            if before is None or not only_if_absent:
                await migrate(connection, address)
            return before
    finally:
        await disconnect(connection)
