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
    PeriodOption,
    SinceOption,
    UntilOption,
    asked,
    exit_on_ledger_error,
    exit_with,
    report_file,
)
from gateway.commands.tables import number, print_table, words

if TYPE_CHECKING:
    from gateway.core.tco import BreakEven
    from gateway.finance.tco.report import Comparison, Cost, HostedSide, PoolSide, TcoReport

DEFAULT_SINCE = "30d"

ByOption = Annotated[str, typer.Option(help="feature, team or model.")]
WhatIfOption = Annotated[
    str,
    typer.Option(help="Other assumptions: usd_per_gpu_hour=2.5,replicas=3,gpt4o.output=8,share.local=0.7"),
]
ChartOption = Annotated[
    Path | None,
    typer.Option(help="Also draw the break-even curve into this file (.png, .svg): extra `charts`."),
]


def tco(
    config: ConfigOption = DEFAULT_FILE,
    period: PeriodOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    by: ByOption = "feature",
    what_if: WhatIfOption = "",
    form: FormatOption = OutputFormat.TABLE,
    chart: ChartOption = None,
) -> None:
    """Own GPUs against a provider for the same traffic: cost, idle tax, break-even.

    Of the last 30 days, unless a period is named.
    """
    from gateway.config.report_file import DEPLOYMENTS
    from gateway.finance.tco.compare import TcoRows
    from gateway.finance.tco.question import TcoPeriod, WrongTime, answer
    from gateway.finance.tco.what_if import WrongWhatIf

    if by not in set(TcoRows):
        raise typer.BadParameter(f"use one of {', '.join(TcoRows)}", param_hint="--by")
    if period is None and since is None:
        since = DEFAULT_SINCE
    question = TcoPeriod(period=period, since=since, until=until, by=TcoRows(by), what_if=what_if)
    read = report_file(config, DEPLOYMENTS)
    covered = asked(period, since, until, read.zone)
    sources, problems = read.tco_sources()
    if problems:
        exit_with(problems)
    with exit_on_ledger_error("tco", WrongTime, WrongWhatIf):
        found = answer(sources, question, dt.datetime.now(dt.UTC))
    if chart is not None:
        _draw(found, chart)
    if form is OutputFormat.JSON:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        typer.echo(f"{covered} ({read.zone.key}), in USD")
        print_comparison(found)


def print_comparison(found: "Comparison") -> None:
    """Tables for a terminal."""
    _print_report(found.actual)
    if found.what_if is not None:
        given = ", ".join(f"{name}={value}" for name, value in found.what_if.given.items())
        typer.echo(f"\nWhat if {given}: {found.what_if.difference_usd:+,.2f} USD in all.")
        _print_report(found.what_if.report)


def _print_report(report: "TcoReport") -> None:
    _print_costs(report)
    for pool in report.pools:
        _print_pool(pool)
    _print_speeds(report)
    for pool in report.pools:
        for one in pool.break_even:
            _print_break_even(pool.deployment, one)
    for line in report.missing:
        typer.echo(f"Missing: {line}.")
    _print_uncertainty(report)


def _print_costs(report: "TcoReport") -> None:
    sides = sorted(report.totals.on)
    heads = ("requests", "hosted", "GPU work", "GPU idle", "fully loaded")
    columns = [words(report.by), *map(number, heads), number("marginal", spare=2)]
    columns += [number(f"all on {name}", spare=1) for name in sides]
    rows = [_cost_row(row.name, row.cost, sides) for row in report.rows]
    print_table(columns, rows, total=_cost_row("total", report.totals, sides))
    if report.corrections_usd:
        typer.echo(f"Beside it corrections of earlier periods, hosted: {report.corrections_usd:+,.2f} USD.")


def _cost_row(name: str, cost: "Cost", sides: list[str]) -> tuple[str, ...]:
    amounts = (
        cost.hosted_usd,
        cost.pool_workload_usd,
        cost.pool_idle_usd,
        cost.fully_loaded_usd,
        cost.marginal_usd,
        *(cost.on[side] for side in sides),
    )
    return (name, f"{cost.requests:,}", *(f"{usd:,.2f}" for usd in amounts))


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


def _print_speeds(report: "TcoReport") -> None:
    heads = ("USD/M tokens", "in", "out")
    columns = [words("deployment"), *map(number, heads), number("first token ms"), number("p95", spare=2)]
    columns += [number("tokens/s"), number("bytes/token", spare=1)]
    sides: list[PoolSide | HostedSide] = [*report.pools, *report.hosted]
    rows = []
    for side in sides:
        speed, tokenizer = side.latency, side.tokenizer
        prices = (
            side.usd_per_million_tokens,
            side.usd_per_million_input_tokens,
            side.usd_per_million_output_tokens,
        )
        measured = (
            None if speed is None else speed.ttft_ms_median,
            None if speed is None else speed.ttft_ms_p95,
            None if speed is None else speed.tokens_per_second_median,
        )
        rows.append(
            (
                side.deployment,
                *(_given(usd, ",.2f") for usd in prices),
                *(_given(value, ",.0f") for value in measured),
                _given(None if tokenizer is None else tokenizer.bytes_per_token, ".1f"),
            )
        )
    print_table(columns, rows)


def _given(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _print_break_even(pool: str, found: "BreakEven") -> None:
    """Where the pool's tokens cost what the hosted ones do. --chart and --format json have the curve."""
    if found.utilisation is None:
        typer.echo(f"{pool} against {found.against}: no break-even, one more token costs more here.")
        return
    beyond = " (not with these replicas)" if found.utilisation > 1 else ""
    typer.echo(
        f"{pool} against {found.against}: break-even at {found.utilisation:.1%}{beyond}, "
        f"about {_three_digits(found.tokens_per_month or 0):,} tokens a month; hosted they cost "
        f"{found.hosted_usd_per_million_tokens:,.2f} USD a million."
    )


def _three_digits(count: int) -> int:
    """A count that follows from estimates, with as many digits as those can bear."""
    return int(float(f"{count:.3g}"))


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
