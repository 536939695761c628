"""Floor 4: the `tollway` command. Imports stand inside the commands, so that each loads only what it needs."""
# ruff: noqa: PLC0415

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway import __version__

if TYPE_CHECKING:
    from gateway.adapters.ledger import UsageRow
    from gateway.settings.build import Built
    from gateway.settings.problems import Problem

app = typer.Typer(
    name="tollway",
    help="An LLM gateway that routes by privacy, modality and cost, and meters every token to a feature.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]


def main() -> None:
    """Entry point of the command. Unknown mistakes of ours show a trace, known ones a line."""
    if len(sys.argv) > 1 and sys.argv[1] == "simulate":
        from gateway.simulators.command import simulate_app

        app.add_typer(simulate_app, name="simulate")
    else:
        # Named in the help without loading the tokenizer that the simulators count with.
        app.command("simulate", help="One simulator, openai or vllm, for tests and benchmarks.")(_placeholder)
    app()


def _placeholder() -> None:
    raise typer.Exit(2)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The configuration file.")] = Path("tollway.yaml"),
) -> None:
    """Validate a configuration and run its policy tests. Exit 1 with every error."""
    built, problems = _build(file)
    errors = [problem for problem in problems if problem.severity == "error"]
    for problem in problems:
        typer.echo(str(problem), err=problem.severity == "error")
    if built is None:
        typer.echo(f"{file}: {len(errors)} error{'s' if len(errors) != 1 else ''}.", err=True)
        raise typer.Exit(1)
    from gateway.settings.policy_tests import run_policy_tests

    failures = run_policy_tests(built)
    for failure in failures:
        typer.echo(str(failure), err=True)
    if failures:
        raise typer.Exit(1)
    tests = len(built.settings.policy_tests)
    typer.echo(
        f"{file}: valid (version {built.version}); {tests} policy test{'s' if tests != 1 else ''} passed."
    )


@app.command()
def serve(config: ConfigOption = Path("tollway.yaml")) -> None:
    """Run the gateway until SIGTERM or SIGINT; open streams may finish first."""
    built, problems = _build(config)
    for problem in problems:
        typer.echo(str(problem), err=True)
    if built is None or any(problem.blocks_serving for problem in problems):
        typer.echo(
            f"{config}: cannot serve this configuration. `tollway check` lists what is wrong.", err=True
        )
        raise typer.Exit(1)
    from gateway.adapters.ledger import LedgerUnavailable
    from gateway.adapters.logs import configure_logs
    from gateway.web.listening import PortTaken

    configure_logs(built.settings.server.log_level)
    try:
        run_on_uvloop(_serve(built))
    except (PortTaken, LedgerUnavailable) as exc:
        typer.echo(f"tollway serve: {exc}", err=True)
        raise typer.Exit(1) from exc


@app.command()
def usage(
    config: ConfigOption = Path("tollway.yaml"),
    by: Annotated[
        str, typer.Option(help="team, feature, key, model, deployment, zone, privacy, day ...")
    ] = "feature",
    since: Annotated[
        datetime | None, typer.Option(help="From this day or moment, in the org's time zone.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="To before this day or moment.")] = None,
    form: Annotated[str, typer.Option("--format", help="table or json")] = "table",
) -> None:
    """Usage and cost from the ledger, by any dimension."""
    from gateway.adapters.ledger import Dimension, LedgerUnavailable, usage_by

    built, problems = _build(config)
    if built is None:
        _fail(problems)
    if by not in set(Dimension):
        raise typer.BadParameter(f"use one of {', '.join(Dimension)}", param_hint="--by")
    try:
        rows = usage_by(
            built.settings.ledger.get_secret_value(),
            Dimension(by),
            since,
            until,
            timezone=built.settings.org.timezone,
        )
    except LedgerUnavailable as exc:
        typer.echo(f"tollway usage: {exc}", err=True)
        raise typer.Exit(1) from exc
    if form == "json":
        typer.echo(json.dumps([usage_json(row) for row in rows], indent=2))
    else:
        print_usage(rows, by)


@app.command()
def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Data port; 0 takes a free one.")] = 8080,
    admin_port: Annotated[int, typer.Option(min=0, max=65535, help="Admin port; 0 takes a free one.")] = 8081,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop by itself after this long.")] = None,
) -> None:
    """Simulators of GPT-4o and two Llama 4 replicas, a gateway and sample traffic: no key, no GPU."""
    from gateway.demo.run import DemoFailed, run_demo
    from gateway.web.listening import PortTaken

    try:
        run_on_uvloop(run_demo(port=port, admin_port=admin_port, seconds=seconds))
    except (PortTaken, DemoFailed) as exc:
        typer.echo(f"tollway demo: {exc}", err=True)
        raise typer.Exit(1) from exc


def run_on_uvloop(coroutine: "asyncio.coroutines.Coroutine[object, object, None]") -> None:
    """Run to the end on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


async def _serve(built: "Built") -> None:
    from gateway.app import Gateway

    stop = stop_signal()
    gateway = Gateway(built)
    await gateway.start()
    typer.echo(f"tollway {__version__} serves {gateway.data_url}/v1 (admin {gateway.admin_url})", err=True)
    try:
        await stop.wait()
    finally:
        await gateway.stop()


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def usage_json(row: "UsageRow") -> dict[str, object]:
    """A row of `tollway usage --format json`; amounts are decimal numbers of USD as text-exact floats."""
    return {
        str(row.dimension): row.name,
        "requests": row.requests,
        "attempts": row.attempts,
        "input_tokens": row.input_tokens,
        "cached_input_tokens": row.cached_input_tokens,
        "output_tokens": row.output_tokens,
        "cost_usd": float(row.cost_usd),
        "counterfactual_usd": {name: float(usd) for name, usd in row.counterfactual_usd.items()},
    }


def print_usage(rows: "Sequence[UsageRow]", by: str) -> None:
    """`rows` as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    others = sorted({name for row in rows for name in row.counterfactual_usd})
    table = Table(
        by, "requests", "input tokens", "output tokens", "cost USD", *(f"on {name}" for name in others)
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        elsewhere = (
            f"{row.counterfactual_usd[name]:.6f}" if name in row.counterfactual_usd else "-"
            for name in others
        )
        table.add_row(
            row.name,
            f"{row.requests:,}",
            f"{row.input_tokens:,}",
            f"{row.output_tokens:,}",
            f"{row.cost_usd:.6f}",
            *elsewhere,
        )
    Console().print(table)


def _build(file: Path) -> "tuple[Built | None, list[Problem]]":
    from gateway.adapters.price_catalogue import PriceCatalogue
    from gateway.settings.build import build
    from gateway.settings.load import load

    loaded = load(file, os.environ)
    built, errors = build(loaded, PriceCatalogue())
    return built, [*errors, *loaded.warnings]


def _fail(problems: "list[Problem]") -> None:
    for problem in problems:
        typer.echo(str(problem), err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
