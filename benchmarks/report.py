"""What a run found: JSON with every raw round, and tables of ratios for a terminal or Markdown."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.environment import Environment
from benchmarks.proxy import ProxyReport
from benchmarks.start import StartReport
from benchmarks.streams import DIRECT, INTERVAL_MS, StreamReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

LIMIT = "nginx"
OTHERS_SHARE_ALLOWED = 0.05
LIMIT_SHARE_NEEDED = 0.9
NARROWEST_TABLE = 120  # columns; a table squeezed below it cannot be read
LABELS = {
    "nginx": "nginx (the limit)",
    "tollway": "Tollway (all on)",
    "tollway-leased": "Tollway (leased)",
    "vllm-router": "vllm-router (bare)",
    "smg": "SMG (bare)",
    "direct": "no proxy",
}


class Parameters(msgspec.Struct, frozen=True):
    seconds: int
    rounds: int
    parts: list[str]


class Report(msgspec.Struct, frozen=True):
    """One run of the benchmarks; a part that was not asked for is null."""

    environment: Environment
    parameters: Parameters
    proxy: ProxyReport | None
    stream: StreamReport | None
    start: StartReport | None
    took_seconds: float


class Table(msgspec.Struct, frozen=True):
    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = []


class Target(msgspec.Struct, frozen=True):
    """One promise of the project; `value` is None when it was not measured."""

    promise: str
    value: float | None
    holds: bool | None

    def verdict(self) -> str:
        return {None: "not measured", True: "holds", False: "MISSED"}[self.holds]


def _spread(values: list[float], form: str) -> str:
    """Median, and the extremes in brackets."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}}..{high:{form}})"


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def proxy_ratios(report: ProxyReport, subject: str, base: str = LIMIT) -> list[float]:
    """Requests per second divided by those of `base` in the same round."""
    of_base = {run.round: run.requests_per_second for run in report.runs if run.subject == base}
    mine = [run for run in report.runs if run.subject == subject]
    return [run.requests_per_second / of_base[run.round] for run in mine if of_base.get(run.round)]


def _proxy_row(report: ProxyReport, subject: str) -> list[str]:
    runs = [run for run in report.runs if run.subject == subject]
    ratios = proxy_ratios(report, subject)
    return [
        LABELS[subject],
        _spread([run.requests_per_second for run in runs], ",.0f"),
        "1" if subject == LIMIT else _spread(ratios, ".3f") if ratios else "-",
        f"{statistics.median(run.p50_ms for run in runs):.2f}",
        f"{statistics.median(run.p99_ms for run in runs):.2f}",
        f"{statistics.median(run.cpu_us_per_request for run in runs):.1f}",
        f"{statistics.median(run.core_share for run in runs):.0%}",
        "INVALID" if subject in report.invalid else "0",
    ]


def _why(skipped: dict[str, str], invalid: dict[str, str]) -> list[str]:
    notes = [f"{LABELS[name]}: skipped, {reason}" for name, reason in skipped.items()]
    return notes + [f"{LABELS[name]}: invalid, {reason}" for name, reason in invalid.items()]


def _disturbed(shares: Iterable[float | None]) -> list[str]:
    worst = max((share for share in shares if share is not None), default=0.0)
    if worst <= OTHERS_SHARE_ALLOWED:
        return []
    return [f"Disturbed: other programs took up to {worst:.0%} of a core. Run it again alone."]


def _unfilled_limit(report: ProxyReport) -> list[str]:
    """A limit that waits for its load is no limit, and every ratio to it is too high."""
    share = _median(run.core_share for run in report.runs if run.subject == LIMIT)
    if share is None or share >= LIMIT_SHARE_NEEDED:
        return []
    return [
        f"nginx filled {share:.0%} of its core: load or other programs held it back. Compare CPU us instead."
    ]


def proxy_table(report: ProxyReport) -> Table:
    subjects = list(dict.fromkeys(run.subject for run in report.runs))
    ordered = [name for name in LABELS if name in subjects]
    columns = ["", "requests/s", "to nginx", "p50 ms", "p99 ms", "CPU us", "core", "errors"]
    notes = _why(report.skipped, report.invalid) + _disturbed(run.others_core_share for run in report.runs)
    notes += _unfilled_limit(report)
    if report.ledger_rows is not None:
        notes.append(f"Tollway's ledger holds {report.ledger_rows:,} rows at the end, warm-up included.")
    return Table(
        "Proxying a 700-byte chat request", columns, [_proxy_row(report, name) for name in ordered], notes
    )


def first_token_delays(report: StreamReport, subject: str) -> list[float]:
    runs = [run for run in report.first_token if run.subject == subject]
    return [run.delay_ms for run in runs if run.delay_ms is not None]


def cpu_per_chunk(report: StreamReport, subject: str) -> list[float]:
    runs = [run for run in report.pace if run.subject == subject]
    return [run.cpu_us_per_chunk for run in runs if run.cpu_us_per_chunk is not None]


