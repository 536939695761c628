"""`tollway prices`: enter prices with the day from which they hold, list them, correct what they change."""

import csv
import datetime as dt
import enum
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.audit import enter
from gateway.commands.options import (
    DEFAULT_FILE,
    ConfigOption,
    PeriodOption,
    SinceOption,
    TextFormat,
    TextFormatOption,
    UntilOption,
    asked,
    built,
    exit_on_ledger_error,
    now_microseconds,
    report_file,
)
from gateway.core.calendar import start_of_day
from gateway.core.pricing import usd_text

if TYPE_CHECKING:
    from gateway.config.build import Built
    from gateway.core.pricing import PriceVersion
    from gateway.finance.price_sheet import Line
    from gateway.finance.repricing import Repriced

prices_app = typer.Typer(help="Prices over time: immutable, each from a date on.", no_args_is_help=True)

FIELDS = ("provider", "model", "tier", "from", "version")
# Of a line for a band or for hours; a price without either has none of these columns.
PARTS = ("above", "hours")
# What responses say as their `service_tier`; `standard` is what they call default. There may be others.
TIERS = ("standard", "batch", "flex", "priority", "scale", "ultrafast", "background", "balanced")
# Of a file's secrets and addresses: where prices are entered, and the key that signs what was done.
_LEDGER = ("ledger",)
_WRITING = (_LEDGER, ("audit", "signing_key"))
_SURPLUS = None  # where csv puts what stands beyond the last column


class PriceFormat(enum.StrEnum):
    """How the list is printed; both are stable."""

    CSV = "csv"
    JSON = "json"


Usd = Annotated[str | None, typer.Option(help="USD per million tokens.")]
UnitOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Another unit, as cache_write=3.75; per_request and per_search are for one. Repeatable."
    ),
]
FromOption = Annotated[
    dt.datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day, org's zone.")
]
ListFormat = Annotated[PriceFormat, typer.Option("--format", help="How to print it.")]


@prices_app.command("list")
def list_prices(config: ConfigOption = DEFAULT_FILE, form: ListFormat = PriceFormat.CSV) -> None:
    """All prices ever entered; USD per million tokens. `import` takes the CSV."""
    from gateway.config.report_file import LEDGER  # noqa: PLC0415
    from gateway.ledger.price_versions import read_prices  # noqa: PLC0415

    found = report_file(config, LEDGER)
    with exit_on_ledger_error("prices list"):
        book = read_prices(found.ledger_url)
    rows = [row for one in book for row in _listed(one, found.zone)]
    if form is PriceFormat.JSON:
        typer.echo(json.dumps(rows, indent=2))
        return
    writer = csv.DictWriter(sys.stdout, _columns(rows), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)


def _columns(rows: "Sequence[Mapping[str, str]]") -> "list[str]":
    """Those that every table has, and of all others those that some row has."""
    from gateway.finance.price_sheet import RATES  # noqa: PLC0415

    always = (*FIELDS, *RATES)
    others = {name for row in rows for name in row} - {*always, *PARTS}
    return [*always, *sorted(others), *(name for name in PARTS if any(row.get(name) for row in rows))]


def _listed(one: "PriceVersion", zone: dt.tzinfo) -> "Iterator[dict[str, str]]":
    from gateway.finance.price_sheet import lines_of  # noqa: PLC0415

    moment = dt.datetime.fromtimestamp(one.effective_from / 1_000_000, zone)
    fields = (one.provider, one.model, one.tier, moment.date().isoformat(), one.version)
    for line in lines_of(one.rates):
        parts = {"above": str(line.above) if line.above else "", "hours": line.hours}
        named = {name: text for name, text in parts.items() if text}
        yield {**dict(zip(FIELDS, fields, strict=True)), **line.amounts, **named}


@prices_app.command("set")
def set_price(
    provider: Annotated[str, typer.Argument(help="As the deployment has it: openai, azure, vllm ...")],
    model: Annotated[str, typer.Argument(help="As the deployment has it, not the name that clients send.")],
    since: FromOption,
    input: Annotated[str, typer.Option(help="USD per million tokens.")],  # the option's name
    output: Annotated[str, typer.Option(help="USD per million tokens; 0 for embeddings.")],
    cached_input: Usd = None,
    input_audio: Usd = None,
    output_audio: Usd = None,
    unit: UnitOption = None,
    tier: Annotated[str, typer.Option(help=f"As responses name it: {', '.join(TIERS)} ...")] = "standard",
    version: Annotated[
        str | None, typer.Option(help="Its name on the rows; left out: from the date.")
    ] = None,
    is_new: Annotated[
        bool, typer.Option("--new", help="The provider or model is known to nothing here yet.")
    ] = False,
    config: ConfigOption = DEFAULT_FILE,
) -> None:
    """Enter one price. A price never changes: a new one has a later date, or a version of its own.

    Bands (`above`) and hours are further lines of a CSV file: see `import`.
    """
    fields = {"provider": provider, "model": model, "tier": tier, "from": since.date().isoformat()}
    rates = {"input": input, "output": output, "cached_input": cached_input}
    given: dict[str, str | None] = {**fields, "version": version, **rates}
    given |= {"input_audio": input_audio, "output_audio": output_audio}
    for one in unit or []:
        name, _, usd = one.partition("=")
        if not name or not usd or name in (*given, *PARTS):
            raise typer.BadParameter(
                f"{one!r}: write another unit and its price, as cache_write=3.75", param_hint="--unit"
            )
        given[name] = usd
    found = built(config, *_WRITING)
    if not is_new:
        _refuse_unknown(found, provider, model)
    _enter(found, [("tollway prices set", given)])


