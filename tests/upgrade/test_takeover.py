"""One after the other: what a version left behind when it died is brought in, and nothing of it is lost.

A gateway of each version serve the same ledger. Under load its database goes out of reach. Then one is killed
with -9, which leaves its journal, and the other is stopped. Release 0.1.0 leaves its rows in a spill file
then, this version in its journal. When the database is back, a gateway of either starts on these remains.

What is promised:
- This version brings in everything, whichever of them left it.
- The way back, because a rollout may have to be taken back: release 0.1.0 brings in what it can read, leaves
  the journals of this version alone, and serves. What is in them is late until this version comes back.
  That holds as long as no migration was added to the ledger since 0.1.0: a release refuses a ledger whose
  revision it does not know, and says so. Whoever adds one makes these tests say that instead.
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
OLD_SEGMENT, NEW_SEGMENT = ".journal", ".journal2"

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
    """What became of the remains once a gateway of one version serves there. Money in nano-USD."""

    remains: Remains
    rows: list[Row]  # as soon as it serves
    set_aside: list[Path]
    unread: Mapping[Path, bytes]
    spent: int  # of the org
    unseen: int
    used: Mapping[str, int]  # of each shared budget, once the holds of the dead have ended
    foreign_keys: set[str]  # in the shared state
    usage: Mapping[str, list[Row]]  # `tollway usage`, by the version that was asked
    audit: Mapping[str, Any]  # `tollway audit verify`
    status: int  # of the answer to one more request
    complaints: list[str]
    left: Remains  # when it was stopped after that request


# What is killed on one is stopped on the other: journals and spill files are the same for any database.
ENDS = [
    pytest.param((Where.ONE_MACHINE, "old", "new"), id="sqlite-after-old-was-killed-and-new-stopped"),
    pytest.param((Where.SEVERAL, "new", "old"), id="postgresql-after-new-was-killed-and-old-stopped"),
]
# This version from the remains, release 0.1.0 from the same, and this version after that.
AT_ONCE, GONE_BACK, COME_BACK = "new-takes-over", "old-takes-over", "new-takes-over-after-old"


@pytest.fixture(scope="module", params=ENDS)
def takeovers(
    request: pytest.FixtureRequest, installer: Installer, upstreams: Upstreams, old: Release, new: Release
) -> Mapping[str, Takeover]:
    where, killed, stopped = request.param
    releases = {"old": old, "new": new}

    async def all_of_them() -> Mapping[str, Takeover]:
        installation = await installer.install(where, {FEATURE: {"team": "product"}})
        remains = await die(installation, upstreams, releases[killed], releases[stopped])
        check_kinds(installation, killed=killed, stopped=stopped)
        await upstreams.behave({}, {})
        await installation.save()
        at_once = await take_over(remains, upstreams, new, releases)
        await installation.restore()
        gone_back = await take_over(remains, upstreams, old, releases)
        come_back = await take_over(gone_back.left, upstreams, new, releases)
        return {AT_ONCE: at_once, GONE_BACK: gone_back, COME_BACK: come_back}

    return asyncio.run(asyncio.wait_for(all_of_them(), TEST_SECONDS))


@pytest.fixture(params=[AT_ONCE, COME_BACK])
def takeover(request: pytest.FixtureRequest, takeovers: Mapping[str, Takeover]) -> Takeover:
    """By this version, which brings in everything."""
    return takeovers[request.param]


@pytest.fixture(params=[AT_ONCE, GONE_BACK, COME_BACK])
def any_takeover(request: pytest.FixtureRequest, takeovers: Mapping[str, Takeover]) -> Takeover:
    return takeovers[request.param]


@pytest.fixture
def gone_back(takeovers: Mapping[str, Takeover]) -> Takeover:
    """By release 0.1.0."""
    return takeovers[GONE_BACK]


async def die(installation: Installation, upstreams: Upstreams, first: Release, second: Release) -> Remains:
    """Under load, the one of `first` is killed, and that of `second` stops while there is no database."""
    await upstreams.begin(HOSTED, REPLICA)
    killed, stopped = await installation.start(first, second)
    load = Load([killed, stopped], FEATURE)
    async with load.running(CLIENTS):
        await until(lambda: len(load.answered) > COMMITTED)
        with installation.ledger.unreachable():
            await until(lambda: len(load.answered) > COMMITTED + UNCOMMITTED)
            killed.kill_all()
            await stopped.stop()
    return Remains(installation, await upstreams.at_rest(), load.answered, used(installation))


def check_kinds(installation: Installation, *, killed: str, stopped: str) -> None:
    """Whoever is killed leaves journals; a stop leaves them too, and that of 0.1.0 a spill file instead."""
    suffixes = {"old": OLD_SEGMENT, "new": NEW_SEGMENT}
    expected = {suffixes[killed]} | ({NEW_SEGMENT} if stopped == "new" else set())
    assert {path.suffix for path in installation.segments()} == expected
    assert bool(installation.spilled()) == (stopped == "old")


async def take_over(
    remains: Remains, upstreams: Upstreams, release: Release, releases: Mapping[str, Release]
) -> Takeover:
    """A gateway of `release` starts, everything is looked at, and it is stopped after one more request."""
    installation, state = remains.installation, remains.installation.state
    [gateway] = await installation.start(release)
    rows = await installation.ledger.rows()
    unread = [*installation.spilled(), *installation.dead_segments()]
    contents = {path: path.read_bytes() for path in unread}
    if state is None:
        spent, unseen = [await gateway.budget_nano(family, "org") for family in ("spent", "unseen")]
    else:
        await until(state.is_at_rest)
        org = state.budgets()[f"org:{state.org}|lifetime"]
        spent, unseen = org.spent, org.unseen
    used_now = used(installation)
    audit, *usage = await asyncio.gather(
        release.report(installation.config, "audit", "verify"),
        *(installation.usage(asked) for asked in releases.values()),
    )
    async with sender() as http:
        answer = await ask(http, gateway, FEATURE, chat("scout", 10))
    await gateway.stop()
    request_id = answer.headers["x-request-id"]
    seen_since = [seen for seen in await upstreams.at_rest() if _request_of(seen) == request_id]
    return Takeover(
        remains=remains,
        rows=rows,
        set_aside=installation.set_aside(),
        unread=contents,
        spent=spent,
        unseen=unseen,
        used=used_now,
        foreign_keys=set() if state is None else state.foreign_keys(),
        usage=dict(zip(releases, usage, strict=True)),
        audit=audit,
        status=answer.status_code,
        complaints=gateway.complaints(),
        left=Remains(
            installation,
            [*remains.seen, *seen_since],
            [*remains.answered, request_id],
            used(installation),
        ),
    )


def used(installation: Installation) -> Mapping[str, int]:
    """What is not left of each shared budget."""
    return {} if installation.state is None else installation.state.used()


def _request_of(seen: Seen) -> str:
    return (seen.attempt_id or "").partition(":")[0]


def test_every_attempt_that_an_upstream_saw_is_booked_once_at_its_price(takeover: Takeover) -> None:
    assert disagreements(takeover.remains.seen, takeover.rows, takeover.remains.answered) == []


def test_what_was_left_is_of_every_kind(takeover: Takeover) -> None:
    """Or the load was a poor one, and the end came at no interesting moment."""
    outcomes = {row["outcome"] for row in takeover.rows}
    assert outcomes >= {"success", "presumed", "client_disconnect", "upstream_error"}


def test_no_file_is_set_aside_as_damaged_and_none_is_left_unread(takeover: Takeover) -> None:
    assert takeover.set_aside == []
    assert takeover.unread == {}


def test_budgets_forget_nothing_that_was_spent_or_may_have_been(takeover: Takeover) -> None:
    true = sum(billed(attempt) for attempt in takeover.remains.seen)
    assert takeover.spent + takeover.unseen >= true > 0


def test_budgets_say_what_the_ledger_says(any_takeover: Takeover) -> None:
    """In memory they are counted anew from it; shared ones are lifted to it where they were below."""
    booked = total(any_takeover.rows, "cost_nano_usd"), total(any_takeover.rows, "unseen_nano_usd")
    if any_takeover.remains.used:
        assert any_takeover.spent + any_takeover.unseen >= sum(booked)
    else:
        assert (any_takeover.spent, any_takeover.unseen) == booked


def test_shared_budgets_are_as_full_as_before(any_takeover: Takeover) -> None:
    """To the nano-dollar, but for what died under way: until somebody has ended its holds, it is counted as
    held and, once it is in the ledger, as spent. Each client had one request under way at most. The end of
    some may have been in the journal already.
    """
    costs = {row["attempt_id"]: row["cost_nano_usd"] + row["unseen_nano_usd"] for row in any_takeover.rows}
    presumed = {row["attempt_id"] for row in any_takeover.rows if row["outcome"] == "presumed"}
    ended = sorted(cost for attempt, cost in costs.items() if attempt not in presumed)
    twice = sum(costs[attempt] for attempt in presumed) + sum(ended[len(ended) - CLIENTS + len(presumed) :])
    assert any_takeover.used.keys() == any_takeover.remains.used.keys()
    for budget, before in any_takeover.remains.used.items():
        assert before <= any_takeover.used[budget] <= before + twice


def test_it_is_all_the_same_whether_the_old_release_served_meanwhile(
    takeovers: Mapping[str, Takeover],
) -> None:
    """Column by column: what one version wrote the other understands, and the same by it."""
    at_once, come_back = takeovers[AT_ONCE], takeovers[COME_BACK]
    since = set(come_back.remains.answered) - set(at_once.remains.answered)
    assert [row for row in come_back.rows if row["request_id"] not in since] == at_once.rows


def test_the_old_release_books_all_that_it_can_read_as_the_new_one_does(
    takeovers: Mapping[str, Takeover],
) -> None:
    gone_back, at_once = takeovers[GONE_BACK], takeovers[AT_ONCE]
    booked = {row["attempt_id"] for row in gone_back.rows}
    assert gone_back.rows == [row for row in at_once.rows if row["attempt_id"] in booked]


def test_what_is_late_stays_in_the_journals_that_the_old_release_leaves_alone(gone_back: Takeover) -> None:
    booked = {row["attempt_id"] for row in gone_back.rows}
    late = {str(seen.attempt_id) for seen in gone_back.remains.seen} - booked
    left = b"".join(gone_back.unread.values())
    assert late
    assert {attempt for attempt in late if attempt.encode() not in left} == set()
    assert {path.suffix for path in gone_back.unread} == {NEW_SEGMENT}
    assert gone_back.set_aside == []


def test_the_old_release_books_everything_else_once_at_its_price(gone_back: Takeover) -> None:
    booked = {row["attempt_id"] for row in gone_back.rows}
    requests = {row["request_id"] for row in gone_back.rows if row["outcome"] == "success"}
    seen = [attempt for attempt in gone_back.remains.seen if attempt.attempt_id in booked]
    answered = [request for request in gone_back.remains.answered if request in requests]
    assert disagreements(seen, gone_back.rows, answered) == []


def test_shared_budgets_know_what_is_late_for_the_ledger(gone_back: Takeover) -> None:
    if gone_back.remains.used:
        true = sum(billed(attempt) for attempt in gone_back.remains.seen)
        assert gone_back.spent + gone_back.unseen >= true > 0


def test_the_shared_state_has_no_key_that_the_old_release_does_not_know(any_takeover: Takeover) -> None:
    assert any_takeover.foreign_keys == set()


def test_both_releases_report_the_same_usage(any_takeover: Takeover) -> None:
    nano = sum(round(row["cost_usd"] * NANO) for row in any_takeover.usage["new"])
    assert any_takeover.usage["new"] == any_takeover.usage["old"]
    assert nano == total(any_takeover.rows, "cost_nano_usd")


def test_the_audit_log_is_whole(any_takeover: Takeover) -> None:
    assert any_takeover.audit["ok"], any_takeover.audit["findings"]
    assert any_takeover.audit["receipts"] == any_takeover.audit["rows"] == len(any_takeover.rows)


def test_the_successor_serves_and_complains_of_nothing(any_takeover: Takeover) -> None:
    assert any_takeover.status == 200
    assert any_takeover.complaints == []
