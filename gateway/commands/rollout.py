"""`tollway policy history` and `rollback`: which versions served when, and back to one of them."""
# ruff: noqa: PLC0415

import datetime as dt
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from gateway.commands.audit import enter
from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    FormatOption,
    OutputFormat,
    exit_on_ledger_error,
)

if TYPE_CHECKING:
    from gateway.config.source import StandIn
    from gateway.ledger.policies import PolicyHistory


LedgerOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The ledger's database; left out: the one that the file names."),
]
VersionOption = Annotated[
    str | None, typer.Option("--show", metavar="VERSION", help="Print the text of this version instead.")
]
VersionArgument = Annotated[str, typer.Argument(help="The version, or its first characters.")]
ReloadOption = Annotated[
    bool, typer.Option("--reload", help="Ask the running gateway to take it over, through its admin port.")
]


def history(
    config: ConfigOption = DEFAULT_FILE,
    show: VersionOption = None,
    ledger: LedgerOption = None,
    form: FormatOption = OutputFormat.TABLE,
) -> None:
    """Every version that came into force: when, how, and with --show its whole text."""
    url, zone = _ledger(config, ledger)
    with exit_on_ledger_error("policy history"):
        from gateway.ledger.policies import read_policies

        found = read_policies(url)
    if show is not None:
        typer.echo(found.texts[_version(show, found)].text, nl=False)
    elif form is OutputFormat.JSON:
        typer.echo(json.dumps(_history_json(found), indent=2))
    else:
        _print_history(found, zone)


def rollback(
    version: VersionArgument,
    config: ConfigOption = DEFAULT_FILE,
    ledger: LedgerOption = None,
    reload: ReloadOption = False,
) -> None:
    """Write the text of an earlier version into the file. The present one is kept in the history."""
    from gateway.policy.rollout.rollback import RollbackRefused, roll_back

    url, _ = _ledger(config, ledger)
    with exit_on_ledger_error("policy rollback", RollbackRefused):
        from gateway.ledger.policies import read_policies

        old = _version(version, read_policies(url))
        done = roll_back(config, old, url, os.environ, stand_in=_stand_in(reload=reload))
        built = done.built
        enter(built.settings, "policy rollback", version=old)
    typer.echo(f"{config}: is version {old} again.")
    if done.to_set:
        typer.echo(f"The gateway needs variables that are not set here: {', '.join(done.to_set)}.", err=True)
    if reload:
        from gateway.policy.rollout.reload_request import ReloadFailed, request_reload

        with exit_on_ledger_error("policy rollback", ReloadFailed):
            typer.echo(request_reload(built.settings))
    elif built.settings.server.watch:
        typer.echo("A running gateway takes it over within seconds.")
    else:
        typer.echo("Take it over with SIGHUP, POST /admin/v1/reload, or --reload here.")


def _ledger(config: Path, given: str | None) -> tuple[str, ZoneInfo]:
    """The ledger's URL and the org's time zone; of a file with errors as far as it can be read."""
    from gateway.config.report_file import LEDGER, ReportFile, read_report_file

    found = read_report_file(config, os.environ, LEDGER)
    if isinstance(found, ReportFile):
        return given or found.ledger_url, found.zone
    if given is None:
        for problem in found:
            typer.echo(str(problem), err=True)
        typer.echo(f"{config}: has errors, so name the ledger: --ledger sqlite:///path", err=True)
        raise typer.Exit(1)
    return given, ZoneInfo("UTC")


def _stand_in(*, reload: bool) -> "StandIn":
    """For secrets that a rollback does not use: it signs an audit entry, and may ask for a reload."""
    from gateway.config.stand_ins import stand_in_but_for

    used = (("audit", "signing_key"), ("server", "admin", "token"))
    return stand_in_but_for(("ledger",), *(used if reload else used[:1]))


def _version(start: str, found: "PolicyHistory") -> str:
    """The one kept version that begins so. Exits with 1 when there is none, or more."""
    fitting = sorted(version for version in found.texts if version.startswith(start.lower()))
    if len(fitting) == 1:
        return fitting[0]
    why = f"may be {', '.join(fitting)}" if fitting else "is not kept; see tollway policy history"
    typer.echo(f"tollway policy: version {start} {why}", err=True)
    raise typer.Exit(1)


def _history_json(found: "PolicyHistory") -> list[dict[str, object]]:
    return [
        {
            "version": change.version,
            "in_force_from": _moment(change.at, dt.UTC),
            "how": change.how,
            "can_be_rolled_back_to": change.version in found.texts and found.texts[change.version].whole,
        }
        for change in found.changes
    ]


def _print_history(found: "PolicyHistory", zone: dt.tzinfo) -> None:
    from gateway.commands.tables import number, print_table, words

    rows = []
    for index, change in enumerate(found.changes):
        text = found.texts.get(change.version)
        notes = ["in force"] if index == len(found.changes) - 1 else []
        if text is None or not text.whole:
            notes.append("text without its secrets" if text else "text not kept")
        rows.append((change.version, _moment(change.at, zone), change.how, ", ".join(notes)))
    served = {change.version for change in found.changes}
    rows += [
        (text.version, "-", "-", f"never; kept {_moment(text.kept_at, zone)}")
        for text in sorted(found.texts.values(), key=lambda one: one.kept_at)
        if text.version not in served
    ]
    print_table([number("version"), number("in force from"), words("by"), words("")], rows)


def _moment(microseconds: int, zone: dt.tzinfo) -> str:
    return dt.datetime.fromtimestamp(microseconds / 1_000_000, zone).isoformat(timespec="seconds")
