"""`tollway requests`: what became of one request.

Imports stand inside the command: it loads only what it needs.
"""
# ruff: noqa: PLC0415

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    TextFormat,
    TextFormatOption,
    exit_on_ledger_error,
    report_file,
)

if TYPE_CHECKING:
    from gateway.ledger.requests import FoundRequest

requests_app = typer.Typer(help="What became of one request.", no_args_is_help=True)

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The x-request-id of its answer, or the id of an attempt.")
]


@requests_app.command()
def show(
    request_id: IdArgument,
    config: ConfigOption = DEFAULT_FILE,
    output: TextFormatOption = TextFormat.TEXT,
) -> None:
    """Where a request went and why, what it used and cost, or why it was refused.

    Exit 1 for an id of which nothing is known.
    """
    from gateway.commands.tables import printable
    from gateway.config.report_file import LEDGER
    from gateway.ledger.requests import find_request, nothing_known

    found_file = report_file(config, LEDGER | {"server"})
    settings = found_file.settings.server
    with exit_on_ledger_error("requests show"):
        found = find_request(found_file.ledger_url, settings.journal_dir, request_id)
    if found is None:
        why = nothing_known(request_id, settings.refusals_kept_days)
        typer.echo(f"tollway requests show: {why}", err=True)
        raise typer.Exit(1)
    if output is TextFormat.JSON:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    for line in _lines(found):
        if line.strip():
            typer.echo(printable(line))


def _lines(found: "FoundRequest") -> Iterator[str]:
    """The request, each attempt, and the refusal."""
    yield f"request {found.request_id}: {_words(found.state)}, {found.cost_usd:.9f} USD"
    refusal = found.refusal
    told = refusal if not found.attempts else found.attempts[0]
    if told is not None:
        yield _named(told, ("key", "feature", "team", "org"))
        yield _named(told, ("endpoint", "model"))
    if found.attempts:
        yield from _shared(found.attempts[0])
    for attempt in found.attempts:
        yield from _attempt(attempt)
    if refusal is not None:
        yield f"refused by {refusal['refused_by']}: {refusal['status']} {refusal['code']} at {refusal['at']}"
        yield _named(refusal, ("param", "scope", "limit_name"), "  ")
        if refusal["message"]:
            yield f"  {refusal['message']}"


def _shared(attempt: Mapping[str, Any]) -> Iterator[str]:
    """What all attempts of a request have in common."""
    finds = attempt["facts"].get("finds")
    yield f"class {attempt['privacy']}{f', raised by {finds}' if finds else ''}"
    if attempt["tags"]:
        yield f"tags {', '.join(f'{name}={value}' for name, value in attempt['tags'].items())}"
    yield f"policy {attempt['policy_version']}"


def _attempt(attempt: Mapping[str, Any]) -> Iterator[str]:
    """Where it went and why, what came of it, what it used and cost, and what was said of it later."""
    number = attempt["attempt_id"].rpartition(":")[2]
    yield (
        f"attempt {number} at {attempt['at']}: to {attempt['deployment']} ({attempt['zone']}), "
        f"replica {attempt['replica']}, by {attempt['decision']}"
    )
    if attempt["state"] == "under_way":
        yield f"  under way, {attempt['held_usd']:.9f} USD held"
    else:
        yield from _end(attempt)
    for one in attempt["corrections"]:
        yield f"  {one['kind']} at {one['at']}: {one['cost_usd']:.9f} USD, prices {one['price_version']}"


def _end(attempt: Mapping[str, Any]) -> Iterator[str]:
    first = attempt["ttft_ms"]
    began = "" if first is None else f"first token after {first:,.1f} ms, "
    took = f"{began}{attempt['duration_ms']:,.1f} ms"
    yield f"  {_words(attempt['outcome'])}, status {attempt['status']}, {took}"
    estimated = " (estimated)" if attempt["estimated"] else ""
    yield (
        f"  {attempt['input_tokens']:,} tokens read, {attempt['cached_input_tokens']:,} of them cached, "
        f"{attempt['output_tokens']:,} written{estimated}"
    )
    yield (
        f"  {attempt['cost_usd']:.9f} USD of {attempt['held_usd']:.9f} held, "
        f"{attempt['unseen_usd']:.9f} perhaps unseen, prices {attempt['price_version']}"
    )


def _named(values: Mapping[str, Any], names: Sequence[str], indent: str = "") -> str:
    return indent + ", ".join(f"{_words(name)} {values[name]}" for name in names if values[name])


def _words(name: str) -> str:
    return name.replace("_", " ")
