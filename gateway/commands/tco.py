"""`tollway tco`: what traffic cost on own GPUs and at a provider, and what it would have cost there."""
# ruff: noqa: PLC0415

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    FormatOption,
    OutputFormat,
    built,
    exit_on_ledger_error,
)

if TYPE_CHECKING:
    from rich.console import Console

    from gateway.core.tco import BreakEven
    from gateway.finance.tco.report import Comparison, HostedSide, PoolSide, TcoReport

BAR_CELLS = 40
LEAST_COLUMNS = 150

SinceOption = Annotated[
    str, typer.Option(metavar="TIME", help="30d, 12h ago, or a date or time in the org's time zone.")
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="To before this; left out: now. As --since.")
]
ByOption = Annotated[str, typer.Option(help="feature, team or model.")]
WhatIfOption = Annotated[
    str,
    typer.Option(help="Other assumptions: usd_per_gpu_hour=2.5,replicas=3,gpt4o.output=8,share.local=0.7"),
]
ChartOption = Annotated[
    Path | None,
    typer.Option(help="Also draw the break-even curve into this file (.png, .svg); needs tollway[charts]."),
]


def tco(
    config: ConfigOption = DEFAULT_FILE,
    since: SinceOption = "30d",
    until: UntilOption = None,
    by: ByOption = "feature",
    what_if: WhatIfOption = "",
    form: FormatOption = OutputFormat.TABLE,
    chart: ChartOption = None,
) -> None:
    """Own GPUs against a provider for the same traffic: cost, idle tax, break-even."""
    from gateway.finance.tco.compare import TcoRows
    from gateway.finance.tco.question import TcoPeriod, WrongTime, answer
    from gateway.finance.tco.what_if import WrongWhatIf

    if by not in set(TcoRows):
        raise typer.BadParameter(f"use one of {', '.join(TcoRows)}", param_hint="--by")
    question = TcoPeriod(since=since, until=until, by=TcoRows(by), what_if=what_if)
    found_file = built(config)
    with exit_on_ledger_error("tco", WrongTime, WrongWhatIf):
        found = answer(found_file.tco_sources, question, dt.datetime.now(dt.UTC))
    if chart is not None:
        _draw(found, chart)
    if form is OutputFormat.JSON:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        print_comparison(found)


def print_comparison(found: "Comparison") -> None:
    """Tables for a terminal."""
    from rich.console import Console

    console = Console()
    if console.width < LEAST_COLUMNS:  # the terminal may break lines, but no number may be cut
        console = Console(width=LEAST_COLUMNS)
    _print_report(console, found.actual)
    if found.what_if is not None:
        given = ", ".join(f"{name}={value}" for name, value in found.what_if.given.items())
        typer.echo(f"\nWhat if {given}: {found.what_if.difference_usd:+,.2f} USD in all.")
        _print_report(console, found.what_if.report)


def _print_report(console: "Console", report: "TcoReport") -> None:
    typer.echo(f"{report.since} to {report.until}, in USD")
    _print_costs(console, report)
    for pool in report.pools:
        _print_pool(pool)
    _print_speeds(console, report)
    for pool in report.pools:
        for one in pool.break_even:
            _print_curve(pool.deployment, one)
    for line in report.missing:
        typer.echo(f"Missing: {line}.")
    _print_uncertainty(report)


def _print_costs(console: "Console", report: "TcoReport") -> None:
    from rich.table import Table

    sides = sorted(report.totals.on)
    heads = ("requests", "hosted", "GPU work", "GPU idle", "fully loaded", "marginal")
    table = Table(report.by, *heads, *(f"all on {name}" for name in sides))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, cost in [*((row.name, row.cost) for row in report.rows), ("total", report.totals)]:
        amounts = (
            cost.hosted_usd,
            cost.pool_workload_usd,
            cost.pool_idle_usd,
            cost.fully_loaded_usd,
            cost.marginal_usd,
            *(cost.on[side] for side in sides),
        )
        table.add_row(name, f"{cost.requests:,}", *(f"{usd:,.2f}" for usd in amounts))
    console.print(table)
    if report.corrections_usd:
        typer.echo(f"Beside it corrections of earlier periods, hosted: {report.corrections_usd:+,.2f} USD.")


