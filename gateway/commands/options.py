"""What the commands on the ledger share: the configuration that names it, months, and printing errors."""

import datetime as dt
import enum
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway.core import calendar
from gateway.private_files import write_private

if TYPE_CHECKING:
    from gateway.config.build import Built
    from gateway.config.load import Loaded
    from gateway.config.problems import KeyPath, Problem
    from gateway.config.report_file import ReportFile

DEFAULT_FILE = Path("tollway.yaml")
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]


class OutputFormat(enum.StrEnum):
    """How a report is printed; json is stable."""

    TABLE = "table"
    JSON = "json"


class TextFormat(enum.StrEnum):
    """How a result in words is printed; json is stable."""

    TEXT = "text"
    JSON = "json"


PeriodOption = Annotated[
    str | None,
    typer.Option(
        metavar="PERIOD", help=f"In the org's time zone: {calendar.NAMES}; or as {calendar.EXAMPLES}."
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help=f"Instead: from this moment on, as {calendar.MOMENTS}, org's zone."),
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="To before this moment, as --since; left out: now.")
]

FormatOption = Annotated[OutputFormat, typer.Option("--format", help="How to print it.")]
TextFormatOption = Annotated[TextFormat, typer.Option("--format", help="How to print it.")]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def built(config: Path, *needed: "KeyPath") -> "Built":
    """As `loaded_and_built`, without the lines."""
    return loaded_and_built(config, *needed)[1]


def loaded_and_built(config: Path, *needed: "KeyPath") -> "tuple[Loaded, Built]":
    """The file with its lines, and what it asks for. Prints every error and exits when it is not valid.

    Of secrets and addresses only those at the paths in `needed` must be set: these commands serve nothing.
    """
    from gateway.config.build import build  # noqa: PLC0415
    from gateway.config.load import load  # noqa: PLC0415
    from gateway.config.stand_ins import stand_in_but_for  # noqa: PLC0415
    from gateway.finance.price_catalogue import PriceCatalogue  # noqa: PLC0415

    loaded = load(config, os.environ, stand_in=stand_in_but_for(*needed))
    found, problems = build(loaded, PriceCatalogue())
    if found is None:
        exit_with(problems)
    return loaded, found


def report_file(config: Path, sections: Collection[str]) -> "ReportFile":
    """These `sections` of the file. Prints every error in them and exits when there is one.

    Errors elsewhere, and secrets that are not set, are no obstacle to a report.
    """
    from gateway.config.report_file import ReportFile, read_report_file  # noqa: PLC0415

    found = read_report_file(config, os.environ, sections)
    if not isinstance(found, ReportFile):
        exit_with(found)
    return found


def exit_with(problems: "Iterable[Problem]") -> NoReturn:
    """Prints each and exits with 1."""
    for problem in problems:
        typer.echo(str(problem), err=True)
    raise typer.Exit(1)


def asked(period: str | None, since: str | None, until: str | None, zone: dt.tzinfo) -> calendar.AskedPeriod:
    """What --period, --since and --until say together. Raises typer.BadParameter."""
    try:
        return calendar.asked(period, since, until, dt.datetime.now(zone))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--period, --since, --until") from None


def month(text: str) -> dt.date:
    """The first day of `text`, as 2026-10. Raises typer.BadParameter."""
    try:
        return dt.datetime.strptime(text, "%Y-%m").date()  # a calendar month has no zone
    except ValueError:
        raise typer.BadParameter("write a month as 2026-10") from None


def month_after(first: dt.date) -> dt.date:
    return (first + dt.timedelta(days=32)).replace(day=1)


def now_microseconds() -> int:
    """UTC microseconds since 1970."""
    return (dt.datetime.now(dt.UTC) - _EPOCH) // _MICROSECOND


def write_out(content: bytes, out: Path | None) -> None:
    """To the file `out`, or to standard output where there is none."""
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_private(out, content)


@contextmanager
def exit_on_ledger_error(command: str, *errors: type[Exception]) -> Iterator[None]:
    """Prints an expected error of the ledger in one line and exits with 1."""
    from gateway.ledger.errors import LedgerUnavailable  # noqa: PLC0415
    from gateway.metrics.logs import to_stderr  # noqa: PLC0415

    expected: tuple[type[Exception], ...] = (LedgerUnavailable, *errors)
    try:
        with to_stderr():
            yield
    except expected as exc:
        typer.echo(f"tollway {command}: {exc}", err=True)
        raise typer.Exit(1) from exc