@prices_app.command("import")
def import_prices(file: Path, config: ConfigOption = DEFAULT_FILE) -> None:
    """Enter all or none of the prices of a CSV file, as `list` prints it."""
    try:
        with file.open(newline="", encoding="utf-8") as text:
            reader = csv.DictReader(text, restkey=_SURPLUS)
            rows = [(f"{file}:{reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        typer.echo(f"tollway prices import: {file}: {exc}", err=True)
        raise typer.Exit(1) from exc
    _enter(built(config, *_WRITING), rows)


@prices_app.command("reprice")
def reprice_rows(
    period: PeriodOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = DEFAULT_FILE,
    form: TextFormatOption = TextFormat.TEXT,
) -> None:
    """Correct the rows of a period to the prices that held: reversals and new rows, the old ones stay.

    These are the prices entered, and transfer prices with a date in the file. It shows what it would do, and
    asks. Doing it twice changes nothing more.
    """
    from gateway.finance.repricing import Source, reprice  # noqa: PLC0415
    from gateway.ledger.price_versions import read_prices  # noqa: PLC0415

    found = built(config, *([_LEDGER] if dry_run else _WRITING))
    zone = found.tenancy.time_zone
    sources = {
        name: Source(one.provider, one.model, one.price, one.later_prices)
        for name, one in found.policy.deployments.items()
    }
    covered = asked(period, since, until, zone)
    start, end = covered.microseconds
    if start is None:
        raise typer.BadParameter("say what to correct", param_hint="--period or --since")
    span = (start, now_microseconds() if end is None else end)
    with exit_on_ledger_error("prices reprice"):
        book = read_prices(found.settings.ledger_url)
        if dry_run or not yes:
            trial = reprice(found.settings.ledger_url, book, sources, *span, is_trial=True)
            _show_trial(trial, form if dry_run else None)
            if dry_run or not trial.corrected:
                return
            typer.confirm(f"Correct {trial.corrected:,} rows?", abort=True, err=True)
        done = reprice(found.settings.ledger_url, book, sources, *span)
        enter(found.settings, "prices reprice", period=str(covered), corrected=done.corrected)
    if form is TextFormat.JSON:
        _print_json(done)
        return
    before, after = usd_text(done.nano_usd_before), usd_text(done.nano_usd_after)
    typer.echo(
        f"Looked at {done.rows:,} rows, corrected {done.corrected:,}: {before} USD became {after} USD."
    )


def _show_trial(trial: "Repriced", form: TextFormat | None) -> None:
    """What would be corrected, by deployment and change of price. Without a form beside the output."""
    if form is TextFormat.JSON:
        _print_json(trial)
        return
    beside = form is None and trial.corrected > 0
    for change, (rows, before, after) in sorted(trial.changes.items()):
        typer.echo(
            f"{change.deployment}: {rows:,} rows from {change.before} to {change.after}, "
            f"{usd_text(before)} USD to {usd_text(after)} USD",
            err=beside,
        )
    nano_before, nano_after = usd_text(trial.nano_usd_before), usd_text(trial.nano_usd_after)
    typer.echo(
        f"Looked at {trial.rows:,} rows, would correct {trial.corrected:,}: "
        f"{nano_before} USD would become {nano_after} USD.",
        err=beside,
    )


def _print_json(done: "Repriced") -> None:
    changes = [
        {
            **change._asdict(),
            "rows": rows,
            "cost_usd_before": usd_text(before),
            "cost_usd": usd_text(after),
        }
        for change, (rows, before, after) in sorted(done.changes.items())
    ]
    sums = {
        "rows": done.rows,
        "corrected": done.corrected,
        "cost_usd_before": usd_text(done.nano_usd_before),
        "cost_usd": usd_text(done.nano_usd_after),
    }
    typer.echo(json.dumps({**sums, "changes": changes}))


def _enter(found: "Built", rows: "Sequence[tuple[str, Mapping[str, Any]]]") -> None:
    """Enter `rows`, each after the place where it was written."""
    from gateway.ledger.price_versions import PriceChanged, enter_prices  # noqa: PLC0415

    versions = list(_versions(found, rows))
    with exit_on_ledger_error("prices", PriceChanged):
        enter_prices(found.settings.ledger_url, versions)
        enter(found.settings, "prices enter", versions=sorted({one.version for one in versions}))
    typer.echo(f"Entered {len(versions)} price{'' if len(versions) == 1 else 's'}.")
    _advise(found, versions)


def _refuse_unknown(found: "Built", provider: str, model: str) -> None:
    """A name with a slip in it would leave the deployment that was meant at its old price."""
    from gateway.config.problems import did_you_mean  # noqa: PLC0415
    from gateway.core.catalog import Provider  # noqa: PLC0415
    from gateway.finance.price_catalogue import PriceCatalogue  # noqa: PLC0415
    from gateway.ledger.price_versions import read_prices  # noqa: PLC0415

    with exit_on_ledger_error("prices set"):
        entered = {f"{one.provider}/{one.model}" for one in read_prices(found.settings.ledger_url)}
    known = entered | _served(found)
    name = f"{provider}/{model}"
    is_listed = provider in tuple(Provider) and PriceCatalogue().find(provider, model) is not None
    if name in known or is_listed:
        return
    typer.echo(
        f"tollway prices set: no deployment of this configuration is {name}, no price was entered for it, "
        "and the catalogue does not list it. Correct the name, or add --new to enter it ahead. "
        f"{did_you_mean(name, sorted(known)).capitalize()}".rstrip(),
        err=True,
    )
    raise typer.Exit(1)


def _served(found: "Built") -> set[str]:
    return {f"{one.provider}/{one.model}" for one in found.policy.deployments.values()}


def _advise(found: "Built", versions: "Sequence[PriceVersion]") -> None:
    """What a person may not expect: a name that nothing has, and that the past stays as it was booked."""
    for name in sorted({f"{one.provider}/{one.model}" for one in versions} - _served(found)):
        typer.echo(f"Note: no deployment of this configuration is {name}.", err=True)
    if any(one.effective_from < now_microseconds() for one in versions):
        typer.echo(
            "Note: rows that are booked already keep their price; `tollway prices reprice` corrects them.",
            err=True,
        )


def _check_columns(row: Mapping[str, Any]) -> None:
    from gateway.config.prices import UNIT  # noqa: PLC0415
    from gateway.core.rates import tier_meant  # noqa: PLC0415
    from gateway.finance.price_sheet import EACH, RATES  # noqa: PLC0415

    known = (*FIELDS, *RATES, *EACH, *PARTS)
    unknown = sorted(
        name for name in row if name not in (*known, None) and (name == "" or UNIT.fullmatch(name) is None)
    )
    if unknown:
        raise ValueError(
            f"unknown column {unknown[0]}; known are {', '.join(known)}, and units: cache_write ..."
        )
    if _SURPLUS in row:
        raise ValueError("has more values than the first line has columns")
    tier = row.get("tier") or "standard"
    if tier != "standard" and (meant := tier_meant(tier)) is not None:
        raise ValueError(f"unknown tier {tier}; known are {', '.join(TIERS)}: write {meant}")
    if not row.get("provider") or not row.get("model"):
        raise ValueError("needs provider and model, as the deployment has them")


def _versions(found: "Built", rows: "Sequence[tuple[str, Mapping[str, Any]]]") -> "Iterator[PriceVersion]":
    """One version for all lines that name it."""
    from gateway.core.pricing import PriceVersion  # noqa: PLC0415
    from gateway.finance.price_sheet import Line, rates_of_lines  # noqa: PLC0415

    lines: dict[tuple[str, str, str, dt.date, str], list[tuple[str, Line]]] = {}
    for place, row in rows:
        with _told(place):
            _check_columns(row)
            day = dt.date.fromisoformat(row["from"])
            version = row.get("version") or f"prices-{day.isoformat()}"
            key = (row["provider"], row["model"], row.get("tier") or "standard", day, version)
            lines.setdefault(key, []).append((place, _line(row)))
    for (provider, model, tier, day, version), parts in lines.items():
        with _told(parts[0][0]):
            if len(parts) > len({(line.above, line.hours) for _, line in parts}):
                raise ValueError("is there twice, for the same band and hours")
            yield PriceVersion(
                provider=provider,
                model=model,
                tier=tier,
                effective_from=start_of_day(day, found.tenancy.time_zone),
                version=version,
                rates=rates_of_lines(line for _, line in parts),
                entered_at=now_microseconds(),
            )


@contextmanager
def _told(place: str) -> "Iterator[None]":
    """Ends the command with what is wrong at `place`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, InvalidOperation) as exc:
        typer.echo(f"{place}: {_words(exc)}", err=True)
        raise typer.Exit(1) from exc


def _line(row: Mapping[str, Any]) -> "Line":
    """Amounts in USD per million units. What is left out costs by the rules of docs/prices.md."""
    from gateway.finance.price_sheet import Line  # noqa: PLC0415

    amounts = {name: text for name, text in row.items() if text and name not in (*FIELDS, *PARTS)}
    for text in amounts.values():
        Decimal(text)
    return Line(amounts, int(row.get("above") or 0), (row.get("hours") or "").strip())


def _words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"column {error.args[0]} is missing"
    return "a price must be a number" if isinstance(error, InvalidOperation) else str(error)
