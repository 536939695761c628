"""A ledger made or migrated by a command, before a gateway starts."""

from gateway.ledger.address import PostgresAddress, SqliteAddress, parse
from gateway.ledger.migrate import HEAD, upgrade, written_by
from gateway.ledger.reading import OwnLoop


def make_if_absent(url: str) -> None:
    """Make the tables where there are none. An older ledger stays: its gateways may be running.

    Raises LedgerUnavailable.
    """
    address = parse(url)
    if isinstance(address, SqliteAddress):
        if not address.path.exists():
            upgrade(url)
    else:
        with OwnLoop() as loop:
            loop.run(_make_in_postgres(address))


def make_or_migrate(url: str) -> tuple[str | None, str]:
    """Bring the ledger to this version. The revisions before (None: there was no ledger) and after.

    Idempotent, and safe beside gateways that start at the same time. Raises LedgerUnavailable.
    """
    address = parse(url)
    if isinstance(address, SqliteAddress):
        before = written_by(address.path)
        upgrade(url)
        return before, HEAD
    with OwnLoop() as loop:
        return loop.run(_migrated_in_postgres(address)), HEAD


async def _make_in_postgres(address: PostgresAddress) -> None:
    # Imported only where it is used: the driver takes a twentieth of a second.
    from gateway.ledger.postgres.connection import connect, disconnect, migrate, revision_of, translated  # noqa: PLC0415

    connection = await connect(address)
    try:
        with translated(address):
            if await revision_of(connection, address) is None:
                await migrate(connection, address)
    finally:
        await disconnect(connection)


async def _migrated_in_postgres(address: PostgresAddress) -> str | None:
    from gateway.ledger.postgres.connection import connect, disconnect, migrate, revision_of, translated  # noqa: PLC0415

    connection = await connect(address)
    try:
        with translated(address):
            before = await revision_of(connection, address)
            await migrate(connection, address)
            return before
    finally:
        await disconnect(connection)
