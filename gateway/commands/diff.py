"""`tollway policy diff`: what another file would have done with the traffic of the past."""
# ruff: noqa: PLC0415

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.options import (
    FormatOption,
    OutputFormat,
    PeriodOption,
    SinceOption,
    UntilOption,
    asked,
    built,
    exit_on_ledger_error,
)
from gateway.commands.rollout import LedgerOption
from gateway.commands.tables import number, print_table, words

if TYPE_CHECKING:
    from gateway.policy.rollout.diff_report import Change, DiffReport, RefusedGroup

DEFAULT_SINCE = "7d"

OldArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file that serves.")]
NewArgument = Annotated[Path, typer.Argument(metavar="NEW", help="The file that might.")]


def diff(
    file: OldArgument,
    new: NewArgument,
    period: PeriodOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    ledger: LedgerOption = None,
    form: FormatOption = OutputFormat.TABLE,
) -> None:
    """Replay the ledger's requests through both files: what moves, what is refused, what it costs.

    Those of the last 7 days, unless a period is named.
    """
    from gateway.ledger.spans import Span
    from gateway.metrics.logs import to_stderr
    from gateway.policy.rollout.diff import replay
    from gateway.policy.rollout.diff_report import report

    before = built(file) if ledger else built(file, ("ledger",))
    after = built(new)
    zone = before.tenancy.time_zone
    if period is None and since is None:
        since = DEFAULT_SINCE
    covered = asked(period, since, until, zone)
    span = Span(*covered.microseconds)
    url = ledger or before.settings.ledger_url
    with exit_on_ledger_error("policy diff"), to_stderr("error"), _progress() as advance:
        found = report(replay(url, before, after, span, advance))
    if form is OutputFormat.JSON:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        typer.echo(f"{covered} ({zone.key})")
        _print(found)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("Replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("rows", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


# --- the report in a terminal ---


def _print(found: "DiffReport") -> None:
    typer.echo(
        f"{found.requests:,} requests, version {found.old_version} against {found.new_version}: "
        f"{found.unchanged:,} as before, {sum(one.requests for one in found.moved):,} move, "
        f"{sum(one.requests for one in found.refused):,} are newly refused."
    )
    _print_moved(found)
    _print_refusals("Newly refused", found.refused)
    _print_refusals("No longer refused", found.admitted)
    _print_changes("deployment", found.deployments)
    _print_changes("feature", found.features)
    typer.echo(
        f"Cost of the same tokens: {_usd(found.cost_usd_old)} USD before, "
        f"{_usd(found.cost_usd_new)} USD after "
        f"({_usd(found.cost_usd_recorded)} USD recorded)."
    )
    for one in found.not_judged:
        typer.echo(f"Not judged: {one.requests:,} requests, because {one.reason}.")
    if found.replayed_otherwise:
        typer.echo(
            f"{found.replayed_otherwise:,} of the judged requests went elsewhere when they were served than "
            "the replay sends them: a failure or a speed decided that is not recorded."
        )
    typer.echo(
        "Not replayed: limits and budgets, and requests that were refused, for which there are no rows."
    )


def _print_moved(found: "DiffReport") -> None:
    if not found.moved:
        return
    columns = [*map(words, ("feature", "from", "to")), *map(number, ("requests", "USD before", "USD after"))]
    rows = [
        (
            one.feature,
            one.source,
            one.target,
            f"{one.requests:,}",
            _usd(one.cost_usd_old),
            _usd(one.cost_usd_new),
        )
        for one in found.moved
    ]
    total = (
        *("total", "", ""),
        f"{sum(one.requests for one in found.moved):,}",
        _usd(sum(one.cost_usd_old for one in found.moved)),
        _usd(sum(one.cost_usd_new for one in found.moved)),
    )
    print_table(columns, rows, total=total, title="Moves")


def _print_refusals(title: str, refusals: "list[RefusedGroup]") -> None:
    if not refusals:
        return
    columns = [*map(words, ("feature", "deployment", "error")), number("requests")]
    rows = [(one.feature, one.deployment, one.code, f"{one.requests:,}") for one in refusals]
    total = ("total", "", "", f"{sum(one.requests for one in refusals):,}")
    print_table(columns, rows, total=total, title=title)


def _print_changes(by: str, changes: "list[Change]") -> None:
    columns = [
        words(by),
        *map(number, ("requests", "after", "USD", "after")),
        number("peak tokens/s", spare=1),
        number("after", spare=1),
    ]
    rows = [
        (
            one.name,
            f"{one.old.requests:,}",
            f"{one.new.requests:,}",
            _usd(one.old.cost_usd),
            _usd(one.new.cost_usd),
            f"{one.old.peak_tokens_per_second:,.1f}",
            f"{one.new.peak_tokens_per_second:,.1f}",
        )
        for one in changes
    ]
    total = (
        "total",
        f"{sum(one.old.requests for one in changes):,}",
        f"{sum(one.new.requests for one in changes):,}",
        _usd(sum(one.old.cost_usd for one in changes)),
        _usd(sum(one.new.cost_usd for one in changes)),
        *("", ""),  # peaks of different moments have no sum
    )
    print_table(columns, rows, total=total)


def _usd(amount: float) -> str:
    return f"{amount:,.6f}"
