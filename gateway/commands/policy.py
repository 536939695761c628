"""`tollway policy`: explain, test and prove; `rollout` has what comes after."""
# ruff: noqa: PLC0415  # each command loads only what it needs

import asyncio
import datetime as dt
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from gateway.commands import rollout
from gateway.commands.diff import diff
from gateway.commands.options import DEFAULT_FILE, TextFormat, TextFormatOption, loaded_and_built
from gateway.private_files import write_private

if TYPE_CHECKING:
    from gateway.config.build import Built
    from gateway.config.load import Loaded
    from gateway.policy.policy_tests import PolicyTestOutcome

policy_app = typer.Typer(help="Try, test and prove routing rules before they serve.", no_args_is_help=True)
policy_app.command()(rollout.history)
policy_app.command()(rollout.rollback)
policy_app.command()(diff)


FileArgument = Annotated[Path, typer.Argument(help="The configuration file.")]


@policy_app.command()
def explain(
    file: FileArgument = DEFAULT_FILE,
    key: Annotated[str | None, typer.Option(help="The key that asks, by its name.")] = None,
    feature: Annotated[str | None, typer.Option(help="The feature that is charged.")] = None,
    request: Annotated[
        str | None, typer.Option(help="JSON file with the request's body; - for input.")
    ] = None,
    curl: Annotated[str | None, typer.Option(help="The curl command that would send it.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="'name: value', as often as needed.")] = None,
    model: Annotated[str | None, typer.Option(help="Instead of a body: the model.")] = None,
    text: Annotated[str, typer.Option(help="The prompt.")] = "sample",
    modality: Annotated[list[str] | None, typer.Option(help="image, audio, video or file.")] = None,
    need: Annotated[
        list[str] | None,
        typer.Option(
            help="tools, json_schema, logprobs, n, reasoning, functions, custom_tools, web_search or "
            "audio_output."
        ),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="It streams.")] = False,
    max_output_tokens: Annotated[int | None, typer.Option(min=1, help="Cap on the output.")] = None,
    at: Annotated[
        dt.datetime | None, typer.Option(help="When, in the org's time zone; left out: now.")
    ] = None,
    budget_used: Annotated[float, typer.Option(min=0, help="Used share of the fullest budget.")] = 0.0,
    outstanding: Annotated[list[str] | None, typer.Option(help="NAME=N requests under way there.")] = None,
    down: Annotated[list[str] | None, typer.Option(help="A deployment without available replicas.")] = None,
    form: TextFormatOption = TextFormat.TEXT,
) -> None:
    """How one request is decided: what raised its class, each deployment with the reason and its line."""
    from gateway.commands import explain_input, output
    from gateway.policy import samples

    _, built = loaded_and_built(file)
    if request is not None:
        sent = explain_input.read_request(request)
    elif curl is not None:
        sent = explain_input.read_curl(curl)
    elif model is not None:
        members: dict[str, Any] = explain_input.members_for(_among(need, explain_input.NEEDS, "--need"))
        members |= {"stream": True} if stream else {}
        members |= {"max_completion_tokens": max_output_tokens} if max_output_tokens else {}
        modalities = _among(modality, explain_input.MODALITIES, "--modality")
        sent = explain_input.ExplainInput(explain_input.body_of(model, text, modalities, members))
    else:
        raise typer.BadParameter("give the request: --request FILE, --curl LINE or --model NAME")
    for line in header or ():
        sent.headers |= explain_input.header(line)
    question = explain_input.question(sent, built.tenancy, key, feature, built.settings.server.max_messages)
    given = samples.Circumstances(
        now=None if at is None else at.replace(tzinfo=built.tenancy.time_zone).timestamp(),
        budget_used=budget_used,
        outstanding=_counts(outstanding, built),
        down=tuple(_among(down, built.policy.deployments, "--down")),
    )
    found = asyncio.run(samples.explain(built, question, given))
    if form is TextFormat.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        typer.echo("\n".join(output.in_words(found)))


@policy_app.command()
def test(
    file: FileArgument = DEFAULT_FILE,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Further test files; left out: *.policy-test.yaml beside the configuration."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here as well.")] = None,
    form: TextFormatOption = TextFormat.TEXT,
) -> None:
    """Run the file's policy_tests and those of separate files. Exit 1 when one fails."""
    from gateway.commands import output

    loaded, built = loaded_and_built(file)
    outcomes = outcomes_of(loaded, built, files)
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    if junit is not None:
        write_private(junit, output.junit(outcomes))
    if form is TextFormat.JSON:
        typer.echo(
            msgspec.json.format(msgspec.json.encode([_test_result(item) for item in outcomes])).decode()
        )
    else:
        for outcome in outcomes:
            typer.echo("\n".join(output.of_outcome(outcome)))
        typer.echo(f"{len(outcomes) - failed} of {len(outcomes)} policy tests passed.")
    raise typer.Exit(1 if failed else 0)


@policy_app.command()
def prove(
    file: FileArgument = DEFAULT_FILE,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for findings as well.")] = False,
    form: TextFormatOption = TextFormat.TEXT,
) -> None:
    """Show that no request of a class can reach a zone it must not. Exit 1 with a request that can."""
    from gateway.commands import output
    from gateway.policy.proof.prove import prove

    _, built = loaded_and_built(file)
    proof = prove(built, progress=_show_progress)
    if form is TextFormat.JSON:
        typer.echo(msgspec.json.format(msgspec.json.encode(proof)).decode())
    else:
        typer.echo("\n".join(output.of_proof(proof, str(file))))
    raise typer.Exit(0 if proof.proven and not (strict and proof.findings) else 1)


def _show_progress(done: int, models: int) -> None:
    """Rewrites one line on a terminal, and says nothing elsewhere."""
    if sys.stderr.isatty():
        end = "\n" if done == models else ""
        typer.echo(f"\r{done} of {models} models looked at{end}", err=True, nl=False)


def outcomes_of(loaded: "Loaded", built: "Built", files: Sequence[Path] | None) -> "list[PolicyTestOutcome]":
    """The outcomes of the file's own tests and of `files` (None: those beside it).

    Prints what is wrong with a file and exits.
    """
    from gateway.config.policy_test_files import files_beside
    from gateway.policy.policy_tests import find_tests, run_tests

    chosen = files or files_beside(Path(loaded.file))
    tests, problems = find_tests(loaded, built, chosen, os.environ)
    for problem in problems:
        typer.echo(str(problem), err=True)
    if problems:
        raise typer.Exit(1)
    return run_tests(built, tests)


def _test_result(outcome: "PolicyTestOutcome") -> dict[str, object]:
    located = outcome.located
    return {
        "name": located.test.name,
        "file": located.file,
        "line": located.line,
        "passed": not outcome.failures,
        "failures": [{"expected": item.expected, "found": item.found} for item in outcome.failures],
        "explanation": outcome.failures[0].explanation if outcome.failures else None,
    }


def _among(given: list[str] | None, known: Any, option: str) -> list[str]:
    for name in given or ():
        if name not in known:
            raise typer.BadParameter(f"use one of {', '.join(known)}", param_hint=option)
    return given or []


def _counts(given: list[str] | None, built: "Built") -> dict[str, int]:
    found = {}
    for item in given or ():
        name, _, count = item.rpartition("=")
        if name not in built.policy.deployments or not count.isdecimal():
            known = ", ".join(built.policy.deployments)
            raise typer.BadParameter(f"write NAME=N, NAME being one of {known}", param_hint="--outstanding")
        found[name] = int(count)
    return found
