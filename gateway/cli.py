"""The `tollway` command. Imports stand inside the commands: each loads only what it needs."""
# ruff: noqa: PLC0415

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway import __version__
from gateway.commands.audit import audit_app
from gateway.commands.budgets import budgets
from gateway.commands.export import export_app
from gateway.commands.ledger import ledger_app
from gateway.commands.options import DEFAULT_FILE, ConfigOption
from gateway.commands.policy import policy_app
from gateway.commands.prices import prices_app
from gateway.commands.replicas import replicas_app
from gateway.commands.requests import requests_app
from gateway.commands.tco import tco
from gateway.commands.usage import usage
from gateway.garbage import collect_seldom, start_without_collecting

if TYPE_CHECKING:
    from gateway.config.build import Built
    from gateway.config.load import Loaded
    from gateway.config.problems import Problem
    from gateway.metrics.access_log import RequestLines
    from gateway.policy.rollout.config_file import ConfigFile

app = typer.Typer(
    name="tollway",
    help="An LLM gateway that routes by privacy, modality and cost, and meters every token to a feature.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(budgets)
app.command()(usage)
app.command()(tco)
app.add_typer(audit_app, name="audit")
app.add_typer(export_app, name="export")
app.add_typer(ledger_app, name="ledger")
app.add_typer(policy_app, name="policy")
app.add_typer(prices_app, name="prices")
app.add_typer(replicas_app, name="replicas")
app.add_typer(requests_app, name="requests")

FileArgument = Annotated[Path, typer.Argument(help="The configuration file.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Data port; 0 takes a free one.")]
AdminPortOption = Annotated[int, typer.Option(min=0, max=65535, help="Admin port; 0 takes a free one.")]
WorkersOption = Annotated[
    int, typer.Option(min=1, max=256, help="Processes that share the data port; more than one needs Redis.")
]
FolderOption = Annotated[
    Path | None, typer.Option(help="Where the ledger stays afterwards; left out: tollway-demo.")
]
WithoutSecretsOption = Annotated[
    bool,
    typer.Option(
        "--without-secrets",
        help="Take it that variables of secrets and addresses are set where it will serve: for CI.",
    ),
]
SecondsOption = Annotated[float | None, typer.Option(min=0, help="Stop by itself after this long.")]


def main() -> None:
    """Entry point of the command."""
    if sys.argv[1:2] == ["simulate"]:
        from gateway.simulators.command import simulate_app

        app.add_typer(simulate_app, name="simulate")
    else:
        # Named in the help without loading the tokenizer that the simulators count with.
        app.command("simulate", help="One simulator, openai or vllm, for tests and benchmarks.")(_simulate)
    app()


def _simulate() -> None:
    """Stands in the list of commands; `main` puts the real one in its place."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """An LLM gateway that routes by privacy, modality and cost, and meters every token to a feature."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def check(file: FileArgument = DEFAULT_FILE, without_secrets: WithoutSecretsOption = False) -> None:
    """Validate a configuration and run its policy tests. Exit 1 with every error."""
    from gateway.commands.policy import outcomes_of

    loaded, built, problems = _load_and_build(file, without_secrets=without_secrets)
    _print(problems)
    if built is None:
        errors = sum(problem.severity == "error" for problem in problems)
        typer.echo(f"{file}: {_counted(errors, 'error')}.", err=True)
        raise typer.Exit(1)
    outcomes = outcomes_of(loaded, built, None)
    for outcome in outcomes:
        for failure in outcome.failures:
            typer.echo(f"{outcome.located.file}:{outcome.located.line}: {failure}", err=True)
    if any(outcome.failures for outcome in outcomes):
        typer.echo(f"{file}: 'tollway policy test {file}' says why.", err=True)
        raise typer.Exit(1)
    if loaded.stood_in:
        typer.echo(f"{file}: to be set where it serves: {', '.join(sorted(loaded.stood_in))}.", err=True)
    passed = _counted(len(outcomes), "policy test")
    typer.echo(f"{file}: valid (version {built.version}), {passed} passed.")


@app.command()
def serve(config: ConfigOption = DEFAULT_FILE, workers: WorkersOption = 1) -> None:
    """Run the gateway until SIGTERM or SIGINT; open streams may finish first. SIGHUP reloads the file."""
    start_without_collecting()
    from gateway.http.server.listening import PortTaken
    from gateway.ledger.errors import LedgerUnavailable
    from gateway.metrics.logs import configure_logs
    from gateway.policy.rollout.config_file import ConfigFile
    from gateway.workers.pool import WorkersFailed

    file = ConfigFile(config, os.environ)
    found = file.read()
    _print(found.problems)
    if found.built is None:
        typer.echo(f"{config}: cannot be served as it is.", err=True)
        raise typer.Exit(1)
    if workers > 1 and found.built.settings.state.get_secret_value() == "memory":
        where = f"{config}:{found.loaded.line_of(('state',))}"
        typer.echo(
            f"tollway serve: {workers} workers need a state that they share: set `state: redis://...` "
            f"({where}) to a Redis or Valkey server, or leave --workers out.",
            err=True,
        )
        raise typer.Exit(1)
    lines = configure_logs(found.built.settings.server.log_level)
    try:
        if workers == 1:
            run_on_uvloop(_serve(found.built, file, lines))
        else:
            run_on_uvloop(_supervise(found.loaded, found.built, workers))
    except (PortTaken, LedgerUnavailable, WorkersFailed) as exc:
        typer.echo(f"tollway serve: {exc}", err=True)
        raise typer.Exit(getattr(exc, "exit_code", 1)) from exc


@app.command()
def demo(
    port: PortOption = 8080,
    admin_port: AdminPortOption = 8081,
    seconds: SecondsOption = None,
    folder: FolderOption = None,
) -> None:
    """Simulators of GPT-4o and two Llama 4 replicas, a gateway and sample traffic: no key, no GPU."""
    from gateway.demo.run import DemoFailed, run_demo
    from gateway.http.server.listening import PortTaken

    try:
        run_on_uvloop(run_demo(port=port, admin_port=admin_port, seconds=seconds, folder=folder))
    except (PortTaken, DemoFailed) as exc:
        typer.echo(f"tollway demo: {exc}", err=True)
        raise typer.Exit(1) from exc


def run_on_uvloop(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to the end on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _serve(built: "Built", file: "ConfigFile", lines: "RequestLines") -> None:
    from gateway.app import Gateway

    stop = stop_signal()
    gateway = Gateway(built, file, request_lines=lines)
    collect_seldom()
    if not await gateway.start_unless(stop):
        return
    if gateway.reloader is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reloader.reload_soon)
    typer.echo(f"tollway {__version__} serves {gateway.data_url}/v1 (admin {gateway.admin_url})", err=True)
    try:
        await stop.wait()
    finally:
        await gateway.stop()


async def _supervise(loaded: "Loaded", built: "Built", workers: int) -> None:
    from gateway.workers.supervisor import Supervisor

    stop = stop_signal()
    supervisor = Supervisor(loaded, built.settings, workers)
    collect_seldom()

    def announce() -> None:
        urls = f"{supervisor.data_url}/v1 (admin {supervisor.admin_url})"
        typer.echo(f"tollway {__version__} serves {urls} with {workers} workers", err=True)

    await supervisor.run(stop, announce)


def _load_and_build(file: Path, *, without_secrets: bool) -> "tuple[Loaded, Built | None, list[Problem]]":
    from gateway.config.build import build
    from gateway.config.load import load
    from gateway.config.stand_ins import stand_in
    from gateway.finance.price_catalogue import PriceCatalogue

    loaded = load(file, os.environ, stand_in=stand_in if without_secrets else None)
    built, errors = build(loaded, PriceCatalogue())
    return loaded, built, [*errors, *loaded.warnings]


def _print(problems: "list[Problem]") -> None:
    for problem in problems:
        typer.echo(str(problem), err=True)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()
