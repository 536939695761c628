"""How the limits and budgets of other gateways failed, each as a test of ours in memory."""

import asyncio
import math

import pytest

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.windows import Per
from tests.core.builders import ask, principal, run, scope
from tests.quota.memory_stage import DAY, USD, R, Stage, at_once, budget


def test_litellm_18730_663_tokens_do_not_pass_a_limit_of_100_a_minute():
    stage = Stage(scope(tokens=100))
    too_long = stage.refused(prompt_tokens=663, output_is_explicit=False)
    assert isinstance(too_long, LimitExceeded)
    assert math.isinf(too_long.retry_after_seconds)
    assert math.isinf(stage.refused(prompt_tokens=20, output_tokens=643).retry_after_seconds)  # type: ignore[union-attr]
    hold = stage.admit(prompt_tokens=20, output_is_explicit=False, output_tokens=643)
    assert hold.output_tokens == 80
    assert isinstance(stage.refused(tokens=1), LimitExceeded)


def test_litellm_18730_tokens_beyond_the_reservation_are_a_debt_that_has_to_drain():
    stage = Stage(scope(tokens=100))
    stage.settle(stage.admit(tokens=50), 0, tokens=663)
    error = stage.refused(tokens=1)
    assert isinstance(error, LimitExceeded)
    assert error.retry_after_seconds == pytest.approx((663 + 1 - 100) * 0.6)
    stage.clock.forward(error.retry_after_seconds)
    assert stage.admit(tokens=1)


def test_litellm_29191_a_default_estimate_does_not_refuse_the_first_request_of_a_small_limit():
    stage = Stage(scope(tokens=100))
    assert stage.admit(output_is_explicit=False, prompt_tokens=10, output_tokens=16_384)


def test_litellm_27639_reservations_never_leak_into_phantom_refusals():
    stage = Stage(budget(R, requests=1000, tokens=10**6, concurrent=1))
    for _ in range(300):
        stage.settle(stage.admit(), 0, tokens=0)
    assert stage.counters() == (0, 0, 0)


def test_litellm_34732_requests_of_the_same_moment_do_not_race_past_a_budget():
    stage = Stage(budget(5 * R))

    async def burst() -> list[Hold | BaseException]:
        asks = [stage.store.admit(ask(stage.payer)) for _ in range(50)]
        return await asyncio.gather(*asks, return_exceptions=True)

    granted = [found for found in run(burst()) if isinstance(found, Hold)]
    assert len(granted) == 5
    assert sum(hold.nano for hold in granted) == 5 * R


def test_litellm_37558_a_cancelled_stream_is_not_free():
    stage = Stage(budget(R))
    stage.settle(stage.admit(), 150_000, unseen=80_000)
    assert stage.counters() == (150_000, 0, 80_000)
    assert stage.admit().nano == R - 230_000


def test_litellm_38647_a_budget_is_not_pinned_while_nothing_is_spent():
    stage = Stage(budget(25 * USD))
    holds = [stage.admit(prompt_nano=5 * USD, output_tokens=0) for _ in range(5)]
    assert isinstance(stage.refused(), BudgetExceeded)
    assert stage.store.used_share(stage.payer) == 1.0
    for hold in holds:
        stage.settle(hold, 0)
    assert stage.store.used_share(stage.payer) == 0.0
    assert stage.admit()


def test_litellm_26672_a_key_never_gets_past_its_budget():
    stage = Stage(budget(10 * R, kind="key"))
    spent = 0
    for number in range(200):
        try:
            hold = stage.admit(output_tokens=1000 + number)
        except BudgetExceeded:
            break
        spent += hold.nano
        stage.settle(hold, hold.nano)
    assert spent == stage.counters("key")[0] <= 10 * R
    assert 10 * R - spent < 100_000 + 16_000


def test_litellm_20256_concurrency_slots_come_back_on_every_way_out():
    stage = Stage(budget(2 * R, concurrent=2))
    for _ in range(20):
        first, second = stage.admit(), stage.admit(output_tokens=100)
        assert isinstance(stage.refused(), LimitExceeded)
        stage.settle(first, 0, tokens=None)
        with pytest.raises(BudgetExceeded):
            at_once(stage.store.renew(second, Settlement(spent_nano=0, unseen_nano=2 * R)))
        stage.clock.forward(DAY)
    assert stage.admit()
    assert stage.admit()


def test_litellm_39309_refused_requests_consume_nothing():
    stage = Stage(
        scope("key", "a", requests=3, tokens=10_000, budgets={Per.DAY: 10 * R}),
        scope("team", "a", requests=2, budgets={Per.DAY: 10 * R}),
    )
    stage.admit()
    stage.admit()
    for _ in range(100):
        error = stage.refused()
        assert isinstance(error, LimitExceeded)
        assert error.scope == "team:a"
    stage.clock.forward(30)
    hold = stage.admit()
    assert hold.requests is not None
    assert (hold.requests.limit, hold.requests.remaining) == (2, 0)


def test_litellm_21894_one_request_is_charged_once_in_each_scope():
    team = budget(10 * R, kind="team")
    stage = Stage(team)
    payers = [principal(team, feature=name) for name in ("a", "b", "c")]
    for payer in payers:
        stage.settle(stage.admit(payer), 100)
    assert stage.counters("team") == (300, 0, 0)


def test_litellm_sliding_window_no_second_burst_at_the_turn_of_the_minute():
    stage = Stage(scope(requests=60))
    admitted = 0
    for _ in range(2):
        for _ in range(100):
            try:
                stage.admit()
                admitted += 1
            except LimitExceeded:
                break
        stage.clock.forward(1)
    assert admitted == 61


def test_new_api_5235_missing_usage_refunds_nothing_of_the_rate_and_not_all_of_the_money():
    stage = Stage(budget(10 * R, tokens=1100))
    stage.settle(stage.admit(), 300_000, unseen=R - 300_000, tokens=None)
    assert stage.counters() == (300_000, 0, R - 300_000)
    assert isinstance(stage.refused(tokens=1), LimitExceeded)


def test_new_api_5288_missing_usage_does_not_charge_the_whole_hold():
    stage = Stage(budget(10 * R))
    stage.settle(stage.admit(), 300_000, unseen=64_000)
    assert stage.counters()[0] == 300_000
    stage.clock.forward(DAY)
    assert stage.counters() == (0, 0, 0)


def test_bifrost_2873_a_request_counts_whatever_endpoint_or_model_it_is_for():
    stage = Stage(budget(R))
    embedding = {"output_tokens": 0, "output_is_explicit": False, "output_nano_per_million": 0}
    stage.settle(stage.admit(prompt_nano=R, **embedding), R)
    assert isinstance(stage.refused(prompt_nano=1, **embedding), BudgetExceeded)
