"""`tollway ledger`: close periods, delete old rows, make the totals anew. Safe while gateways run.

Imports stand inside the commands: each loads only what it needs.
"""
# ruff: noqa: PLC0415

from typing import Annotated

import typer

from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    built,
    microseconds,
    month,
    month_after,
    now_microseconds,
    told,
)
from gateway.core.money import usd_text

ledger_app = typer.Typer(help="Close periods, delete old rows, rebuild totals.", no_args_is_help=True)

MonthArgument = Annotated[
    str, typer.Argument(metavar="MONTH", help="A month of the org's calendar: 2026-10.")
]
BeforeOption = Annotated[str, typer.Option(metavar="MONTH", help="The first month to keep: 2026-01.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@ledger_app.command()
def close(period: MonthArgument, config: ConfigOption = DEFAULT_FILE) -> None:
    """Close a month and all before it. What comes later for it becomes a correction in the open month."""
    from gateway.adapters.ledger.retention import PeriodRefused
    from gateway.adapters.ledger.retention import close as close_period

    found = built(config)
    before = microseconds(month_after(month(period)), found.tenancy.time_zone)
    with told("ledger close", PeriodRefused):
        close_period(found.settings.ledger.get_secret_value(), before, now=now_microseconds())
    typer.echo(f"Closed up to and including {period}.")


@ledger_app.command()
def prune(before: BeforeOption, yes: YesOption = False, config: ConfigOption = DEFAULT_FILE) -> None:
    """Delete the rows of closed months and keep their totals. Cannot be undone."""
    from gateway.adapters.ledger.retention import PeriodRefused
    from gateway.adapters.ledger.retention import prune as prune_period

    found = built(config)
    end = microseconds(month(before), found.tenancy.time_zone)
    if not yes:
        typer.confirm(f"Delete every row before {before} for good?", abort=True, err=True)
    with told("ledger prune", PeriodRefused):
        deleted = prune_period(found.settings.ledger.get_secret_value(), end, now=now_microseconds())
    typer.echo(f"Deleted {deleted:,} rows before {before}; their totals stay.")


@ledger_app.command()
def rebuild(config: ConfigOption = DEFAULT_FILE) -> None:
    """Make all totals anew from the rows, and say whether they had been right."""
    from gateway.adapters.ledger.retention import rebuild as rebuild_totals

    url = built(config).settings.ledger.get_secret_value()
    with told("ledger rebuild"):
        done = rebuild_totals(url)
    before, after = usd_text(done.nano_usd_before), usd_text(done.nano_usd_after)
    same = "as before" if before == after else f"they had said {before} USD"
    typer.echo(f"Totals of {done.rows:,} rows rebuilt: {after} USD, {same}.")
