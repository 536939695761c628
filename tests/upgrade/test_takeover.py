"""One after the other: what a release left behind when it died is the next one's, and nothing of it is lost.

A gateway of each release serve the same ledger. Under load its database goes out of reach. Then one is killed
with -9, which leaves its journal, and the other is stopped, which leaves its rows in a spill file. When the
database is back, a gateway of either release starts on these remains.

What is promised: a new gateway reads what an old one left, always. The way back, because a rollout may have
to be taken back, holds as long as no migration was added to the ledger since 0.1.0: a release refuses a
ledger whose revision it does not know, and says so. Whoever adds one makes these tests say that instead.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.upgrade.books import billed, disagreements, total
from tests.upgrade.clients import Load, ask, chat, sender
from tests.upgrade.installation import Installation
from tests.upgrade.installer import Installer, Where
from tests.upgrade.ledgers import Row
from tests.upgrade.prices import NANO
from tests.upgrade.releases import Release
from tests.upgrade.upstreams import Seen, Upstreams
from tests.upgrade.waiting import TEST_SECONDS, until

CLIENTS = 16
COMMITTED, UNCOMMITTED = 60, 100  # answers before the database goes out of reach, and after
FEATURE = "search"

HOSTED = {"ttft_ms": 5, "tokens_per_second": 250, "output_tokens": 40}
HOSTED |= {"error_rate": 0.06, "error_kind": "reset_mid"}
REPLICA = {"ttft_ms": 2, "tokens_per_second": 500, "output_tokens": 30}
REPLICA |= {"error_rate": 0.06, "error_kind": "server_error"}


class Remains(msgspec.Struct, frozen=True):
    """What is known when all gateways are gone. `used`: of each shared budget, in nano-USD."""

    installation: Installation
    seen: list[Seen]
    answered: list[str]
    used: Mapping[str, int]


class Takeover(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the remains once a gateway of one release serves there. Money in nano-USD."""

    remains: Remains
    rows: list[Row]  # as soon as it serves
    set_aside: list[Path]
    unread: list[Path]
    spent: int  # of the org
    unseen: int
    used: Mapping[str, int]  # of each shared budget, once the holds of the dead have ended
    foreign_keys: set[str]  # in the shared state
    usage: Mapping[str, list[Row]]  # `tollway usage`, by the release that was asked
    audit: Mapping[str, Any]  # `tollway audit verify`
    status: int  # of the answer to one more request
    complaints: list[str]


# What is killed on one is stopped on the other: journals and spill files are the same for any database.
ENDS = [
    pytest.param((Where.ONE_MACHINE, "old", "new"), id="sqlite-after-old-was-killed-and-new-stopped"),
    pytest.param((Where.SEVERAL, "new", "old"), id="postgresql-after-new-was-killed-and-old-stopped"),
]


@pytest.fixture(scope="module", params=ENDS)
def takeovers(
    request: pytest.FixtureRequest, installer: Installer, upstreams: Upstreams, old: Release, new: Release
) -> Mapping[str, Takeover]:
    """By the release that takes over: both do, from the same remains."""
    where, killed, stopped = request.param
    releases = {"old": old, "new": new}

    async def both() -> Mapping[str, Takeover]:
        installation = await installer.install(where, {FEATURE: {"team": "product"}})
        remains = await die(installation, upstreams, releases[killed], releases[stopped])
        await upstreams.behave({}, {})
        return {name: await take_over(remains, release, releases) for name, release in releases.items()}

    return asyncio.run(asyncio.wait_for(both(), TEST_SECONDS))


@pytest.fixture(params=["new", "old"], ids=lambda name: f"{name}-takes-over")
def takeover(request: pytest.FixtureRequest, takeovers: Mapping[str, Takeover]) -> Takeover:
    """By a new gateway, and by an old one."""
    return takeovers[request.param]


async def die(installation: Installation, upstreams: Upstreams, first: Release, second: Release) -> Remains:
    """Under load, the one of `first` is killed, and that of `second` stops while there is no database."""
    await upstreams.begin(HOSTED, REPLICA)
    killed, stopped = await installation.start(first, second)
    load = Load([killed, stopped], FEATURE)
    async with load.running(CLIENTS):
        await until(lambda: len(load.answered) > COMMITTED)
        with installation.ledger.unreachable():
            await until(lambda: len(load.answered) > COMMITTED + UNCOMMITTED)
            killed.kill()
            await stopped.stop()
    assert installation.segments()
    assert installation.spilled()
    await installation.save()
    used = {} if installation.state is None else installation.state.used()
    return Remains(installation, await upstreams.at_rest(), load.answered, used)


