"""What entered prices change of the past is booked as corrections, and a second time as nothing."""

import json
from typing import Any

import msgspec

from gateway.core.catalog import DatedPrice
from gateway.core.pricing import PriceBook, cost, rates_used
from gateway.core.rates import Price
from gateway.finance.repricing import PAGE_ROWS, PriceChange, Source, reprice
from gateway.ledger.reports import usage_by
from gateway.ledger.retention import close, rebuild
from tests.ledger.ledger_records import FULL, make, write
from tests.ledger.price_records import rates, version

Database = Any

DAY = 24 * 3600 * 1_000_000
SOURCES = {"llama-4-scout": Source("vllm", "scout", Price(version="listed", standard=rates(8)))}


def test_repricing_leaves_rows_of_a_tier_for_which_no_price_was_entered(database: Database) -> None:
    write(database, make(1, cost_nano_usd=10, service_tier="priority"), make(2, cost_nano_usd=10))
    listed = Price(version="listed", standard=rates(), tiers={"priority": rates(4)})
    sources = {"llama-4-scout": Source("vllm", "scout", listed)}
    assert reprice(database.url, PriceBook([version()]), sources, FULL.at, FULL.at + DAY).corrected == 1
    fast = PriceBook([version(), version("fast", tier="priority", rates=rates(3))])
    assert reprice(database.url, fast, sources, FULL.at, FULL.at + DAY).corrected == 1
    by_version = {row["price_version"]: row["cost_nano_usd"] for row in database.rows() if row["corrects"]}
    assert by_version["fast"] == cost(rates(3), FULL.usage)


def test_repricing_reverses_and_books_anew_and_a_second_time_changes_nothing(database: Database) -> None:
    count = PAGE_ROWS + 3
    write(database, *(make(n, cost_nano_usd=10) for n in range(count)), make(count, deployment="other"))
    book = PriceBook([version(effective_from=FULL.at + 2)])
    done = reprice(database.url, book, SOURCES, FULL.at, FULL.at + DAY)
    each = cost(rates(), FULL.usage)
    changed = count - 2  # two were sent before the price held
    assert (done.rows, done.corrected) == (count + 1, changed)
    assert (done.nano_usd_before, done.nano_usd_after) == (10 * changed, each * changed)
    assert reprice(database.url, book, SOURCES, FULL.at, FULL.at + DAY).corrected == 0

    row, corrections = (row for row in usage_by(database.url, "deployment") if row.name == "llama-4-scout")
    assert (row.requests, row.attempts) == (count, count)
    assert row.cost_usd * 10**9 == 10 * count
    assert row.input_tokens == count * FULL.usage.input_tokens
    assert row.counterfactual_usd["gpt-4o"] * 10**9 == count * 9_000_000_001
    assert corrections.is_correction
    assert (corrections.requests, corrections.attempts, corrections.input_tokens) == (0, 0, 0)
    assert corrections.cost_usd * 10**9 == (each - 10) * changed
    assert corrections.counterfactual_usd == {}
    assert sum(row.unit_costs.values()) == row.cost_usd
    assert sum(corrections.unit_costs.values()) == corrections.cost_usd
    (last,) = (found for found in database.rows() if found["attempt_id"] == f"{make(5).attempt_id}#1")
    assert json.loads(last["rates"]) == rates_used(rates(), FULL.usage)
    assert sum(json.loads(last["unit_nano_usd"]).values()) == each
    kinds = [found["kind"] for found in database.rows() if found["corrects"] == make(5).attempt_id]
    assert sorted(kinds) == ["correction", "reversal"]
    before = usage_by(database.url, "day")
    assert rebuild(database.url).nano_usd_before == rebuild(database.url).nano_usd_after
    assert usage_by(database.url, "day") == before


def test_a_row_repriced_twice_ends_at_the_last_price(database: Database) -> None:
    write(database, make(1, cost_nano_usd=10))
    for number in (1, 2, 3):
        book = PriceBook([version(f"v{number}", rates=rates(number))])
        reprice(database.url, book, SOURCES, FULL.at, FULL.at + DAY)
        assert sum(row.cost_usd for row in usage_by(database.url, "org")) * 10**9 == cost(
            rates(number), FULL.usage
        )
    assert len(database.rows()) == 7


def test_corrections_of_a_closed_period_are_dated_in_the_open_one(database: Database) -> None:
    write(database, make(1, cost_nano_usd=10))
    end = FULL.at - FULL.at % DAY + DAY
    close(database.url, end, now=end)
    reprice(database.url, PriceBook([version()]), SOURCES, FULL.at, FULL.at + DAY)
    rows = {row["attempt_id"]: row for row in database.rows()}
    corrected = rows[f"{make(1).attempt_id}#1"]
    assert (corrected["at"], corrected["occurred_at"]) == (end, make(1).at)
    first, second = usage_by(database.url, "day")
    assert first.cost_usd * 10**9 == 10
    assert second.cost_usd * 10**9 == cost(rates(), FULL.usage) - 10
    assert (first.is_correction, second.is_correction) == (False, True)
    assert (second.requests, second.attempts) == (0, 0)


def test_transfer_prices_with_a_date_in_the_configuration_are_evidence_of_what_held(
    database: Database,
) -> None:
    write(database, *(make(n, cost_nano_usd=10, price_version="stale") for n in range(4)))
    since = make(2).at
    dated = Price(version="cost-new", standard=rates(2))
    sources = {
        "llama-4-scout": Source(
            "vllm", "scout", Price(version="cost-old", standard=rates()), (DatedPrice(since, dated),)
        )
    }
    span = (FULL.at, FULL.at + DAY)
    trial = reprice(database.url, PriceBook(), sources, *span, is_trial=True)
    each = cost(rates(2), FULL.usage)
    assert trial.changes == {PriceChange("llama-4-scout", "stale", "cost-new"): (2, 20, 2 * each)}
    assert len(database.rows()) == 4
    done = reprice(database.url, PriceBook(), sources, *span)
    assert (done.corrected, done.nano_usd_after) == (2, 2 * each)
    corrected = {row["corrects"] for row in database.rows() if row["kind"] == "correction"}
    # Those before the first date stay: that the file says so now is no evidence of what held then.
    assert corrected == {make(2).attempt_id, make(3).attempt_id}
    assert reprice(database.url, PriceBook(), sources, *span).corrected == 0


def test_a_price_that_comes_to_be_for_each_request_too_is_booked_for_each(database: Database) -> None:
    write(database, *(make(n, cost_nano_usd=10) for n in range(2)))
    each = msgspec.structs.replace(rates(), units={"requests": 7 * 1_000_000})
    for name in ("v1", "v2"):
        book = PriceBook([version(name, rates=each)])
        reprice(database.url, book, SOURCES, FULL.at, FULL.at + DAY)
        cost_usd = sum(row.cost_usd for row in usage_by(database.url, "org"))
        assert cost_usd * 10**9 == 2 * (cost(rates(), FULL.usage) + 7)
    units = usage_by(database.url, "org")
    assert sum(row.unit_costs.get("requests", 0) for row in units) * 10**9 == 14
