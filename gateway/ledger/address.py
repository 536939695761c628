"""Where a ledger lives, from the URL of the setting `ledger`, and its name in messages, without passwords."""

from pathlib import Path

import msgspec
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from gateway.ledger.errors import LedgerUnavailable

_FORMS = "write sqlite:///path/to/file.db or postgresql://user@host/database"


class SqliteAddress(msgspec.Struct, frozen=True):
    """A file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


class PostgresAddress(msgspec.Struct, frozen=True):
    """A database of a PostgreSQL server. `dsn` may hold a password; neither `str` nor `repr` shows it."""

    dsn: str
    shown: str
    database: str

    def __str__(self) -> str:
        return self.shown

    __repr__ = __str__


Address = SqliteAddress | PostgresAddress


def parse(url: str) -> Address:
    """The place that `url` names. Raises LedgerUnavailable when it names none that a ledger can live in."""
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


def _sqlite(parsed: URL) -> SqliteAddress:
    if not parsed.database or parsed.database == ":memory:":
        raise LedgerUnavailable("ledger: needs a file, since memory forgets; write sqlite:///path/to/file.db")
    return SqliteAddress(Path(parsed.database))


def _postgres(parsed: URL, url: str) -> PostgresAddress:
    if not parsed.database:
        raise LedgerUnavailable("ledger: names no database; write postgresql://user@host/database")
    shown = URL.create("postgresql", parsed.username, None, parsed.host, parsed.port, parsed.database)
    return PostgresAddress(url, shown.render_as_string(), parsed.database)
