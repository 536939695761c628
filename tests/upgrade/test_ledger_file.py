"""A ledger that one version made and closed in order is opened by the other: no number changes.

The way back is there because a rollout may have to be taken back. A stop in order leaves nothing to bring in.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.upgrade.clients import Load
from tests.upgrade.installation import Installation
from tests.upgrade.installer import Installer
from tests.upgrade.ledgers import Row, SqliteLedger
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
    installation = await serve(installer, upstreams, old)
    before = tables(path_of(installation))
    told = await what_is_told(installation, old)
    await new.report(installation.config, "ledger", "migrate")
    await check_opened_unchanged(installation, new, before)
    assert await what_is_told(installation, new) == told


async def test_a_ledger_of_the_new_version_says_the_same_to_the_old_release(
    installer: Installer, upstreams: Upstreams, old: Release, new: Release
) -> None:
    installation = await serve(installer, upstreams, new)
    before = tables(path_of(installation))
    told = await what_is_told(installation, new)
    await check_opened_unchanged(installation, old, before)
    assert await what_is_told(installation, old) == told


async def serve(installer: Installer, upstreams: Upstreams, release: Release) -> Installation:
    """Where a gateway of `release` has served, and was stopped in order."""
    await upstreams.begin(HOSTED, REPLICA)
    installation = installer.on_one_machine({"search": {"team": "product"}})
    [gateway] = await installation.start(release)
    load = Load([gateway], "search")
    async with load.running(CLIENTS):
        await until(lambda: len(load.answered) > ANSWERS)
    await gateway.stop()
    assert [*installation.segments(), *installation.spilled()] == []
    assert sum(row["requests"] for row in await installation.usage(release)) > ANSWERS
    return installation


async def check_opened_unchanged(installation: Installation, release: Release, before: Tables) -> None:
    """A gateway of `release` starts and stops there, complains of nothing, and keeps every row."""
    [gateway] = await installation.start(release)
    await gateway.stop()
    assert gateway.complaints() == []
    assert changed(before, tables(path_of(installation))) == []
    audit = await release.report(installation.config, "audit", "verify")
    assert audit["ok"], audit["findings"]


async def what_is_told(installation: Installation, release: Release) -> tuple[list[Row], object]:
    """What `tollway usage` and `tollway ledger status` of `release` print."""
    usage, status = await asyncio.gather(
        installation.usage(release), release.report(installation.config, "ledger", "status")
    )
    return usage, status


def path_of(installation: Installation) -> Path:
    assert isinstance(installation.ledger, SqliteLedger)
    return installation.ledger.path


def tables(path: Path) -> Tables:
    """Everything in the database but its revision, which is what a migration changes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]
            for (name,) in names
            if name not in ("ledger_revision", "ledger_schema") and not name.startswith("sqlite_")
        }


def changed(before: Tables, after: Tables) -> list[str]:
    """Old rows that are not there as they were; columns and rows may be added."""
    lost = []
    for table, rows in before.items():
        columns = list(rows[0]) if rows else []
        kept = {tuple(row[column] for column in columns) for row in after[table]}
        lost += [f"{table}: {row}" for row in rows if tuple(row.values()) not in kept]
    return lost
