"""A ledger for a command that comes before the first start of a gateway."""

from gateway.adapters.ledger.address import PostgresAddress, SqliteAddress, parse
from gateway.adapters.ledger.migrate import upgrade
from gateway.adapters.ledger.reading import OwnLoop


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


async def _make_in_postgres(address: PostgresAddress) -> None:
    # Imported only where it is used: the driver takes a twentieth of a second.
    from gateway.adapters.ledger.postgres import (  # noqa: PLC0415
        connect,
        disconnect,
        migrate,
        revision_of,
        translated,
    )

    connection = await connect(address)
    try:
        with translated(address):
            if await revision_of(connection, address) is None:
                await migrate(connection, address)
    finally:
        await disconnect(connection)
