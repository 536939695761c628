"""`tollway usage`: usage and cost from the ledger, by any of its dimensions, for any period of the calendar.

Imports stand inside the command: it loads only what it needs.
"""
# ruff: noqa: PLC0415

import enum
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    PeriodOption,
    SinceOption,
    UntilOption,
    exit_on_ledger_error,
    report_file,
    write_out,
)

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
_COUNTS = ("requests", "input_tokens", "output_tokens")
ByOption = Annotated[str, typer.Option(help=_BY_HELP)]
FormOption = Annotated[
    UsageFormat | None,
    typer.Option("--format", help="What to give; left out: by the ending of --out, else table."),
]
OutOption = Annotated[Path | None, typer.Option(help="Into this file instead of the terminal.")]


def usage(
    config: ConfigOption = DEFAULT_FILE,
    by: ByOption = "feature",
    period: PeriodOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    form: FormOption = None,
    out: OutOption = None,
) -> None:
    """Usage and cost from the ledger, by any dimension."""
    from gateway.config.report_file import LEDGER
    from gateway.finance.tabular import ParquetMissing
    from gateway.finance.usage_report import UsageQuestion, usage_document, usage_rows
    from gateway.ledger.dimensions import Unanswerable

    form = form or _form_of(out)
    if form is UsageFormat.TABLE and out is not None:
        raise typer.BadParameter(
            "a table is for a terminal: name csv, json or parquet", param_hint="--format"
        )
    if form is UsageFormat.PARQUET and out is None and sys.stdout.isatty():
        raise typer.BadParameter("Parquet is not for a terminal: name a file", param_hint="--out")
    found = report_file(config, LEDGER)
    zone = found.zone
    now = time.time()
    question = UsageQuestion(by=by, period=period, since=since, until=until)
    with exit_on_ledger_error("usage", Unanswerable, ParquetMissing, OSError):
        rows = usage_rows(found.ledger_url, question, now=now, timezone=zone.key)
        if form is UsageFormat.TABLE:
            typer.echo(f"{question.asked(now, zone)} ({zone.key})")
            if question.by_unit:
                _print_units(rows, question)
            else:
                _print(rows, question.dimensions.names)
            by_late = UsageQuestion(by="late", period=period, since=since, until=until)
            _print_late(usage_rows(found.ledger_url, by_late, now=now, timezone=zone.key))
            return
        content = usage_document(rows, question, form)
        write_out(content, out)


def _form_of(out: Path | None) -> UsageFormat:
    ending = "" if out is None else out.suffix.removeprefix(".").lower()
    return UsageFormat(ending) if ending in set(UsageFormat) else UsageFormat.TABLE


def _print_units(rows: "Sequence[UsageRow]", question: "UsageQuestion") -> None:
    """An amount for each unit of usage of each group. They are of different kinds: no total."""
    from gateway.commands.tables import number, print_table, words
    from gateway.finance.usage_report import units_json

    columns = [*(words(name) for name in question.columns), number("amount")]
    found = [[*one.values()] for one in units_json(rows, question)]
    print_table(columns, [(*map(str, names), f"{amount:,}") for *names, amount in found])


def _print(rows: "Sequence[UsageRow]", by: Sequence[str]) -> None:
    """With the cost on each other deployment where it is known, corrections last, and the total."""
    from gateway.commands.tables import number, print_table, words

    others = sorted({name for row in rows for name in row.counterfactual_usd})
    columns = [
        *(words(name) for name in by),
        *(number(head) for head in ("requests", "input tokens", "output tokens", "cost USD")),
        *(number(f"on {name}", spare=1) for name in others),
    ]
    cells = [
        (
            *row.group.values(),
            "correction" if row.is_correction else f"{row.requests:,}",
            *(f"{count:,}" for count in (row.input_tokens, row.output_tokens)),
            f"{row.cost_usd:,.6f}",
            *("-" if usd is None else f"{usd:,.6f}" for usd in map(row.counterfactual_usd.get, others)),
        )
        for row in rows
    ]
    total = (
        "total",
        *("" for _ in by[1:]),
        *(f"{sum(getattr(row, name) for row in rows):,}" for name in _COUNTS),
        f"{sum(row.cost_usd for row in rows):,.6f}",
        *(_sum_on(name, rows) for name in others),
    )
    print_table(columns, cells, total=total)


def _print_late(rows: "Sequence[UsageRow]") -> None:
    """That a month's table holds credits of months before it, where it does. `rows` are by lateness."""
    late = [row.cost_usd for row in rows if row.group["late"] == "true"]
    if late:
        typer.echo(
            f"In it are {sum(late):+,.6f} USD of earlier months, which were closed: corrections, and what "
            "came late (--by late)."
        )


def _sum_on(name: str, rows: "Sequence[UsageRow]") -> str:
    """What all of it would have cost on deployment `name`, where that is known of every row."""
    costs = [row.counterfactual_usd.get(name) for row in rows]
    return "-" if None in costs else f"{sum(usd for usd in costs if usd is not None):,.6f}"
