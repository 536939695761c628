"""`tollway audit`: was the log tampered with, and where did requests of a class go?

Imports stand inside the commands: each loads only what it needs.
"""
# ruff: noqa: PLC0415

import datetime as dt
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
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
from gateway.core.record import Outcome

if TYPE_CHECKING:
    from gateway.config.schema import Settings
    from gateway.core.audit import Entry, Receipt
    from gateway.ledger.audit.keys import Signer
    from gateway.ledger.audit.verify import Verified

audit_app = typer.Typer(
    help="Verify the audit log, and say where requests of a privacy class went.", no_args_is_help=True
)

PublicKeyOption = Annotated[
    list[str] | None, typer.Option("--public-key", help="Accept only signatures of this key; repeatable.")
]
ClassOption = Annotated[str, typer.Option("--class", metavar="CLASS", help="A privacy class.")]


@audit_app.command()
def verify(
    config: ConfigOption = DEFAULT_FILE,
    public_key: PublicKeyOption = None,
    output: FormatOption = OutputFormat.TABLE,
) -> None:
    """Check every entry, signature and row. Exit 1 with what was changed, removed, moved or cut off."""
    from gateway.config.report_file import AUDIT, LEDGER
    from gateway.ledger.audit.verify import verify as verify_log

    settings = report_file(config, LEDGER if public_key else AUDIT).settings
    trusted = public_key or _trusted(settings)
    with exit_on_ledger_error("audit verify"):
        verified = verify_log(settings.ledger_url, trusted)
    if output is OutputFormat.JSON:
        _print_json(_verified(verified, pinned=bool(trusted)))
    else:
        _print_verified(verified, pinned=bool(trusted))
    raise typer.Exit(0 if verified.ok else 1)


@audit_app.command()
def residency(
    privacy: ClassOption,
    config: ConfigOption = DEFAULT_FILE,
    period: PeriodOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    public_key: PublicKeyOption = None,
    output: FormatOption = OutputFormat.TABLE,
) -> None:
    """Where requests of a class went, by the address of each attempt, and whether any of them left.

    Left: to a zone that the most sensitive class may not reach. Exit 1 when the log was tampered with.
    """
    from gateway.config.report_file import AUDIT, LEDGER
    from gateway.ledger.audit.verify import verify as verify_log

    found = report_file(config, (LEDGER if public_key else AUDIT) | {"privacy", "zones"})
    settings, policy = found.settings, found.settings.privacy
    if privacy not in policy.classes:
        raise typer.BadParameter(f"is none of {', '.join(policy.classes)}", param_hint="--class")
    home = frozenset(policy.zones.get(policy.classes[-1], ()))
    covered = asked(period, since, until, found.zone)
    places = _Places(privacy, home, *covered.microseconds)
    with exit_on_ledger_error("audit residency"):
        verified = verify_log(settings.ledger_url, public_key or _trusted(settings), places.add)
    answer = places.answer(verified)
    if output is OutputFormat.JSON:
        _print_json(answer)
    else:
        typer.echo(f"{covered} ({found.zone.key})")
        _print_residency(answer)
    raise typer.Exit(0 if verified.ok else 1)


@audit_app.command()
def acts(
    config: ConfigOption = DEFAULT_FILE,
    period: PeriodOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    public_key: PublicKeyOption = None,
    output: FormatOption = OutputFormat.TABLE,
) -> None:
    """What operators did, when gateways started, and which requests privacy refused."""
    from gateway.config.report_file import AUDIT, LEDGER
    from gateway.ledger.audit.verify import verify as verify_log

    found = report_file(config, LEDGER if public_key else AUDIT)
    entries: list[Entry] = []
    with exit_on_ledger_error("audit acts"):
        verified = verify_log(
            found.settings.ledger_url, public_key or _trusted(found.settings), visit_act=entries.append
        )
    zone = found.zone
    start, end = asked(period, since, until, zone).microseconds
    rows = [
        _act(entry, zone)
        for entry in sorted(entries, key=_moment_of)
        if entry.at >= (start or 0) and (end is None or entry.at < end)
    ]
    if output is OutputFormat.JSON:
        _print_json(rows)
    else:
        for row in rows:
            typer.echo(f"{row['at']}  {row['kind']:<8} {msgspec.json.encode(row['particulars']).decode()}")
    _warn(verified)
    raise typer.Exit(0 if verified.ok else 1)


@audit_app.command()
def keygen() -> None:
    """Print a new signing key and its public key, for `audit.signing_key` and for auditors."""
    from gateway.ledger.audit.keys import new_seed, signer_from

    seed = new_seed()
    typer.echo(
        f"signing key (keep secret):  {seed}\npublic key (for auditors):  {signer_from(seed).public_key}"
    )


def enter(settings: "Settings", act: str, **particulars: Any) -> None:
    """Enter what a command did into the audit log. Raises LedgerUnavailable."""
    from gateway.ledger.audit.acts import enter_act

    enter_act(settings.ledger_url, signer(settings), act, particulars)


