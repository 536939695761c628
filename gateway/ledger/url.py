"""Which database the URL of the setting `ledger` names. The only place that looks at its kind."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from gateway.ledger.database import Database
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.sqlite.database import SqliteDatabase

_FORMS = "write sqlite:///path/to/file.db or postgresql://user@host/database"


def database_of(url: str) -> Database:
    """The database that `url` names, not connected to. Raises LedgerUnavailable where no ledger can be."""
    try:
        parsed = make_url(url)
    except ArgumentError as exc:  # its message does not repeat the URL, which may hold a password
        raise LedgerUnavailable(f"ledger: not a database URL; {_FORMS}") from exc
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            return _sqlite(parsed)
        case "postgresql":
            return _postgres(parsed, url)
        case _:
            # Without its query too: that is another place where passwords stand.
            shown = parsed.set(query={}).render_as_string(hide_password=True)
            raise LedgerUnavailable(f"ledger: {shown} is not supported; {_FORMS}")


def _sqlite(parsed: URL) -> Database:
    if not parsed.database or parsed.database == ":memory:":
        raise LedgerUnavailable("ledger: needs a file, since memory forgets; write sqlite:///path/to/file.db")
    return SqliteDatabase(Path(parsed.database))


def _postgres(parsed: URL, url: str) -> Database:
    # Imported only where it is used: the driver takes a twentieth of a second.
    from gateway.ledger.postgres.address import PostgresAddress  # noqa: PLC0415
    from gateway.ledger.postgres.database import PostgresDatabase  # noqa: PLC0415

    if not parsed.database:
        raise LedgerUnavailable("ledger: names no database; write postgresql://user@host/database")
    shown = URL.create("postgresql", parsed.username, None, parsed.host, parsed.port, parsed.database)
    server = f"{parsed.host}:{parsed.port}"
    return PostgresDatabase(PostgresAddress(url, shown.render_as_string(), server, parsed.database))
