"""`tollway replicas`: what concerns single replicas of a pool.

Imports stand inside the commands: each loads only what it needs.
"""
# ruff: noqa: PLC0415

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    FormatOption,
    OutputFormat,
    PeriodOption,
    SinceOption,
    UntilOption,
    asked,
    exit_on_ledger_error,
    report_file,
)

if TYPE_CHECKING:
    from gateway.finance.engine_counters import EngineTokens, Reconciled

replicas_app = typer.Typer(help="Single replicas of a pool.", no_args_is_help=True)

ReplicaArgument = Annotated[str, typer.Argument(help="Its name in the ledger and in metrics: host:port.")]
AfterOption = Annotated[Path, typer.Option(help="A page of its /metrics from the end of the time.")]
BeforeOption = Annotated[
    Path | None, typer.Option(help="A page from its beginning. Left out: the engine was started in it.")
]


@replicas_app.callback()
def replicas() -> None:
    """Single replicas of a pool."""


@replicas_app.command()
def reconcile(
    replica: ReplicaArgument,
    after: AfterOption,
    before: BeforeOption = None,
    config: ConfigOption = DEFAULT_FILE,
    period: PeriodOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    form: FormatOption = OutputFormat.TABLE,
) -> None:
    """The tokens that an engine has counted against those of the ledger. Exit 1 when they differ."""
    from gateway.config.report_file import LEDGER
    from gateway.finance import engine_counters
    from gateway.ledger.past_attempts import EngineAttempt, reading_past
    from gateway.ledger.spans import Span

    found = report_file(config, LEDGER)
    span = asked(period, since, until, found.zone)
    with exit_on_ledger_error("replicas reconcile", engine_counters.NotCounters, OSError):
        engine = _counted(before, after)
        with reading_past(found.ledger_url, Span(*span.microseconds)) as past:
            rows = map(EngineAttempt._make, chain.from_iterable(past.at_replica(replica)))
            result = engine_counters.reconcile(engine, rows)
    if form is OutputFormat.JSON:
        typer.echo(json.dumps(_document(replica, result), indent=2))
    else:
        typer.echo(f"{replica}, {span} ({found.zone.key})")
        _print(result)
    if not result.agrees:
        raise typer.Exit(1)


def _counted(before: Path | None, after: Path) -> "EngineTokens":
    from gateway.finance.engine_counters import EngineTokens, counted_between, read_counters

    begin = EngineTokens(0, 0) if before is None else read_counters(before.read_text())
    return counted_between(begin, read_counters(after.read_text()))


def _document(replica: str, result: "Reconciled") -> dict[str, Any]:
    engine, ledger, drift = result.engine, result.ledger, result.drift
    return {
        "replica": replica,
        "attempts": result.attempts,
        "estimated_attempts": result.estimated,
        "rows": [
            {"kind": "prompt", "engine": engine.prompt, "ledger": ledger.prompt, "drift": drift.prompt},
            {"kind": "output", "engine": engine.output, "ledger": ledger.output, "drift": drift.output},
        ],
    }


def _print(result: "Reconciled") -> None:
    from gateway.commands.tables import number, print_table, words

    sides = (result.engine, result.ledger, result.drift)
    rows = [
        (kind, *(f"{getattr(side, kind):{sign}}" for side, sign in zip(sides, (",", ",", "+,"), strict=True)))
        for kind in ("prompt", "output")
    ]
    print_table([words("tokens"), number("engine"), number("ledger"), number("drift")], rows)
    typer.echo(
        f"{result.attempts:,} attempts, {result.estimated:,} of them estimated. "
        "Prompts count once for each choice."
    )
