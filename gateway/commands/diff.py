"""`tollway policy diff`: what another file would have done with the traffic of the past."""
# ruff: noqa: PLC0415

import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.options import FormatOption, OutputFormat, built, exit_on_ledger_error
from gateway.commands.rollout import LedgerOption

if TYPE_CHECKING:
    from rich.console import Console

    from gateway.ledger.spans import Span
    from gateway.policy.rollout.diff_report import Change, DiffReport, RefusedGroup

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)

OldArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file that serves.")]
NewArgument = Annotated[Path, typer.Argument(metavar="NEW", help="The file that might.")]
SinceOption = Annotated[
    str, typer.Option(metavar="TIME", help="7d, 12h, 30m ago, or a date or time in the org's time zone.")
]
UntilOption = Annotated[str | None, typer.Option(metavar="TIME", help="To before this; as --since.")]


def diff(
    file: OldArgument,
    new: NewArgument,
    since: SinceOption = "7d",
    until: UntilOption = None,
    ledger: LedgerOption = None,
    form: FormatOption = OutputFormat.TABLE,
) -> None:
    """Replay the ledger's requests through both files: what moves, what is refused, what it costs."""
    from gateway.metrics.logs import only_errors
    from gateway.policy.rollout.diff import replay
    from gateway.policy.rollout.diff_report import report

    before, after = built(file), built(new)
    zone = before.tenancy.time_zone
    span = _span(since, until, zone)
    url = ledger or before.settings.ledger.get_secret_value()
    with exit_on_ledger_error("policy diff"), only_errors(), _progress() as advance:
        found = report(replay(url, before, after, span, advance))
    if form is OutputFormat.JSON:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        _print(found)


def _span(since: str, until: str | None, zone: dt.tzinfo) -> "Span":
    from gateway.ledger.spans import Span

    now = dt.datetime.now(zone)
    end = None if until is None else _microseconds(_time(until, now, "--until"))
    return Span(_microseconds(_time(since, now, "--since")), end)


def _time(text: str, now: dt.datetime, option: str) -> dt.datetime:
    """`7d` before `now`, or a date or time of its zone. Raises typer.BadParameter."""
    ago = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if ago is not None:
        return now - dt.timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write 7d, 12h or 2026-11-01", param_hint=option) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=now.tzinfo)


def _microseconds(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


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
    from rich.console import Console

    console = Console()
    typer.echo(
        f"{found.requests:,} requests, version {found.old_version} against {found.new_version}: "
        f"{found.unchanged:,} as before, {sum(one.requests for one in found.moved):,} move, "
        f"{sum(one.requests for one in found.refused):,} are newly refused."
    )
    _print_moved(console, found)
    _print_refusals(console, "Newly refused", found.refused)
    _print_refusals(console, "No longer refused", found.admitted)
    _print_changes(console, "deployment", found.deployments)
    _print_changes(console, "feature", found.features)
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


def _print_moved(console: "Console", found: "DiffReport") -> None:
    if not found.moved:
        return
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
    _print_table(console, "Moves", ("feature", "from", "to", "requests", "USD before", "USD after"), rows, 3)


def _print_refusals(console: "Console", title: str, refusals: "list[RefusedGroup]") -> None:
    if refusals:
        rows = [(one.feature, one.deployment, one.code, f"{one.requests:,}") for one in refusals]
        _print_table(console, title, ("feature", "deployment", "error", "requests"), rows, 3)


def _print_changes(console: "Console", by: str, changes: "list[Change]") -> None:
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
    heads = (by, "requests", "after", "USD", "after", "peak tokens/s", "after")
    _print_table(console, None, heads, rows, 1)


def _print_table(
    console: "Console", title: str | None, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], texts: int
) -> None:
    """The first `texts` columns are words, the others numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < texts else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _usd(amount: float) -> str:
    return f"{amount:.6f}"