async def take_over(remains: Remains, release: Release, releases: Mapping[str, Release]) -> Takeover:
    """A gateway of `release` starts, and everything is looked at."""
    installation, state = remains.installation, remains.installation.state
    await installation.restore()
    [gateway] = await installation.start(release)
    rows = await installation.ledger.rows()
    unread = [*installation.spilled(), *installation.dead_segments()]
    if state is None:
        spent, unseen = [await gateway.budget_nano(family, "org") for family in ("spent", "unseen")]
        used: dict[str, int] = {}
    else:
        await until(state.is_at_rest)
        org = state.budgets()[f"org:{state.org}|lifetime"]
        spent, unseen, used = org.spent, org.unseen, state.used()
    audit, *usage = await asyncio.gather(
        release.report(installation.config, "audit", "verify"),
        *(installation.usage(asked) for asked in releases.values()),
    )
    async with sender() as http:
        answer = await ask(http, gateway, FEATURE, chat("scout", 10))
    await gateway.stop()
    return Takeover(
        remains=remains,
        rows=rows,
        set_aside=installation.set_aside(),
        unread=unread,
        spent=spent,
        unseen=unseen,
        used=used,
        foreign_keys=set() if state is None else state.foreign_keys(),
        usage=dict(zip(releases, usage, strict=True)),
        audit=audit,
        status=answer.status_code,
        complaints=gateway.complaints(),
    )


def test_every_attempt_that_an_upstream_saw_is_booked_once_at_its_price(takeover: Takeover) -> None:
    assert disagreements(takeover.remains.seen, takeover.rows, takeover.remains.answered) == []


def test_what_was_left_is_of_every_kind(takeover: Takeover) -> None:
    """Or the load was a poor one, and the end came at no interesting moment."""
    outcomes = {row["outcome"] for row in takeover.rows}
    assert outcomes >= {"success", "presumed", "client_disconnect", "upstream_error"}


def test_no_file_is_set_aside_as_damaged_and_none_is_left_unread(takeover: Takeover) -> None:
    assert takeover.set_aside == []
    assert takeover.unread == []


def test_budgets_forget_nothing_that_was_spent_or_may_have_been(takeover: Takeover) -> None:
    true = sum(billed(attempt) for attempt in takeover.remains.seen)
    assert takeover.spent + takeover.unseen >= true > 0


def test_budgets_say_what_the_ledger_says(takeover: Takeover) -> None:
    """In memory they are counted anew from it; shared ones are lifted to it where they were below."""
    booked = total(takeover.rows, "cost_nano_usd"), total(takeover.rows, "unseen_nano_usd")
    if takeover.remains.used:
        assert takeover.spent + takeover.unseen >= sum(booked)
    else:
        assert (takeover.spent, takeover.unseen) == booked


def test_shared_budgets_are_as_full_as_before(takeover: Takeover) -> None:
    """To the nano-dollar, but for what died under way: until somebody has ended its holds, it is counted as
    held and, once it is in the ledger, as spent. Each client had one request under way at most. The end of
    some may have been in the journal already.
    """
    costs = {row["attempt_id"]: row["cost_nano_usd"] + row["unseen_nano_usd"] for row in takeover.rows}
    presumed = {row["attempt_id"] for row in takeover.rows if row["outcome"] == "presumed"}
    ended = sorted(cost for attempt, cost in costs.items() if attempt not in presumed)
    twice = sum(costs[attempt] for attempt in presumed) + sum(ended[len(ended) - CLIENTS + len(presumed) :])
    assert takeover.used.keys() == takeover.remains.used.keys()
    for budget, before in takeover.remains.used.items():
        assert before <= takeover.used[budget] <= before + twice


def test_the_shared_state_has_no_key_that_the_old_release_does_not_know(takeover: Takeover) -> None:
    assert takeover.foreign_keys == set()


def test_both_releases_book_the_same_rows(takeovers: Mapping[str, Takeover]) -> None:
    """Column by column: of what one release wrote, the other understands all, and the same by it."""
    assert takeovers["new"].rows == takeovers["old"].rows


def test_both_releases_report_the_same_usage(takeover: Takeover) -> None:
    nano = sum(round(row["cost_usd"] * NANO) for row in takeover.usage["new"])
    assert takeover.usage["new"] == takeover.usage["old"]
    assert nano == total(takeover.rows, "cost_nano_usd")


def test_the_audit_log_is_whole(takeover: Takeover) -> None:
    assert takeover.audit["ok"], takeover.audit["findings"]
    assert takeover.audit["receipts"] == takeover.audit["rows"] == len(takeover.rows)


def test_the_successor_serves_and_complains_of_nothing(takeover: Takeover) -> None:
    assert takeover.status == 200
    assert takeover.complaints == []