def _print_pool(pool: "PoolSide") -> None:
    used = "unknown" if pool.utilisation is None else f"{pool.utilisation:.1%}"
    typer.echo(
        f"{pool.deployment}: {pool.gpu_hours:,.1f} GPU-hours of {pool.gpu} {pool.gpu_usd:,.2f} + overhead "
        f"{pool.overhead_usd:,.2f} = {pool.bill_usd:,.2f}, of it idle {pool.idle_usd:,.2f} "
        f"({pool.idle_policy}); utilisation {used}; budgets were charged {pool.transfer_usd:,.2f}."
    )
    if pool.all_traffic is not None:
        everything = pool.all_traffic
        typer.echo(
            f"  With all of the traffic, in the mean: replicas {everything.replicas}, "
            f"utilisation {everything.utilisation:.1%}, "
            f"{everything.usd:,.2f}."
        )


def _print_speeds(console: "Console", report: "TcoReport") -> None:
    from rich.table import Table

    heads = ("USD/M tokens", "in", "out", "first token ms", "p95", "tokens/s", "bytes/token")
    table = Table("deployment", *heads)
    for column in table.columns[1:]:
        column.justify = "right"
    sides: list[PoolSide | HostedSide] = [*report.pools, *report.hosted]
    for side in sides:
        speed, tokenizer = side.latency, side.tokenizer
        values = (
            side.usd_per_million_tokens,
            side.usd_per_million_input_tokens,
            side.usd_per_million_output_tokens,
            speed and speed.ttft_ms_median,
            speed and speed.ttft_ms_p95,
            speed and speed.tokens_per_second_median,
            tokenizer and tokenizer.bytes_per_token,
        )
        table.add_row(side.deployment, *("-" if value is None else f"{value:,.2f}" for value in values))
    console.print(table)


def _print_curve(pool: str, found: "BreakEven") -> None:
    """The cost of a million tokens over the utilisation; `|` is the hosted price."""
    if found.utilisation is None:
        typer.echo(f"{pool} against {found.against}: no break-even, one more token costs more here.")
        return
    monthly = f"{found.tokens_per_month:,} tokens a month"
    beyond = " (not with these replicas)" if found.utilisation > 1 else ""
    typer.echo(f"{pool} against {found.against}: break-even at {found.utilisation:.1%}{beyond}, {monthly}.")
    hosted = found.hosted_usd_per_million_tokens
    widest = max(2 * hosted, found.curve[-1].pool_usd_per_million_tokens)
    for point in found.curve:
        price = point.pool_usd_per_million_tokens
        cells = min(round(BAR_CELLS * price / widest), BAR_CELLS)
        bar = list("#" * cells + " " * (BAR_CELLS - cells) + (">" if price > widest else " "))
        bar[min(round(BAR_CELLS * hosted / widest), BAR_CELLS - 1)] = "|"
        typer.echo(f"  {point.utilisation:>4.0%} {''.join(bar)} {price:>10,.2f} USD/M")


def _print_uncertainty(report: "TcoReport") -> None:
    found = report.uncertainty
    typer.echo(
        f"Uncertain: {found.estimated_attempts_share:.1%} of attempts are estimated, {found.unseen_usd:,.2f} "
        f"unseen beyond them; {found.pool_estimated_usd:,.2f} of the GPU bill is for time without a gateway."
    )
    for line in found.notes:
        typer.echo(f"  {line}.")


def _draw(found: "Comparison", path: Path) -> None:
    # The library takes a second to load, and only those who want a file need it.
    try:
        from gateway.finance.tco.chart import draw
    except ImportError:
        typer.echo("tollway tco: --chart needs a library: pip install 'tollway[charts]'", err=True)
        raise typer.Exit(1) from None
    try:
        draw(found, path)
    except (OSError, ValueError) as exc:
        typer.echo(f"tollway tco: cannot write {path}: {exc}", err=True)
        raise typer.Exit(1) from exc
