"""What refusals cost those who cause them."""

import asyncio

import pytest
import structlog.testing

from gateway.core.errors import (
    GatewayError,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    PrivacyViolation,
    RefusedByRule,
    TooManyRefusals,
    Unavailable,
)
from gateway.proxy.refusal_limits import (
    LONGEST_DELAY_SECONDS,
    MOST_WAITING,
    RefusalAllowances,
    RefusalLimits,
)
from tests.core.builders import ToldClock, run

ATTACKER, NEIGHBOUR = "203.0.113.5", "203.0.113.6"
WRONG_KEY, DENIED = InvalidApiKey, PrivacyViolation


class Stage:
    """The limits under a clock that stands still. `asleep` waits for `wake`."""

    def __init__(self, by_address: int = 30, by_key: int = 60) -> None:
        self.clock = ToldClock()
        self.wake = asyncio.Event()
        self.limits = RefusalLimits(RefusalAllowances(by_address, by_key), self.clock, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        await self.wake.wait()

    def told(self, kind: type[GatewayError], count: int, address: str = ATTACKER, key: str = "") -> list[str]:
        """What so many requests are told: `now`, `later` or `429`."""
        answers = (self.limits.judged(kind("No."), address, key) for _ in range(count))
        return [
            "429" if isinstance(one, TooManyRefusals) else "later" if one.delay_seconds else "now"
            for one in answers
        ]


def test_wrong_keys_of_an_address_are_answered_at_once_then_late_and_then_not_at_all():
    stage = Stage()
    assert stage.told(WRONG_KEY, 40) == ["now"] * 30 + ["later"] * 2 + ["429"] * 8
    assert stage.told(WRONG_KEY, 1, NEIGHBOUR) == ["now"]
    stage.clock.forward(60.0)
    assert stage.told(WRONG_KEY, 1) == ["now"]
    assert stage.limits.counts == {"delayed": 2, "refused": 8}


def test_a_delay_is_the_time_until_there_is_room_and_never_long():
    stage = Stage()
    stage.told(WRONG_KEY, 30)
    delays = [stage.limits.judged(WRONG_KEY("No."), ATTACKER).delay_seconds for _ in range(2)]
    assert delays == [2.0, 4.0]
    assert max(delays) <= LONGEST_DELAY_SECONDS
    refused = stage.limits.judged(WRONG_KEY("No."), ATTACKER)
    assert isinstance(refused, TooManyRefusals)
    assert (refused.status, refused.retry_after_seconds, refused.should_retry) == (429, 6.0, False)


@pytest.mark.parametrize("kind", [PrivacyViolation, RefusedByRule, ModelNotFound, PermissionDenied])
def test_what_a_valid_key_is_refused_counts_for_the_key_wherever_it_asks_from(kind: type[GatewayError]):
    stage = Stage(by_address=1000)
    told = [stage.told(kind, 1, f"198.51.100.{number}", "one")[0] for number in range(70)]
    assert told == ["now"] * 60 + ["later"] * 5 + ["429"] * 5
    assert stage.told(kind, 1, "198.51.100.1", "two") == ["now"]


def test_an_attacker_at_the_same_address_changes_nothing_for_what_valid_keys_are_told():
    stage = Stage()
    stage.told(WRONG_KEY, 1000)
    assert stage.told(DENIED, 60, ATTACKER, "good") == ["now"] * 60


def test_refusals_of_keys_count_for_their_address_and_cannot_run_up_a_debt_there():
    stage = Stage(by_key=1000)
    stage.told(DENIED, 500, ATTACKER, "one")
    assert stage.told(WRONG_KEY, 3) == ["later", "later", "429"]
    stage.clock.forward(60.0)
    assert stage.told(WRONG_KEY, 1) == ["now"]


@pytest.mark.parametrize("kind", [InvalidRequest, Unavailable])
def test_other_errors_are_not_counted(kind: type[GatewayError]):
    assert set(Stage().told(kind, 1000)) == {"now"}


def test_all_addresses_of_an_ipv6_network_are_one():
    stage = Stage()
    told = [stage.told(WRONG_KEY, 1, f"2001:db8:0:1::{number:x}")[0] for number in range(40)]
    assert told[30:] == ["later"] * 2 + ["429"] * 8
    assert stage.told(WRONG_KEY, 1, "2001:db8:0:2::1") == ["now"]


def test_few_wait_at_a_time_and_who_would_be_one_more_is_told_so_at_once():
    run(_fill_the_waiting_room())


async def _fill_the_waiting_room() -> None:
    stage = Stage(by_address=60)
    waiting = []
    for number in range(MOST_WAITING):
        address = f"10.0.{number // 250}.{number % 250}"
        stage.told(WRONG_KEY, 60, address)
        error = stage.limits.judged(WRONG_KEY("No."), address)
        assert error.delay_seconds
        waiting.append(asyncio.ensure_future(stage.limits.wait(error)))
        await asyncio.sleep(0)
    stage.told(WRONG_KEY, 60)
    assert stage.told(WRONG_KEY, 1) == ["429"]
    assert not any(task.done() for task in waiting)
    waiting.pop().cancel()  # its client has gone
    await asyncio.sleep(0)
    assert stage.told(WRONG_KEY, 1) == ["later"]
    stage.wake.set()
    await asyncio.gather(*waiting)


def test_other_allowances_hold_from_the_reload_on_and_the_same_ones_go_on_counting():
    stage = Stage()
    stage.told(WRONG_KEY, 100)
    stage.limits.configure(RefusalAllowances(30, 60))
    assert stage.told(WRONG_KEY, 1) == ["429"]
    stage.limits.configure(RefusalAllowances(100, 60))
    assert stage.told(WRONG_KEY, 100) == ["now"] * 100


def test_a_flood_is_told_of_once_a_minute():
    stage = Stage()
    with structlog.testing.capture_logs() as logs:
        stage.told(WRONG_KEY, 1000)
        stage.clock.forward(60.0)
        stage.told(WRONG_KEY, 1000)
    told = [line for line in logs if line["event"] == "refusals.limited"]
    assert [(line["client"], line["code"], line["left_out"]) for line in told] == [
        (ATTACKER, "invalid_api_key", 0),
        (ATTACKER, "invalid_api_key", 969),
    ]
