"""`tollway budgets`: every budget in its open window, what is spent of it and what is left.

Imports stand inside the command: each loads only what it needs.
"""
# ruff: noqa: PLC0415

import asyncio
import datetime as dt
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import structlog
import typer

from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    FormatOption,
    OutputFormat,
    exit_on_ledger_error,
    report_file,
)
from gateway.core.tenancy import Budget

if TYPE_CHECKING:
    from gateway.config.report_file import ReportFile
    from gateway.ports import BudgetView

NANO = 1_000_000_000


class BudgetLine(msgspec.Struct, frozen=True, kw_only=True):
    """One budget; money in nano-USD. `held` is None where only a running gateway knows it."""

    budget: Budget
    view: "BudgetView"
    held: int | None
    next_limit_at: float

    @property
    def used(self) -> int:
        return self.view.spent_nano + self.view.unseen_nano + (self.held or 0)

    @property
    def share(self) -> float:
        return self.used / self.view.limit_nano

    @property
    def resets_at(self) -> float:
        """UTC seconds; infinity when there is no such moment."""
        return math.inf if self.view.rolling else self.view.window.end


def budgets(config: ConfigOption = DEFAULT_FILE, form: FormatOption = OutputFormat.TABLE) -> None:
    """Every budget: limit, spent, held and left in the window that is open.

    From the shared state when there is one, else from the ledger, which does not know what is held.
    """
    from gateway.config.report_file import BUDGETS

    found = report_file(config, BUDGETS)
    now = time.time()
    with exit_on_ledger_error("budgets"):
        lines = read_budgets(found, now)
    zone = found.zone
    if form is OutputFormat.JSON:
        typer.echo(json.dumps([_json(line, zone) for line in lines], indent=2))
    else:
        typer.echo(f"{dt.datetime.fromtimestamp(now, zone):%Y-%m-%d %H:%M} ({zone.key}), in USD")
        _print(lines, zone)


def read_budgets(found: "ReportFile", now: float) -> list[BudgetLine]:
    """Every configured budget at `now` (UTC seconds), in the order of the file. Raises LedgerUnavailable."""
    configured = [budget for scope in found.scopes() for budget in scope.budgets]
    views = _from_state(found)
    is_shared = views is not None
    if views is None:
        views = _from_ledger(found, now)
    return [
        BudgetLine(
            budget=budget,
            view=view,
            held=view.held_nano if is_shared else None,
            next_limit_at=budget.limit_until(now),
        )
        for budget, view in zip(configured, views, strict=True)
    ]


def _from_state(found: "ReportFile") -> "list[BudgetView] | None":
    """From Redis; None when the state is not shared, or, after a warning, when it is unreachable."""
    url = found.settings.state.get_secret_value()
    if url == "memory":
        return None
    from gateway.quota.redis.connection import StoreUnavailable
    from gateway.quota.redis.read_budgets import read_shared_budgets

    org, zone = found.settings.org.name, found.zone
    try:
        with _without_logs():
            return asyncio.run(read_shared_budgets(url, org, found.scopes(), zone))
    except StoreUnavailable as exc:
        typer.echo(
            f"tollway budgets: the shared state is unreachable ({exc}); this is from the ledger.", err=True
        )
        return None


@contextmanager
def _without_logs() -> Iterator[None]:
    """The list is all that belongs on standard output, and what fails is said in a line."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _from_ledger(found: "ReportFile", now: float) -> "list[BudgetView]":
    from gateway.ledger.spending import spent_in_windows
    from gateway.quota.redis.replies import CountersRow
    from gateway.quota.redis.specs import make_spec

    spec = make_spec(found.scopes(), found.zone, now)
    views = [budget.view(CountersRow(0, 0, 0, 0), now) for budget in spec.budgets]
    sums = spent_in_windows(found.ledger_url, views)
    return [
        msgspec.structs.replace(view, spent_nano=spent, unseen_nano=unseen)
        for view, (spent, unseen) in zip(views, sums, strict=True)
    ]


def _json(line: BudgetLine, zone: dt.tzinfo) -> dict[str, object]:
    view = line.view
    return {
        "scope": view.kind,
        "name": view.name,
        "window": line.budget.window,
        "soft": line.budget.soft,
        "limit_usd": view.limit_nano / NANO,
        "spent_usd": view.spent_nano / NANO,
        "held_usd": None if line.held is None else line.held / NANO,
        "unseen_usd": view.unseen_nano / NANO,
        "left_usd": (view.limit_nano - line.used) / NANO,
        "share": round(line.share, 6),
        "starts_at": _moment(view.window.start, zone) if view.window.start else None,
        "resets_at": _moment(line.resets_at, zone),
        "usual_limit_usd": line.budget.nano_usd / NANO,
        "limit_changes_at": _moment(line.next_limit_at, zone),
    }


def _moment(seconds: float, zone: dt.tzinfo) -> str | None:
    return None if math.isinf(seconds) else dt.datetime.fromtimestamp(seconds, zone).isoformat()


def _print(lines: Sequence[BudgetLine], zone: dt.tzinfo) -> None:
    from gateway.commands.tables import number, print_table, words

    columns = [
        words("budget"),
        words("window"),
        number("limit"),
        number("spent"),
        number("held", spare=2),
        number("unseen", spare=3),
        number("left"),
        number("used"),
        number("resets", spare=1),
    ]
    rows = []
    for line in lines:
        view = line.view
        row = (
            f"{view.kind}:{view.name}",
            f"{line.budget.window}{' (soft)' if line.budget.soft else ''}",
            f"{_usd(view.limit_nano)}{'' if view.limit_nano == line.budget.nano_usd else ' *'}",
            _usd(view.spent_nano),
            "-" if line.held is None else _usd(line.held),
            _usd(view.unseen_nano),
            _usd(view.limit_nano - line.used),
            f"{line.share:.1%}",
            _resets(line, zone),
        )
        rows.append(row)
    print_table(columns, rows)
    if any(line.view.limit_nano != line.budget.nano_usd for line in lines):
        typer.echo("* an override is in force")


def _usd(nano: int) -> str:
    return f"{nano / NANO:,.4f}"


def _resets(line: BudgetLine, zone: dt.tzinfo) -> str:
    if line.view.rolling:
        return "rolls"
    if math.isinf(line.resets_at):
        return "never"
    return f"{dt.datetime.fromtimestamp(line.resets_at, zone):%Y-%m-%d %H:%M}"
