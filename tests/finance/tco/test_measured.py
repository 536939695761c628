"""What a comparison is made from: prices over time, weights that were observed, several pools."""

from pathlib import Path

import msgspec
import pytest

from gateway.core.money import NANO_PER_USD
from gateway.core.pool_cost import Weights
from gateway.core.pricing import PriceVersion
from gateway.finance.tco.measured import LEAST_STREAMS, learned
from gateway.finance.tco.question import TcoPeriod, answer
from gateway.finance.tco.report import TcoReport
from gateway.ledger.past_attempts import PastAnswer
from gateway.ledger.price_versions import enter_prices
from tests.finance.tco import week

WEEK = {"since": "2026-11-02", "until": "2026-11-09"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = week.config(tmp_path)
    week.write(path)
    return path


def report(config: Path) -> TcoReport:
    return answer(week.built(config).tco_sources, TcoPeriod(**WEEK), week.UNTIL).actual


# --- prices over time ---


def test_what_it_would_have_cost_follows_the_prices_of_the_time(config: Path) -> None:
    doubled = msgspec.structs.replace(week.GPT_4O, input=5_000_000_000, output=20_000_000_000)
    half = week.STARTS + (week.ENDS - week.STARTS) // 2
    version = PriceVersion(
        provider="openai",
        model="gpt-4o-2024-11-20",
        tier="standard",
        effective_from=half,
        version="dearer",
        rates=doubled,
        entered_at=half,
    )
    enter_prices(week.built(config).settings.ledger_url, [version])
    found = report(config)
    # Half of Scout's rows were sent before, and half after; what GPT-4o served was paid as it was booked.
    elsewhere = 1.5 * (1_814.40 + 604.80)
    assert found.totals.on["gpt-4o"] == pytest.approx(617.50 + elsewhere, abs=1e-6)
    assert found.totals.hosted_usd == 617.50
    assert found.hosted[0].usd_per_million_output_tokens == 20.0
    assert found.pools[0].break_even[0].utilisation == pytest.approx(5_712 / (2 * 6_048 - 85.725))


def test_a_price_that_was_entered_for_a_time_to_come_changes_nothing(config: Path) -> None:
    before = report(config)
    version = PriceVersion(
        provider="openai",
        model="gpt-4o-2024-11-20",
        tier="standard",
        effective_from=week.ENDS,
        version="later",
        rates=msgspec.structs.replace(week.GPT_4O, input=1),
        entered_at=week.STARTS,
    )
    enter_prices(week.built(config).settings.ledger_url, [version])
    assert report(config) == before


# --- weights that were observed ---


def streams(count: int, *, deployment: str = "llama-4-scout") -> list[PastAnswer]:
    """100 ms for a prompt of 1,000 tokens, then 10 ms a token: 0.1 ms read, 10 ms written."""
    one = PastAnswer(
        deployment=deployment,
        dispatched_model="-",
        stream=1,
        input_tokens=1_000,
        output_tokens=101,
        ttft_ms=100.0,
        duration_ms=1_100.0,
        facts="{}",
    )
    return [one] * count


def test_weights_are_how_long_a_token_keeps_its_place(config: Path) -> None:
    terms = msgspec.structs.replace(week.terms(config), learn=True)
    found, is_learned = learned(terms, streams(LEAST_STREAMS))
    assert is_learned
    assert found.weights == Weights(prefill=100_000, cached=100_000, decode=10_000_000)


def test_too_few_streams_or_those_of_another_deployment_teach_nothing(config: Path) -> None:
    terms = msgspec.structs.replace(week.terms(config), learn=True)
    others = streams(LEAST_STREAMS, deployment="gpt-4o")
    assert learned(terms, streams(LEAST_STREAMS - 1) + others) == (terms, False)


def test_weights_are_not_learned_unless_asked_for(config: Path) -> None:
    terms = week.terms(config)
    assert learned(terms, streams(LEAST_STREAMS)) == (terms, False)


def test_a_report_with_learned_weights_says_so_and_still_adds_up(config: Path) -> None:
    text = config.read_text().replace("idle: proportional", "weights: {learn: true}")
    config.write_text(text)
    found = report(config)
    (pool,) = found.pools
    assert pool.weights.learned
    assert found.totals.fully_loaded_usd == 6_329.5
    assert pool.bill_usd == 5_712.0


# --- several pools ---


def test_two_pools_each_have_their_bill_and_only_one_can_be_meant(config: Path) -> None:
    text = config.read_text()
    scout = text[text.index("  llama-4-scout:") : text.index("models:")]
    maverick = scout.replace("llama-4-scout:", "llama-4-maverick:").replace("9101", "9102")
    config.write_text(text.replace("models:", maverick + "models:"))
    found = report(config)
    assert [pool.deployment for pool in found.pools] == ["llama-4-scout"]
    assert any(one.startswith("llama-4-maverick: nothing is booked") for one in found.missing)
    question = TcoPeriod(**WEEK, what_if="llama-4-scout.replicas=2")
    other = answer(week.built(config).tco_sources, question, week.UNTIL).what_if
    assert other is not None
    assert other.report.pools[0].gpu_hours == 2 * 8 * 168
    assert other.difference_usd == 4_032.0


def test_estimated_rows_and_what_nobody_saw_are_told_as_uncertain(tmp_path: Path) -> None:
    path = week.config(tmp_path)
    broken = msgspec.structs.replace(next(week.records()), estimated=True, unseen_nano_usd=3 * NANO_PER_USD)
    week.write(path, instead=[broken])
    found = report(path).uncertainty
    assert (found.estimated_attempts_share, found.unseen_usd) == (1.0, 3.0)
    assert not found.tokenizers_measured


# --- little to go by ---


def test_without_a_pool_it_says_what_to_give(config: Path) -> None:
    text = config.read_text()
    begin, end = text.index("    cost:\n"), text.index("    price: {input: 0.20")
    config.write_text(text[:begin] + text[end:])
    found = report(config)
    assert found.pools == []
    assert any("no deployment has a `cost` section" in one for one in found.missing)
    assert found.totals.hosted_usd == 617.50 + 241.92  # what was booked at the transfer price is all there is


def test_a_pool_that_nobody_used_is_all_idle_and_has_no_break_even(tmp_path: Path) -> None:
    path = week.config(tmp_path)
    week.write(path, instead=[])
    found = report(path)
    (pool,) = found.pools
    assert (pool.idle_usd, pool.idle_apart_usd, pool.utilisation) == (5_712.0, 5_712.0, 0.0)
    assert (pool.usd_per_million_tokens, pool.break_even, found.rows) == (None, [], [])
    assert found.totals.fully_loaded_usd == 5_712.0


def test_without_any_replica_there_is_no_pool_to_compare_with(config: Path) -> None:
    found = answer(
        week.built(config).tco_sources, TcoPeriod(**WEEK, what_if="replicas=0"), week.UNTIL
    ).what_if
    assert found is not None
    (pool,) = found.report.pools
    assert (pool.gpu_usd, pool.bill_usd, pool.utilisation, pool.all_traffic) == (0, 1_680.0, None, None)


def test_without_a_beginning_it_is_the_first_booking(tmp_path: Path) -> None:
    config = week.config(tmp_path)
    early = msgspec.structs.replace(next(week.records()), attempt_id="early:1", at=week.STARTS - 1)
    week.write(config, instead=[early, *week.records()])
    found = answer(week.built(config).tco_sources, TcoPeriod(), week.UNTIL).actual
    assert found.since == "2026-11-02T00:00:00Z"
    assert found.totals.fully_loaded_usd == 6_329.5
