"""`tollway export focus`: one month of the ledger in the format that FinOps tools read.

Imports stand inside the command: it loads only what it needs.
"""
# ruff: noqa: PLC0415

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    exit_on_ledger_error,
    month,
    report_file,
    write_out,
)
from gateway.core import calendar
from gateway.core.catalog import Provider
from gateway.core.focus import Version, focus_table

if TYPE_CHECKING:
    from gateway.config.catalogue import Deployment

export_app = typer.Typer(help="Files for the tools of finance.", no_args_is_help=True)


class FileForm(enum.StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


MonthOption = Annotated[
    str, typer.Option("--month", metavar="MONTH", help="A month of the org's calendar: 2026-11.")
]
VersionOption = Annotated[Version, typer.Option(help="Version of FOCUS.")]
FormOption = Annotated[
    FileForm | None, typer.Option("--format", help="Left out: by the ending of --out, else csv.")
]
OutOption = Annotated[Path | None, typer.Option(help="The file to write; left out: standard output.")]
InvoiceOption = Annotated[
    list[str],
    typer.Option(
        metavar="DEPLOYMENT=ID", help="The month's invoice of a hosted deployment, once it is reconciled."
    ),
]
TagsOption = Annotated[
    bool,
    typer.Option(
        help="Requests with other tags are charges of their own. --no-tags: fewer rows, and no x_Tags."
    ),
]


@export_app.callback()
def export() -> None:
    """Keeps `focus` a command of its own."""


@export_app.command()
def focus(
    month_text: MonthOption,
    config: ConfigOption = DEFAULT_FILE,
    version: VersionOption = Version.V1_3,
    form: FormOption = None,
    out: OutOption = None,
    invoice: InvoiceOption = [],  # noqa: B006
    tags: TagsOption = True,
) -> None:
    """FOCUS, dataset Cost and Usage. The same month gives the same bytes once it is over."""
    from gateway.config.report_file import DEPLOYMENTS
    from gateway.finance.charges import Sides, charges_of, period_of
    from gateway.finance.tabular import FileFormat, ParquetMissing, encoded
    from gateway.ledger.reports import RowsDeleted

    first = month(month_text)
    chosen = form or (FileForm.PARQUET if out is not None and out.suffix == ".parquet" else FileForm.CSV)
    found = report_file(config, DEPLOYMENTS)
    deployments = found.settings.deployments
    sides = Sides(
        providers={
            name: Provider(one.provider)
            for name, one in deployments.items()
            if one.provider in set(Provider)  # the others are not in force yet: nothing was ever sent there
        },
        models={name: one.model for name, one in deployments.items()},
        pools={one.plan.deployment: one for one in found.pools()},
        invoices=_invoices(invoice, deployments),
        names=_given(deployments, "provider_name"),
        regions=_given(deployments, "region"),
    )
    zone = found.zone
    billing = period_of(calendar.month(first), zone)
    if dt.datetime.now(dt.UTC) < billing.end:
        typer.echo(f"{month_text} is not over: a later export of it will hold more.", err=True)
    with exit_on_ledger_error("export focus", RowsDeleted, ParquetMissing, OSError):
        charges = charges_of(found.ledger_url, first, zone, sides, with_tags=tags)
        table = focus_table(charges, version, found.settings.org.name, billing)
        content = encoded(table, FileFormat(chosen))
        write_out(content, out)


def _given(deployments: Mapping[str, "Deployment"], setting: str) -> dict[str, str]:
    """What the file says of its deployments, by name."""
    values = {name: getattr(one, setting) for name, one in deployments.items()}
    return {name: value for name, value in values.items() if value is not None}


def _invoices(given: Sequence[str], deployments: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        deployment, equals, number = text.partition("=")
        if not equals or not number or deployment not in deployments:
            named = ", ".join(deployments)
            raise typer.BadParameter(
                f"{text!r}: write DEPLOYMENT=ID, with one of {named}", param_hint="--invoice"
            )
        found[deployment] = number
    return found
