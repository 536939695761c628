"""Where a ledger in PostgreSQL lives, and its name in messages, without passwords."""

import msgspec


class PostgresAddress(msgspec.Struct, frozen=True):
    """A database of a server (`host:port`). `dsn` may hold a password; neither `str` nor `repr` shows it."""

    dsn: str
    shown: str
    server: str
    database: str

    def __str__(self) -> str:
        return self.shown

    __repr__ = __str__
