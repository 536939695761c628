"""Replies of the Lua functions: each becomes its own type, and what is none of them says what is wrong."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.core.admission import RateView
from gateway.core.errors import Unavailable
from gateway.core.windows import Per
from gateway.quota.redis import store as calls
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.refusals import rate_view
from gateway.quota.redis.replies import (
    Admitted,
    Applied,
    BarrierStatus,
    BudgetsRead,
    Claimed,
    Closed,
    CountersRow,
    EpochEntered,
    Forgotten,
    Gap,
    Leased,
    LimitKind,
    NoBudget,
    NoLimit,
    RateRow,
    ReplyDecoder,
    ShadowedRow,
    SnapshotTaken,
    Stale,
    Swept,
)
from gateway.quota.redis.server_clock import ServerClock
from gateway.quota.redis.shared_counters import share_counters
from gateway.quota.redis.specs import QuotaSpec, make_spec
from tests.core.builders import ToldClock, ask, principal, scope
from tests.quota.stores import UTC

pack = msgspec.msgpack.encode

ADMITTED = [1, 900, 1_100_000, 5, [60, 59, 1_500_000], False, [[0, "t"]], [[1, 2, 3, 4]]]
GRANTED = Admitted(
    900,
    1_100_000,
    5,
    RateRow(60, 59, 1_500_000),
    False,
    [ShadowedRow(0, LimitKind.TOKENS)],
    [CountersRow(1, 2, 3, 4)],
)
LEASED = [1, 5, 70, 8, 900, 40, 2, -1, [], [60, 59, 0], False]
NO_BUDGET = ([2, 0, 10, 1, 2, 3, 5], NoBudget(0, 10, 1, 2, 3, 5))
NO_LIMIT = ([3, 1, "q", -1, 5], NoLimit(1, LimitKind.REQUESTS, -1, 5))
STALE = ([4, 5], Stale(5))
FORGOTTEN = ([5], Forgotten())
CLOSED = ([7, 5], Closed(5))

EXPECTED: list[tuple[str, Any, list[tuple[Any, Any]]]] = [
    ("admit", calls._ADMIT, [(ADMITTED, GRANTED), NO_BUDGET, NO_LIMIT, STALE, FORGOTTEN, CLOSED]),
    ("renew", calls._RENEW, [(ADMITTED, GRANTED), NO_BUDGET, STALE, FORGOTTEN, CLOSED]),
    (
        "lease",
        calls._LEASE,
        [(LEASED, Leased(5, 70, 8, 900, 40, 2, -1, [], RateRow(60, 59, 0), False)), STALE, FORGOTTEN, CLOSED],
    ),
    ("settle", calls._SETTLE, [([1, 5], Applied(5)), ([6, 5], Gap(5))]),
    ("heartbeat", calls._HEARTBEAT, [([1, 5], Applied(5))]),
    ("sweep", calls._SWEEP, [([1, 5, 2], Swept(5, 2))]),
    (
        "snapshot",
        calls._SNAPSHOT,
        [
            ([1, 5, "e", [[1, 2, 3, 4]], 0, 2], SnapshotTaken(5, "e", [CountersRow(1, 2, 3, 4)], 0, 2)),
            ([1, 5, False, [], 0, 1], SnapshotTaken(5, False, [], 0, 1)),
            STALE,
        ],
    ),
    ("read_budgets", calls._READ_BUDGETS, [([1, 5, []], BudgetsRead(5, [])), STALE]),
    ("claim", calls._CLAIM, [([1, 5, 1], Claimed(5, 1))]),
    ("release_claim", calls._RELEASE_CLAIM, [([1, 5], Applied(5))]),
    ("add_slots", calls._ADD_SLOTS, [([1, 5], Applied(5))]),
    ("enter_epoch", calls._ENTER_EPOCH, [([1, 5, "e", 1], EpochEntered(5, "e", 1))]),
    ("register_holds", calls._REGISTER_HOLDS, [([1, 5], Applied(5)), STALE]),
    ("barrier", calls._BARRIER, [([1, 5, 4, 1, 2, 3], BarrierStatus(5, 4, 1, 2, 3)), FORGOTTEN]),
    ("restore", calls._RESTORE, [([1, 5], Applied(5)), STALE, FORGOTTEN, CLOSED]),
    ("add_missing", calls._ADD_MISSING, [([1, 5], Applied(5)), STALE, FORGOTTEN]),
    ("deregister", calls._DEREGISTER, [([1, 5], Applied(5))]),
]


@pytest.mark.parametrize(("function", "decoder", "replies"), EXPECTED, ids=[item[0] for item in EXPECTED])
def test_each_reply_becomes_its_own_type(
    function: str, decoder: ReplyDecoder[Any], replies: list[tuple[Any, Any]]
) -> None:
    assert decoder.function == function
    for packed, expected in replies:
        assert decoder(pack(packed)) == expected


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (None, "the reply of admit is not packed: NoneType"),
        (5, "the reply of admit is not packed: int"),
        (b"", "truncated"),
        (b"\xc1", "malformed"),
        (pack({"kind": 1}), "Expected `array`, got `object`"),
        (pack([]), "Expected `array` of at least length 1"),
        (pack([9, 5]), "Invalid value 9"),
        (pack([6, 5]), "Invalid value 6"),  # a reply, but of another function
        (pack([4]), "Expected `array` of at least length 2"),
        (pack([4, 5, 6]), "Expected `array` of at most length 1, got 2"),
        (pack([4, "soon"]), "Expected `int`, got `str` - at `$[1]`"),
        (pack([3, 1, "x", -1, 5]), "Invalid enum value 'x' - at `$[2]`"),
        (pack([*ADMITTED[:-1], [[1, 2, 3]]]), "at `$[7][0]`"),
        # Two fields in the wrong order.
        (pack([1, 900, 1_100_000, 5, False, False, [[1, 2, 3, 4]], []]), "at `$[6][0][1]`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "reply",
)
def test_what_is_no_such_reply_says_what_is_wrong(reply: Any, words: str) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        calls._ADMIT(reply)
    assert "the reply of admit" in str(refused.value)
    assert words in str(refused.value)
    assert not refused.value.never_sent, "what it asked for may have been done"


def test_a_rate_is_shown_in_seconds_or_not_at_all() -> None:
    assert rate_view(RateRow(60, 59, 1_500_000)) == RateView(60, 59, 1.5)
    assert rate_view(False) is None


class AnsweringClient:
    """A client whose server gives these replies, one after another."""

    is_connected = True

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.sent: list[tuple[Any, ...]] = []

    def send(self, *sent: Any) -> "asyncio.Future[Any]":
        self.sent.append(sent)
        future = asyncio.get_running_loop().create_future()
        if self.replies:
            future.set_result(self.replies.pop(0))
        return future

    def succeeded(self) -> None:
        pass

    def failed(self, error: Exception) -> Exception:
        return error


def over(client: AnsweringClient) -> tuple[calls.CounterStore, ServerClock]:
    clock = ServerClock(ToldClock())
    return calls.CounterStore(client, clock), clock  # type: ignore[arg-type]


def fresh(clock: ServerClock) -> Callable[[], QuotaSpec]:
    return lambda: make_spec([scope(budgets={Per.DAY: 1})], UTC, clock.now())


def test_a_stale_spec_is_made_again_by_the_servers_clock() -> None:
    async def scenario() -> None:
        day_later = int((ToldClock().now() + 86_400) * 1_000_000)
        client = AnsweringClient(pack([4, day_later]), pack([1, day_later, []]))
        store, clock = over(client)
        before = fresh(clock)()
        spec, reply = await store.for_spec(fresh(clock), store.read_budgets)
        assert reply == BudgetsRead(day_later, [])
        assert spec.start == before.start + 86_400
        assert [sent[1] for sent in client.sent] == [before.packed, spec.packed]

    asyncio.run(scenario())


def test_clocks_that_do_not_come_to_agree_are_told() -> None:
    async def scenario() -> None:
        store, clock = over(AnsweringClient(*[pack([4, 5])] * 3))
        with pytest.raises(StoreUnavailable, match="clocks do not agree") as refused:
            await store.for_spec(fresh(clock), store.read_budgets)
        assert refused.value.never_sent

    asyncio.run(scenario())


def test_a_malformed_reply_to_an_admit_closes_hard_budgets_and_gives_the_hold_back() -> None:
    triage = scope(budgets={Per.DAY: 10_000_000})

    async def scenario() -> None:
        client, clock = AnsweringClient(pack([1, "garbage"])), ToldClock()
        shared = share_counters(client, clock, UTC)  # type: ignore[arg-type]
        admission = RedisAdmission(shared, clock)
        admission.configure([triage], UTC)
        with pytest.raises(Unavailable):
            await admission.admit(ask(principal(triage)))
        await asyncio.sleep(0)
        (_, admit), (function, _, _, settled) = (client.sent[0][:2], client.sent[1])
        assert (function, admit) == ("settle", b"")
        ((hold, *used),) = msgspec.msgpack.decode(settled)
        assert hold.startswith(shared.holds.worker)
        assert used[:3] == [0, 0, 0]

    asyncio.run(scenario())
