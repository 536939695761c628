"""The demo's own checks: three books that must agree, and what must never have been seen outside."""

import asyncio
from collections.abc import Iterable
from decimal import Decimal

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as MetricSample

from gateway.core.money import NANO_PER_USD
from gateway.core.pricing import usd_text
from gateway.demo.failure import DemoFailed
from gateway.demo.samples import SECRETS
from gateway.demo.stage import Stage
from gateway.demo.traffic import Client
from gateway.ledger.dimensions import Dimension
from gateway.ledger.reports import UsageRow, usage_by

# Somebody else's request may be under way while the books are read: they are read again, for so long.
AGREE_SECONDS = 3.0
_PAUSE_SECONDS = 0.1


class BudgetState(msgspec.Struct, frozen=True):
    """One budget as /metrics shows it, in nano-USD."""

    scope: str
    name: str
    window: str
    spent_nano: int
    limit_nano: int


class DemoBooks(msgspec.Struct, frozen=True, kw_only=True):
    """What each book says was spent, in nano-USD, and the reports they are taken from."""

    ledger_nano: int
    budget_nano: int
    metrics_nano: int
    by_feature: list[UsageRow]
    by_deployment: list[UsageRow]
    budgets: list[BudgetState]
    metrics: str

    @property
    def agree(self) -> bool:
        return self.ledger_nano == self.budget_nano == self.metrics_nano


class Secrecy(msgspec.Struct, frozen=True):
    """Of `seen` requests at the external side, `leaked` were confidential, by their text or their id."""

    seen: int
    leaked: int


async def read_books(stage: Stage, client: Client) -> DemoBooks:
    """All three books at a moment at which they agree. Raises DemoFailed when there is none."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + AGREE_SECONDS
    while not (books := await _read(stage, client)).agree:
        if loop.time() > deadline:
            raise DemoFailed(
                f"the books differ: ledger {usd_text(books.ledger_nano)}, budget "
                f"{usd_text(books.budget_nano)}, metrics {usd_text(books.metrics_nano)} USD"
            )
        await asyncio.sleep(_PAUSE_SECONDS)
    return books


def check_secrecy(stage: Stage, confidential_ids: Iterable[str]) -> Secrecy:
    """Searches what the external simulator has seen. Raises DemoFailed when it holds what it must not."""
    attempts = stage.gpt_4o.attempts()
    with_text = {attempt.n for text in SECRETS for attempt in stage.gpt_4o.attempts(contains=text)}
    forbidden = set(confidential_ids)
    by_id = {attempt.n for attempt in attempts if attempt.request_id in forbidden}
    secrecy = Secrecy(len(attempts), len(with_text | by_id))
    if secrecy.leaked:
        raise DemoFailed(f"{secrecy.leaked} confidential requests were seen at the external side")
    return secrecy


async def _read(stage: Stage, client: Client) -> DemoBooks:
    await stage.gateway.flush()
    by_feature = await asyncio.to_thread(usage_by, stage.ledger_url, Dimension.FEATURE)
    by_deployment = await asyncio.to_thread(usage_by, stage.ledger_url, Dimension.DEPLOYMENT)
    text = await client.metrics()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    budgets = _budgets(samples)
    return DemoBooks(
        ledger_nano=sum(_nano(row.cost_usd) for row in by_feature),
        budget_nano=sum(budget.spent_nano for budget in budgets if budget.scope == "org"),
        metrics_nano=sum(
            _metric_nano(sample) for sample in samples if sample.name == "tollway_cost_usd_total"
        ),
        by_feature=by_feature,
        by_deployment=by_deployment,
        budgets=budgets,
        metrics=text,
    )


def _budgets(samples: Iterable[MetricSample]) -> list[BudgetState]:
    samples = list(samples)
    limits = {
        frozenset(sample.labels.items()): _metric_nano(sample)
        for sample in samples
        if sample.name == "tollway_budget_limit_usd"
    }
    return [
        BudgetState(
            scope=sample.labels["scope"],
            name=sample.labels["name"],
            window=sample.labels["window"],
            spent_nano=_metric_nano(sample),
            limit_nano=limits[frozenset(sample.labels.items())],
        )
        for sample in samples
        if sample.name == "tollway_budget_spent_usd"
    ]


def _metric_nano(sample: MetricSample) -> int:
    # The shortest decimal that reads back as this float: exactly what was printed.
    return _nano(Decimal(repr(sample.value)))


def _nano(usd: Decimal) -> int:
    return int(usd * NANO_PER_USD)
