"""What corrects the past changes no open budget: neither while a gateway serves, nor when it starts again."""

from collections.abc import Sequence
from typing import Any

from gateway.core.admission import Settlement
from gateway.core.pricing import PriceBook, cost
from gateway.core.rates import Price
from gateway.core.tenancy import Budget, Scope
from gateway.core.windows import Per
from gateway.finance.repricing import Source, reprice
from gateway.finance.usage_report import UsageQuestion, usage_rows
from gateway.ledger.reports import usage_by
from gateway.ledger.retention import close, rebuild
from gateway.ledger.spending import spent_in_windows
from gateway.ports import BudgetView
from tests.core.builders import ask, principal
from tests.ledger.conftest import database, postgres, postgres_url, sqlite  # noqa: F401  # fixtures
from tests.ledger.ledger_records import FULL, make, write
from tests.ledger.price_records import rates, version
from tests.quota.stores import run

Database = Any
Stores = Any

DAY = 24 * 3600 * 1_000_000
YESTERDAY = FULL.at - FULL.at % DAY
TODAY = YESTERDAY + DAY
NOW = TODAY / 1_000_000 + 3600
SOURCES = {"llama-4-scout": Source("vllm", "scout", Price(version="listed", standard=rates(8)))}
PAYER = Scope(
    kind="feature",
    name="triage",
    budgets=(
        Budget(nano_usd=10**12, per=Per.DAY),
        Budget(nano_usd=10**12, per=Per.LIFETIME),
        Budget(nano_usd=10**12, per=Per.DAY, rolling=True),
    ),
)


def used(number: int, at: int, nano: int, **more: Any) -> Any:
    given = {"at": at, "cost_nano_usd": nano, "unseen_nano_usd": 0, "feature": "triage", **more}
    return make(number, **given)


def fill(database: Database) -> None:  # noqa: F811
    """Three rows of yesterday, which is closed, and two of today; then one that yesterday does not take."""
    write(
        database,
        *(used(n, YESTERDAY + n, 1_000) for n in range(3)),
        *(used(n, TODAY + n, 100) for n in (3, 4)),
        used(5, TODAY + 5, 50, feature="other"),
    )
    close(database.url, TODAY, now=TODAY + DAY)
    write(database, used(6, YESTERDAY + 6, 7))


def correct(database: Database) -> None:  # noqa: F811
    """Both days, to a price that is far lower for yesterday's rows and higher for today's."""
    done = reprice(database.url, PriceBook([version(rates=rates(0))]), SOURCES, YESTERDAY, TODAY + DAY)
    assert done.corrected == 7


def test_no_feature_has_spent_less_than_nothing_and_corrections_have_lines_of_their_own(
    database: Database,  # noqa: F811
) -> None:
    fill(database)
    before = {row.name: row.cost_usd for row in usage_by(database.url, "feature")}
    correct(database)
    question = UsageQuestion(by="feature", period="2026-11-02")
    rows = usage_rows(database.url, question, now=NOW, timezone="UTC")
    assert [(row.name, row.is_correction) for row in rows] == [
        ("other", False),
        ("triage", False),
        ("other", True),
        ("triage", True),
    ]
    nano = [int(row.cost_usd * 10**9) for row in rows]
    each = cost(rates(0), FULL.usage)
    assert nano == [50, 207, each - 50, 6 * each - 3_207]
    assert nano[3] < 0
    whole = usage_by(database.url, "feature")
    assert {row.name: row.cost_usd for row in whole if not row.is_correction} == before
    for dimensions in (["feature", "day"], ["feature", "replica"], "outcome", "kind"):
        total = sum(row.cost_usd for row in usage_by(database.url, dimensions))
        assert total * 10**9 == sum(int(row.cost_usd * 10**9) for row in whole)
    rebuild(database.url)
    assert usage_by(database.url, "feature") == whole


def test_an_open_budget_holds_what_it_was_charged_whatever_is_corrected(
    database: Database,  # noqa: F811
    stores: Stores,
) -> None:
    fill(database)

    def from_ledger(views: Sequence[BudgetView]) -> list[tuple[int, int]]:
        return spent_in_windows(database.url, views)

    def spent(views: Sequence[BudgetView]) -> dict[tuple[Per, bool], int]:
        return {(view.per, view.rolling): view.spent_nano for view in views}

    async def restarted() -> dict[tuple[Per, bool], int]:
        async with stores.stage(PAYER, now=NOW, spent=from_ledger) as stage:
            if hasattr(stage.store, "restore"):
                await stage.store.start()
            return spent(await stage.views())

    async def scenario() -> None:
        whole = {(Per.DAY, False): 200, (Per.LIFETIME, False): 3_207, (Per.DAY, True): 200}
        async with stores.stage(PAYER, now=NOW) as stage:
            hold = await stage.store.admit(ask(principal(PAYER), prompt_nano=10**6))
            stage.store.settle(hold, Settlement(spent_nano=200))
            correct(database)
            assert spent(await stage.views())[Per.DAY, False] == 200
        assert await restarted() == whole

    run(scenario)
