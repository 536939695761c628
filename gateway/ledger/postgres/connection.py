"""Connecting to a ledger in PostgreSQL: deadlines, and asyncpg's errors in the words of the ledger."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable
from gateway.ledger.postgres.address import PostgresAddress

if TYPE_CHECKING:  # its classes take no parameters at run time
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

CONNECT_SECONDS = 5.0
# Beyond the server's own statement_timeout, for a server that no longer answers at all.
ANSWER_SECONDS = 40.0
CLOSE_SECONDS = 2.0

# Parameters of the URL that name a setting of the server win over these.
_SETTINGS = {
    "application_name": "tollway",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "jit": "off",  # compiling a statement costs more here than it saves
}
# Numbers of advisory locks: arbitrary, but the same in every process and version.
MIGRATION_LOCK = 0x746F6C6C_00000001
PERIODS_LOCK = 0x746F6C6C_00000002  # shared by writers, exclusive to whoever closes, prunes or rebuilds

# The row itself is at fault, and would be again. What the driver cannot encode is a ValueError.
ROW_FAULTS = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


# Mistakes of the URL or of the role's set-up.
_UNUSABLE = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


async def connect(
    address: PostgresAddress,
    *,
    settings: dict[str, str] | None = None,
    answer_seconds: float = ANSWER_SECONDS,
) -> Connection:
    """A connection with deadlines on everything. TLS, password and hosts as the URL says, in libpq's words.

    Raises LedgerUnavailable.
    """
    given = dict(parse_qsl(urlsplit(address.dsn).query))
    wanted = {name: value for name, value in _SETTINGS.items() if name not in given} | (settings or {})
    with translated(address):
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncpg.connect(
                    address.dsn,
                    timeout=CONNECT_SECONDS,
                    command_timeout=answer_seconds,
                    server_settings=wanted,
                )
        except ValueError as exc:  # a port or an sslmode that is none
            raise LedgerUnusable(f"ledger {address}: {exc}") from exc


async def disconnect(connection: Connection) -> None:
    """Close, politely if the server still answers."""
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        connection.terminate()


@contextmanager
def translated(address: PostgresAddress) -> Iterator[None]:
    """Raises LedgerUnavailable or LedgerUnusable for what asyncpg raises, but for the fault of a row."""
    try:
        yield
    except ROW_FAULTS:
        raise
    except _UNUSABLE as exc:
        raise LedgerUnusable(f"ledger {address}: {cause(exc)}") from exc
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as exc:
        raise LedgerUnavailable(f"ledger {address}: {cause(exc)}") from exc


def cause(error: Exception) -> str:
    """Why it failed, without the details in which the server repeats values of the row."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error.args[0] if isinstance(error, asyncpg.PostgresError) and error.args else error)