def _stream_row(report: StreamReport, subject: str) -> list[str]:
    cpu, delays = cpu_per_chunk(report, subject), first_token_delays(report, subject)
    of_limit = _median(cpu_per_chunk(report, LIMIT))
    ratio = statistics.median(cpu) / of_limit if cpu and of_limit else None
    first = [run.ttft_ms for run in report.first_token if run.subject == subject]
    waves = [wave for run in report.pace if run.subject == subject for wave in run.waves]
    return [
        LABELS[subject],
        _spread(cpu, ".1f") if cpu else "-",
        _shown(ratio, ".2f"),
        f"{statistics.median(first):.1f}",
        _spread(delays, ".1f") if delays else "-",
        f"{statistics.median(wave.gap_p99_ms for wave in waves):.1f}",
        "INVALID" if subject in report.invalid else "0",
    ]


def stream_table(report: StreamReport) -> Table:
    subjects = {run.subject for run in report.pace}
    ordered = [name for name in (DIRECT, *LABELS) if name in subjects]
    columns = ["", "CPU us/chunk", "to nginx", "first ms", "delay ms", "gap p99 ms", "errors"]
    notes = _why(report.skipped, report.invalid) + _disturbed(run.others_core_share for run in report.pace)
    notes.append(
        f"CPU and gaps: 400 streams, a chunk every {INTERVAL_MS} ms each. First token, delay: 100 streams."
    )
    rows = [_stream_row(report, name) for name in dict.fromkeys(ordered)]
    return Table("Streaming", columns, rows, notes)


def start_table(report: StartReport) -> Table:
    rows = []
    if report.runs:
        seconds = _spread([run.seconds for run in report.runs], ".2f")
        rows.append([LABELS["tollway"], seconds, _spread([run.rss_megabytes for run in report.runs], ".0f")])
    columns = ["", "start to /healthz s", "idle memory MB"]
    return Table("Start and memory", columns, rows, _why(report.skipped, {}))


def _target(promise: str, value: float | None, holds: Callable[[float], bool]) -> Target:
    return Target(promise, value, None if value is None else holds(value))


def _proxy_targets(report: ProxyReport) -> list[Target]:
    valid = "tollway" not in report.invalid
    of_nginx = _median(proxy_ratios(report, "tollway")) if valid else None
    leased = _median(proxy_ratios(report, "tollway-leased", "tollway")) if valid else None
    of_smg = _median(proxy_ratios(report, "tollway", "smg")) if valid else None
    return [
        _target("requests/s to nginx at least 0.15", of_nginx, lambda ratio: ratio >= 0.15),
        _target("requests/s to SMG above 1", of_smg, lambda ratio: ratio > 1),
        _target("leased to memory at least 0.85", leased, lambda ratio: ratio >= 0.85),
    ]


def _stream_targets(report: StreamReport) -> list[Target]:
    valid = "tollway" not in report.invalid
    cpu = _median(cpu_per_chunk(report, "tollway")) if valid else None
    delay = _median(first_token_delays(report, "tollway")) if valid else None
    return [
        _target("CPU us/chunk at 400 streams at most 40", cpu, lambda us: us <= 40),
        _target("first token delay ms at 100 streams below 10", delay, lambda ms: ms < 10),
    ]


def _start_targets(report: StartReport) -> list[Target]:
    return [
        _target("start s below 1.5", _median(run.seconds for run in report.runs), lambda s: s < 1.5),
        _target(
            "idle memory MB below 120", _median(run.rss_megabytes for run in report.runs), lambda mb: mb < 120
        ),
    ]


def targets(report: Report) -> list[Target]:
    """What the project promises about speed, for the parts that ran."""
    found = _proxy_targets(report.proxy) if report.proxy else []
    found += _stream_targets(report.stream) if report.stream else []
    return found + (_start_targets(report.start) if report.start else [])


def tables(report: Report) -> list[Table]:
    found = [proxy_table(report.proxy)] if report.proxy else []
    found += [stream_table(report.stream)] if report.stream else []
    found += [start_table(report.start)] if report.start else []
    rows = [[target.promise, _shown(target.value, ".3g"), target.verdict()] for target in targets(report)]
    return [*found, Table("Promises", ["", "measured", ""], rows)]


def heading(report: Report) -> str:
    seen = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in seen.versions.items())
    asked = report.parameters
    how = f"{asked.rounds} rounds of {asked.seconds} s, {report.took_seconds:.0f} s in all"
    cores = "one core shared by all: compare nothing" if seen.cores.shared else "one core for the subject"
    return (
        f"{seen.date} · {seen.cpu_model}, {seen.cpus} CPUs, Linux {seen.kernel} · {how}; {cores} · {versions}"
    )


def _markdown_table(table: Table) -> str:
    lines = [f"**{table.title}**", ""]
    if table.rows:
        lines += [f"| {' | '.join(table.columns)} |", "|---|" + "--:|" * (len(table.columns) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join(lines + [f"\n{note}" for note in table.notes])


def as_markdown(report: Report) -> str:
    return "\n\n".join([heading(report), *(_markdown_table(table) for table in tables(report))])


def _for_terminal(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    return shown


def print_tables(report: Report) -> None:
    """To a terminal, or to whatever standard output is."""
    console = Console(width=max(Console().width, NARROWEST_TABLE))
    console.print(heading(report), highlight=False)
    for table in tables(report):
        console.print(_for_terminal(table) if table.rows else f"{table.title}: not measured")
        for note in table.notes:
            console.print(note, highlight=False, markup=False)


def write_json(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
