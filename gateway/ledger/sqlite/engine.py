"""Opening a ledger in an SQLite file: one place for pragmas and the words of a refusal."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from gateway.ledger.errors import (
    LedgerUnavailable,
    LedgerUnusable,
    disk_full,
    file_failure,
    has_no_space,
)
from gateway.private_files import narrow_if_there, private_file, private_folder

# A locked database is asked again by the writer, which can also say so; this is only for short overlaps.
BUSY_TIMEOUT_SECONDS = 1.0
PAGE_CACHE_KIB = 16 * 1024
# 16 MB of log before it is folded into the file: four times the default, since index pages are written once
# for many rows then. Saves a fifth of the processor time of a row.
CHECKPOINT_PAGES = 4000


# What another process, or room on the disk, may end. Everything else stays as it is.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)


# What SQLite also says where there is no room: for its log, or for the memory that its connections share.
_MAY_BE_NO_SPACE = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


def unavailable(path: Path, error: Exception) -> LedgerUnavailable:
    """SQLAlchemy's `error` on the file at `path`, in the words of the ledger."""
    cause = getattr(error, "orig", None) or error
    code: int | None = getattr(cause, "sqlite_errorcode", None)
    kind = LedgerUnavailable
    if code is not None:
        code &= 0xFF
        if code == sqlite3.SQLITE_FULL or (code in _MAY_BE_NO_SPACE and has_no_space(path.parent)):
            return disk_full(f"ledger {path}", path.parent)
        kind = LedgerUnavailable if code in _PASSING else LedgerUnusable
    return kind(f"ledger {path}: {cause}")


def is_busy(error: Exception) -> bool:
    """Whether somebody else holds a lock that this one needed."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def open_writer(path: Path, *, sync_each_commit: bool = False) -> Engine:
    """An engine for writing the SQLite file at `path`, not yet connected. Each transaction takes the lock.

    `sync_each_commit`: a power cut takes no commit that has returned.
    """
    engine = _open(path)
    event.listen(engine, "connect", _prepare_writer)
    if sync_each_commit:
        event.listen(engine, "connect", lambda driver, _: _set_pragmas(driver, "synchronous=FULL"))
    # sqlite3 itself would begin late and only for some statements: two processes could then both decide to
    # migrate, and a write could fail half-way for want of the lock.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def open_reader(path: Path) -> Engine:
    """An engine that cannot write and never holds the writer up. Raises LedgerUnavailable without a file."""
    if not path.exists():
        raise LedgerUnavailable(
            f"ledger {path}: there is no such file yet; the gateway makes it when it starts"
        )
    engine = _open(path)
    event.listen(engine, "connect", _prepare_reader)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _open(path: Path) -> Engine:
    return create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,  # closing really closes
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False, "isolation_level": None},
    )


def create_folder(path: Path) -> None:
    """Make the folder that `path` will stand in. Raises LedgerUnavailable."""
    try:
        private_folder(path.parent, is_ours=False)
    except OSError as exc:
        raise file_failure(f"ledger {path}: cannot make the folder {path.parent}", path.parent, exc) from exc


def keep_private(path: Path) -> None:
    """Let nobody else read the database at `path`: make it, since SQLite gives its log the same mode."""
    with suppress(OSError):  # SQLite says what is wrong
        private_file(path)
        for suffix in ("-wal", "-shm"):
            narrow_if_there(path.with_name(path.name + suffix))


def _prepare_writer(connection: Any, _record: Any) -> None:
    # With WAL, readers never stop the writer. NORMAL syncs at checkpoints: a commit survives kill -9 of the
    # process, and only a power cut can take the last commits (never the integrity) of the file.
    _set_pragmas(
        connection,
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        f"cache_size=-{PAGE_CACHE_KIB}",
    )


def _prepare_reader(connection: Any, _record: Any) -> None:
    _set_pragmas(connection, "query_only=ON", "temp_store=MEMORY", f"cache_size=-{PAGE_CACHE_KIB}")


def _set_pragmas(connection: Any, *settings: str) -> None:
    cursor = connection.cursor()
    for setting in settings:
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()
