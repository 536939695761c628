"""Prices hold from a day on and never change; what they change of the past is booked as corrections."""

from typing import Any

import pytest

from gateway.core.catalog import Price, Rates
from gateway.core.pricing import PriceBook, PriceVersion, cost
from gateway.finance.repricing import PAGE_ROWS, Source, reprice
from gateway.ledger.price_versions import PriceChanged, enter_prices, read_prices
from gateway.ledger.reports import usage_by
from gateway.ledger.retention import close, rebuild
from tests.ledger.ledger_records import FULL, make, run

Database = Any

DAY = 24 * 3600 * 1_000_000


def rates(factor: int = 1) -> Rates:
    return Rates(
        input=3 * factor, cached_input=factor, output=12 * factor, input_audio=5 * factor, output_audio=7
    )


SOURCES = {"llama-4-scout": Source("vllm", "scout", Price(version="listed", standard=rates(8)))}


def version(name: str = "v1", **changes: Any) -> PriceVersion:
    given = {
        "provider": "vllm",
        "model": "scout",
        "tier": "standard",
        "effective_from": 0,
        "version": name,
        "rates": rates(),
        "entered_at": 1,
    }
    return PriceVersion(**(given | changes))


def write(database: Database, *records: Any) -> None:
    async def scenario() -> None:
        writer = database.writer()
        await writer.start()
        for record in records:
            writer.append(record)
        await writer.close()

    run(scenario())


def test_repricing_leaves_rows_of_a_tier_for_which_no_price_was_entered(database: Database) -> None:
    write(database, make(1, cost_nano_usd=10, service_tier="priority"), make(2, cost_nano_usd=10))
    listed = Price(version="listed", standard=rates(), tiers={"priority": rates(4)})
    sources = {"llama-4-scout": Source("vllm", "scout", listed)}
    assert reprice(database.url, PriceBook([version()]), sources, FULL.at, FULL.at + DAY).corrected == 1
    fast = PriceBook([version(), version("fast", tier="priority", rates=rates(3))])
    assert reprice(database.url, fast, sources, FULL.at, FULL.at + DAY).corrected == 1
    by_version = {row["price_version"]: row["cost_nano_usd"] for row in database.rows() if row["corrects"]}
    assert by_version["fast"] == cost(rates(3), FULL.usage)


def test_prices_come_back_as_they_were_entered_and_never_change(database: Database) -> None:
    write(database)
    entered = [version(), version("v2", effective_from=7), version(tier="batch", rates=rates(9))]
    enter_prices(database.url, entered)
    enter_prices(database.url, entered)
    assert sorted(read_prices(database.url), key=repr) == sorted(entered, key=repr)
    with pytest.raises(PriceChanged, match="version of its own"):
        enter_prices(database.url, [version("v3"), version("v2", effective_from=7, rates=rates(2))])
    assert len(list(read_prices(database.url))) == 3


def test_prices_may_be_entered_before_the_first_gateway_starts(database: Database) -> None:
    enter_prices(database.url, [version()])
    write(database, make(1))
    assert list(read_prices(database.url)) == [version()]
    assert database.attempts() == [make(1).attempt_id]


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

    (row,) = (row for row in usage_by(database.url, "deployment") if row.name == "llama-4-scout")
    assert (row.requests, row.attempts) == (count, count)
    assert row.cost_usd * 10**9 == 20 + each * changed
    assert row.input_tokens == count * FULL.usage.input_tokens
    assert row.counterfactual_usd["gpt-4o"] * 10**9 == count * 9_000_000_001
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
        assert usage_by(database.url, "org")[0].cost_usd * 10**9 == cost(rates(number), FULL.usage)
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
    assert (second.requests, second.attempts) == (0, 0)
