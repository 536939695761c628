"""`tollway ledger`: see where it stands, migrate, close periods, delete old rows, make the totals anew.

Safe while gateways run. Imports stand inside the commands: each loads only what it needs.
"""
# ruff: noqa: PLC0415

import datetime as dt
import json
from typing import Annotated, Any

import typer

from gateway.commands.audit import enter
from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    TextFormat,
    TextFormatOption,
    exit_on_ledger_error,
    month,
    month_after,
    now_microseconds,
    report_file,
)
from gateway.core.calendar import start_of_day
from gateway.core.pricing import usd_text

ledger_app = typer.Typer(
    help="See where the ledger stands, migrate, close periods, delete old rows, rebuild totals.",
    no_args_is_help=True,
)


MonthArgument = Annotated[
    str, typer.Argument(metavar="MONTH", help="A month of the org's calendar: 2026-10.")
]
BeforeOption = Annotated[str, typer.Option(metavar="MONTH", help="The first month to keep: 2026-01.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@ledger_app.command()
def status(config: ConfigOption = DEFAULT_FILE, form: TextFormatOption = TextFormat.TEXT) -> None:
    """What is closed and deleted, how many rows there are and what they cost."""
    from gateway.config.report_file import LEDGER
    from gateway.ledger.retention import status as status_of

    found = report_file(config, LEDGER)
    with exit_on_ledger_error("ledger status"):
        now = status_of(found.ledger_url)
    closed, pruned = (_day(at, found.zone) for at in (now.closed_before, now.pruned_before))
    _print(
        form,
        {
            "closed_before": closed,
            "pruned_before": pruned,
            "rows": now.rows,
            "corrections": now.corrections,
            "cost_usd": usd_text(now.nano_usd),
        },
        f"{now.rows:,} rows, {now.corrections:,} of them corrections; {usd_text(now.nano_usd)} USD in all. "
        f"Closed before: {closed or 'nothing'}. Deleted before: {pruned or 'nothing'}.",
    )


@ledger_app.command()
def migrate(config: ConfigOption = DEFAULT_FILE, form: TextFormatOption = TextFormat.TEXT) -> None:
    """Make the ledger's tables, or bring them to this version. Does nothing where that is done.

    A gateway does the same when it starts; here a rollout learns beforehand whether it works.
    """
    from gateway.config.report_file import LEDGER
    from gateway.ledger.url import database_of

    found = report_file(config, LEDGER)
    with exit_on_ledger_error("ledger migrate"):
        before, after = database_of(found.ledger_url).create_or_migrate()
    if before == after:
        text = f"The ledger is at revision {after} already."
    else:
        text = f"The ledger is at revision {after} now; {'it was at ' + before if before else 'it is new'}."
    _print(form, {"before": before, "after": after}, text)


@ledger_app.command()
def close(
    period: MonthArgument,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_FILE,
    form: TextFormatOption = TextFormat.TEXT,
) -> None:
    """Close a month and all before it. What comes later for it becomes a correction in the open month.

    Cannot be undone.
    """
    from gateway.config.report_file import AUDIT
    from gateway.ledger.retention import PeriodRefused
    from gateway.ledger.retention import close as close_period

    found = report_file(config, AUDIT)
    first = month_after(month(period))
    before = start_of_day(first, found.zone)
    if not yes:
        typer.confirm(f"Close {period} and everything before it for good?", abort=True, err=True)
    with exit_on_ledger_error("ledger close", PeriodRefused):
        close_period(found.ledger_url, before, now=now_microseconds())
        enter(found.settings, "ledger close", before=first.isoformat())
    _print(form, {"closed_before": first.isoformat()}, f"Closed up to and including {period}.")


@ledger_app.command()
def prune(
    before: BeforeOption,
    yes: YesOption = False,
    config: ConfigOption = DEFAULT_FILE,
    form: TextFormatOption = TextFormat.TEXT,
) -> None:
    """Delete the rows of closed months and keep their totals. Cannot be undone."""
    from gateway.config.report_file import AUDIT
    from gateway.ledger.retention import PeriodRefused
    from gateway.ledger.retention import prune as prune_period

    found = report_file(config, AUDIT)
    first = month(before)
    end = start_of_day(first, found.zone)
    if not yes:
        typer.confirm(f"Delete every row before {before} for good?", abort=True, err=True)
    with exit_on_ledger_error("ledger prune", PeriodRefused):
        deleted = prune_period(found.ledger_url, end, now=now_microseconds())
        enter(found.settings, "ledger prune", before=first.isoformat(), rows=deleted)
    _print(
        form,
        {"pruned_before": first.isoformat(), "rows_deleted": deleted},
        f"Deleted {deleted:,} rows before {before}; their totals stay.",
    )


@ledger_app.command()
def rebuild(config: ConfigOption = DEFAULT_FILE, form: TextFormatOption = TextFormat.TEXT) -> None:
    """Make all totals anew from the rows, and say whether they had been right."""
    from gateway.config.report_file import AUDIT
    from gateway.ledger.retention import rebuild as rebuild_totals

    found = report_file(config, AUDIT)
    with exit_on_ledger_error("ledger rebuild"):
        done = rebuild_totals(found.ledger_url)
        enter(found.settings, "ledger rebuild", rows=done.rows)
    before, after = usd_text(done.nano_usd_before), usd_text(done.nano_usd_after)
    same = "as before" if before == after else f"they had said {before} USD"
    _print(
        form,
        {"rows": done.rows, "cost_usd_before": before, "cost_usd": after},
        f"Totals of {done.rows:,} rows rebuilt: {after} USD, {same}.",
    )


def _print(form: TextFormat, values: dict[str, Any], text: str) -> None:
    typer.echo(json.dumps(values) if form is TextFormat.JSON else text)


def _day(at: int | None, zone: dt.tzinfo) -> str | None:
    """The day on which a period ends, in the org's zone."""
    return None if at is None else dt.datetime.fromtimestamp(at / 1_000_000, zone).date().isoformat()