def signer(settings: "Settings") -> "Signer":
    """Who signs entries of this configuration. Prints what is wrong with the key and exits."""
    from gateway.ledger.audit.keys import UnusableKey, signer_from, signer_in

    key = settings.audit.signing_key
    try:
        return signer_in(_key_file(settings)) if key is None else signer_from(key.get_secret_value())
    except UnusableKey as exc:
        typer.echo(f"tollway: audit.signing_key {exc}", err=True)
        raise typer.Exit(1) from exc


def _trusted(settings: "Settings") -> list[str]:
    """Public keys that may sign: the configured one, or the one in the key file, and `trusted_keys`."""
    audit = settings.audit
    if audit.signing_key is None and not _key_file(settings).exists():
        return list(audit.trusted_keys)
    return [signer(settings).public_key, *audit.trusted_keys]


def _key_file(settings: "Settings") -> Path:
    from gateway.ledger.url import database_of

    return database_of(settings.ledger_url).paths.key_file(settings.server.journal_dir)


class _Places:
    """Adds up where the attempts of a class went."""

    def __init__(self, privacy: str, home: frozenset[str], since: int | None, until: int | None) -> None:
        self._privacy = privacy
        self._home = home
        self._since = since
        self._until = until
        self._requests: set[str] = set()
        self._unsent = 0
        self._attempts: defaultdict[tuple[str, str, str], int] = defaultdict(int)

    def add(self, receipt: "Receipt") -> None:
        if receipt.privacy != self._privacy:
            return
        if (self._since or 0) > receipt.at or (self._until is not None and receipt.at >= self._until):
            return
        self._requests.add(receipt.request_id)
        if receipt.address or receipt.outcome == Outcome.PRESUMED:
            self._attempts[receipt.zone, receipt.deployment, receipt.address or "unknown"] += 1
        else:
            self._unsent += 1

    def answer(self, verified: "Verified") -> dict[str, Any]:
        places = [
            {
                "zone": zone,
                "deployment": deployment,
                "address": address,
                "attempts": attempts,
                "home": zone in self._home,
            }
            for (zone, deployment, address), attempts in sorted(self._attempts.items())
        ]
        return {
            "class": self._privacy,
            "left": any(not place["home"] for place in places),
            "requests": len(self._requests),
            "attempts": sum(self._attempts.values()),
            "never_sent": self._unsent,
            "home_zones": sorted(self._home),
            "destinations": places,
            "verified": verified.ok,
            "findings": len(verified.findings) + verified.more_findings,
        }


def _print_residency(answer: dict[str, Any]) -> None:
    from gateway.commands.tables import number, print_table, words

    told_answer = "YES, some left" if answer["left"] else "no, none left"
    typer.echo(
        f"Did any {answer['class']} request leave {', '.join(answer['home_zones']) or 'home'}? "
        f"{told_answer}: "
        f"{_count(answer['requests'], 'requests', 'request')}, "
        f"{_count(answer['attempts'], 'attempts', 'attempt')} sent, "
        f"{answer['never_sent']:,} never sent."
    )
    columns = [words("zone"), words("deployment"), words("address"), number("attempts"), words("home")]
    rows = [
        (place["zone"], place["deployment"], place["address"], f"{place['attempts']:,}", _home(place))
        for place in answer["destinations"]
    ]
    print_table(columns, rows, total=("total", "", "", f"{answer['attempts']:,}", ""))
    if not answer["verified"]:
        typer.echo("The audit log does not verify: see `tollway audit verify`.", err=True)


def _home(place: dict[str, Any]) -> str:
    return "yes" if place["home"] else "NO"


def _verified(verified: "Verified", *, pinned: bool) -> dict[str, Any]:
    return {"ok": verified.ok, "pinned": pinned, **msgspec.to_builtins(verified)}


def _print_verified(verified: "Verified", *, pinned: bool) -> None:
    signed = f"{_count(verified.entries, 'entries', 'entry')} in {_count(verified.chains, 'chains', 'chain')}"
    receipts = _count(verified.receipts, "receipts", "receipt")
    rows = f"{_count(verified.rows, 'rows', 'row')} ({verified.rows_before:,} from before the log began)"
    typer.echo(f"{signed}, {receipts} for {rows}.")
    typer.echo(
        f"Signed by {', '.join(verified.keys) or 'nobody'}{'' if pinned else ' (any key was accepted)'}."
    )
    _warn(verified)
    if verified.ok:
        typer.echo("The audit log is whole.")


def _count(count: int, many: str, one: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _warn(verified: "Verified") -> None:
    for finding in verified.findings:
        place = f"chain {finding.chain}, entry {finding.seq}: " if finding.chain else ""
        typer.echo(f"{place}{finding.problem}", err=True)
    if verified.more_findings:
        typer.echo(f"and {verified.more_findings:,} more", err=True)


def _act(entry: "Entry", zone: dt.tzinfo) -> dict[str, Any]:
    at = dt.datetime.fromtimestamp(entry.at / 1_000_000, zone).isoformat(timespec="seconds")
    particulars: Any = msgspec.json.decode(entry.payload)
    if isinstance(particulars, dict):
        particulars.pop("heads", None)  # for verification only
    return {"at": at, "kind": entry.kind, "chain": entry.chain, "seq": entry.seq, "particulars": particulars}


def _moment_of(entry: "Entry") -> tuple[int, str, int]:
    return entry.at, entry.chain, entry.seq


def _print_json(value: Any) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
