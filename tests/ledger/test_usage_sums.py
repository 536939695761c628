"""Work by the finest group that a pool's cost is shared among, from rollups and the rows at the ends."""

from typing import Any

from gateway.ledger.reports import usage_by
from gateway.ledger.spans import Span
from gateway.ledger.tables import DAY, QUARTER
from gateway.ledger.url import database_of
from gateway.ledger.usage_sums import NO_USAGE, Consumer, UsageSums, sum_usage
from tests.ledger.ledger_records import FULL, make, run

Database = Any


def fill(database: Database, count: int) -> None:
    async def write() -> None:
        writer = database.writer()
        await writer.start()
        for number in range(count):
            writer.append(
                make(
                    number,
                    at=FULL.at + number * (3 * DAY // count),
                    feature=f"feature-{number % 3}",
                    deployment=("scout", "gpt-4o")[number % 2],
                    model=("auto", "gpt-4o")[number // 7 % 2],
                    estimated=number % 5 == 0,
                    cost_nano_usd=number,
                )
            )
        await writer.close()

    run(write())


def done(database: Database, since: int | None, until: int | None) -> dict[Consumer, UsageSums]:
    with database_of(database.url).reading() as ledger:
        return sum_usage(ledger, Span(since, until))


def added(*parts: dict[Consumer, UsageSums]) -> dict[Consumer, UsageSums]:
    total: dict[Consumer, UsageSums] = {}
    for part in parts:
        for payer, one in part.items():
            total[payer] = total.get(payer, NO_USAGE).plus(one)
    return dict(sorted(total.items()))


def test_two_neighbouring_periods_add_up_to_both_wherever_they_meet(database: Database) -> None:
    fill(database, 240)
    whole = done(database, None, None)
    assert len(whole) == 12
    for cut in (FULL.at + 1, FULL.at + DAY, FULL.at + DAY + QUARTER // 3, FULL.at + 5 * DAY):
        assert added(done(database, None, cut), done(database, cut, None)) == whole


def test_it_agrees_with_the_report_of_usage(database: Database) -> None:
    fill(database, 60)
    found = done(database, None, None)
    for row in usage_by(database.url, "feature"):
        parts = [one for payer, one in found.items() if payer.feature == row.name]
        total = added(*({Consumer("", "", "", ""): one} for one in parts))[Consumer("", "", "", "")]
        assert (total.requests, total.attempts) == (row.requests, row.attempts)
        assert (total.input_tokens, total.output_tokens) == (row.input_tokens, row.output_tokens)
        assert total.cost_nano_usd == row.cost_usd * 10**9
    assert sum(one.estimated_attempts for one in found.values()) == 12
