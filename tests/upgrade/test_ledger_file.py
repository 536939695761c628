"""A ledger that an old release made and closed in order is opened by the new one: no number changes."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.upgrade.clients import Load
from tests.upgrade.installer import Installer
from tests.upgrade.ledgers import SqliteLedger
from tests.upgrade.releases import Release
from tests.upgrade.upstreams import Upstreams
from tests.upgrade.waiting import until

CLIENTS = 8
ANSWERS = 60
HOSTED = {"ttft_ms": 2, "tokens_per_second": 2000, "output_tokens": 20}
REPLICA = {"ttft_ms": 2, "output_tokens": 15, "error_rate": 0.1, "error_kind": "server_error"}

Tables = dict[str, list[dict[str, object]]]


async def test_a_ledger_of_the_old_release_says_the_same_to_the_new_one(
    installer: Installer, upstreams: Upstreams, old: Release, new: Release
) -> None:
    await upstreams.begin(HOSTED, REPLICA)
    installation = installer.on_one_machine({"search": {"team": "product"}})
    [gateway] = await installation.start(old)
    load = Load([gateway], "search")
    async with load.running(CLIENTS):
        await until(lambda: len(load.answered) > ANSWERS)
    await gateway.stop()
    assert isinstance(installation.ledger, SqliteLedger)
    before = tables(installation.ledger.path)
    usage, status = await asyncio.gather(
        installation.usage(old), old.report(installation.config, "ledger", "status")
    )
    assert sum(row["requests"] for row in usage) > ANSWERS

    await new.report(installation.config, "ledger", "migrate")
    [gateway] = await installation.start(new)
    await gateway.stop()

    assert gateway.complaints() == []
    assert changed(before, tables(installation.ledger.path)) == []
    audit, *told = await asyncio.gather(
        new.report(installation.config, "audit", "verify"),
        installation.usage(new),
        new.report(installation.config, "ledger", "status"),
    )
    assert told == [usage, status]
    assert audit["ok"], audit["findings"]


def tables(path: Path) -> Tables:
    """Everything in the database but its revision, which is what a migration changes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]
            for (name,) in names
            if name != "ledger_revision" and not name.startswith("sqlite_")
        }


def changed(before: Tables, after: Tables) -> list[str]:
    """Old rows that are not there as they were; columns and rows may be added."""
    lost = []
    for table, rows in before.items():
        columns = list(rows[0]) if rows else []
        kept = {tuple(row[column] for column in columns) for row in after[table]}
        lost += [f"{table}: {row}" for row in rows if tuple(row.values()) not in kept]
    return lost
