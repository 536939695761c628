"""`tollway usage`: usage and cost from the ledger, by any of its dimensions, for any period of the calendar.

Imports stand inside the command: it loads only what it needs.
"""
# ruff: noqa: PLC0415

import datetime as dt
import enum
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.options import DEFAULT_FILE, ConfigOption, built, exit_on_ledger_error
from gateway.core import calendar

if TYPE_CHECKING:
    from gateway.finance.usage_report import UsageQuestion
    from gateway.ledger.reports import UsageRow


class UsageFormat(enum.StrEnum):
    """How a report is given; json is stable."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


_BY_HELP = (
    "One or several, with commas between: feature, team, key, model, deployment, zone, privacy, outcome, "
    "day, week, month, tags, tag:NAME, replica, endpoint, price_version, flags ...; "
    "token_type: taken apart by unit of usage"
)
ByOption = Annotated[str, typer.Option(help=_BY_HELP)]
PeriodOption = Annotated[
    str | None,
    typer.Option(help=f"In the org's time zone: {calendar.NAMES}; or as {calendar.EXAMPLES}."),
]
SinceOption = Annotated[dt.datetime | None, typer.Option(help="From this moment on, in the org's time zone.")]
UntilOption = Annotated[dt.datetime | None, typer.Option(help="To before this moment.")]
FormOption = Annotated[UsageFormat, typer.Option("--format", help="What to give; json is stable.")]
OutOption = Annotated[Path | None, typer.Option(help="Into this file instead of the terminal.")]


def usage(
    config: ConfigOption = DEFAULT_FILE,
    by: ByOption = "feature",
    period: PeriodOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    form: FormOption = UsageFormat.TABLE,
    out: OutOption = None,
) -> None:
    """Usage and cost from the ledger, by any dimension."""
    from gateway.finance.tabular import ParquetMissing
    from gateway.finance.usage_report import UsageQuestion, usage_document, usage_rows
    from gateway.ledger.dimensions import Unanswerable

    if form is UsageFormat.PARQUET and out is None and sys.stdout.isatty():
        raise typer.BadParameter("Parquet is not for a terminal: name a file", param_hint="--out")
    found = built(config)
    url, zone = found.settings.ledger.get_secret_value(), found.settings.org.timezone
    question = UsageQuestion(by=by, period=period, since=since, until=until)
    with exit_on_ledger_error("usage", Unanswerable, ParquetMissing, OSError):
        rows = usage_rows(url, question, now=time.time(), timezone=zone)
        if form is UsageFormat.TABLE:
            content = _units(rows, question) if question.by_unit else _table(rows, question.dimensions.names)
        else:
            content = usage_document(rows, question, form)
        if out is None:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        else:
            out.write_bytes(content)


def _units(rows: "Sequence[UsageRow]", question: "UsageQuestion") -> bytes:
    """An amount for each unit of usage of each group."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gateway.finance.usage_report import units_json

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name in question.columns:
        table.add_column(name, overflow="fold")
    table.add_column("amount", justify="right", overflow="fold")
    for one in units_json(rows, question):
        *names, amount = one.values()
        table.add_row(*(Text(_printable(str(name))) for name in names), f"{amount:,}")
    console = Console()
    with console.capture() as captured:
        console.print(table)
    return captured.get().encode()


def _table(rows: "Sequence[UsageRow]", by: Sequence[str]) -> bytes:
    """With the cost on each other deployment where it is known, and the total."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    others = sorted({name for row in rows for name in row.counterfactual_usd})
    heads = ("requests", "input tokens", "output tokens", "cost USD", *(f"on {name}" for name in others))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name in by:
        table.add_column(name, overflow="fold")
    for name in heads:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        elsewhere = (row.counterfactual_usd.get(name) for name in others)
        table.add_row(
            *(Text(_printable(value)) for value in row.group.values()),  # clients write tags: no markup
            f"{row.requests:,}",
            f"{row.input_tokens:,}",
            f"{row.output_tokens:,}",
            f"{row.cost_usd:.6f}",
            *("-" if usd is None else f"{usd:.6f}" for usd in elsewhere),
        )
    console = Console()
    with console.capture() as captured:
        console.print(table)
        console.print(f"{sum(row.cost_usd for row in rows):.6f} USD in all.", highlight=False)
    return captured.get().encode()


def _printable(value: str) -> str:
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in value)
