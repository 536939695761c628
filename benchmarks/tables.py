"""Tables of a report, for a terminal or as Markdown: governed subjects first, then those that only proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.bench import DIRECT
from benchmarks.calls import CallReport
from benchmarks.catalogue import BY_NAME, LIMIT, label
from benchmarks.idle import IdleReport
from benchmarks.overload import OverloadReport
from benchmarks.promises import verdicts
from benchmarks.report import Report, added, chunk_cpu, first_token_delays, median, ratios, runs_of
from benchmarks.slow import SlowReport
from benchmarks.start import StartReport
from benchmarks.streams import StreamReport
from benchmarks.unary import UnaryReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OTHERS_SHARE_ALLOWED = 0.05
LIMIT_SHARE_NEEDED = 0.9
NARROWEST_TABLE = 200  # columns; a table squeezed below it cannot be read
TOLD_IN = "unary-32"  # the table that says what each subject does and does not
LATENCY_COLUMNS = ["p50 ms", "p99 ms", "+p50", "+p99"]  # with a plus: against no proxy in the same round
UNARY_COLUMNS = ["", "requests/s", "to nginx", "CPU us", "CPU us, all", *LATENCY_COLUMNS, "errors"]
KINDS = ("governed", "bare")


class Table(msgspec.Struct, frozen=True):
    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = []


def spread(values: Sequence[float], form: str) -> str:
    """Median, and the extremes in brackets."""
    middle = median(values)
    return "-" if middle is None else f"{middle:{form}} ({min(values):{form}}..{max(values):{form}})"


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _of_kind(names: Iterable[str], kind: str) -> list[str]:
    """In the order of the catalogue. The limit and the direct run stand in both tables, to compare with."""
    present = set(names)
    both = [name for name in (DIRECT, LIMIT) if name in present]
    kinds = {name for name in present if name in BY_NAME and BY_NAME[name].governed == (kind == "governed")}
    return both + [name for name in BY_NAME if name in kinds and name != LIMIT]


def _why(kind: str, skipped: dict[str, str], invalid: dict[str, str]) -> list[str]:
    mine = set(_of_kind([*skipped, *invalid], kind))
    notes = [f"{label(name)}: skipped, {reason}" for name, reason in skipped.items() if name in mine]
    return notes + [f"{label(name)}: INVALID, {reason}" for name, reason in invalid.items() if name in mine]


def _disturbed(shares: Iterable[float | None]) -> list[str]:
    worst = max((share for share in shares if share is not None), default=0.0)
    if worst <= OTHERS_SHARE_ALLOWED:
        return []
    return [f"Disturbed: other programs took up to {worst:.0%} of a core. Run it again alone."]


def _unfilled_limit(part: UnaryReport) -> list[str]:
    """A limit that waits for its load is no limit, and every ratio to it is too high."""
    share = median(run.core_share for run in runs_of(part, LIMIT))
    if share is None or share >= LIMIT_SHARE_NEEDED or part.connections == 1:
        return []
    return [f"nginx filled {share:.0%} of its core: load or others held it back. Compare CPU us instead."]


def _unary_row(part: UnaryReport, name: str) -> list[str]:
    runs = runs_of(part, name)
    subject = BY_NAME.get(name)
    return [
        label(name),
        spread([run.requests_per_second for run in runs], ",.0f"),
        "1" if name == LIMIT else spread(ratios(part, name, LIMIT), ".3f") if subject else "-",
        shown(median(run.request_cpu_us for run in runs), ".1f") if subject else "-",
        shown(median(run.whole_cpu_us for run in runs), ".1f") if subject else "-",
        shown(median(run.p50_ms for run in runs), ".2f"),
        shown(median(run.p99_ms for run in runs), ".2f"),
        shown(median(added(part, name, DIRECT, lambda run: run.p50_ms)), ".2f") if subject else "-",
        shown(median(added(part, name, DIRECT, lambda run: run.p99_ms)), ".2f") if subject else "-",
        "INVALID" if name in part.invalid else "0",
        *([subject.does, subject.lacks] if subject else ["", ""]),
    ][: len(UNARY_COLUMNS) + (2 if part.scenario == TOLD_IN else 0)]


def unary_table(part: UnaryReport, kind: str) -> Table:
    columns = UNARY_COLUMNS + (["does", "does not"] if part.scenario == TOLD_IN else [])
    names = _of_kind({run.subject for run in part.runs}, kind)
    rows = [_unary_row(part, name) for name in names]
    notes = _why(kind, part.skipped, part.invalid) + _disturbed(run.others_core_share for run in part.runs)
    title = f"{part.title}, {kind}"
    return Table(title, columns, rows, notes + _unfilled_limit(part))


def _stream_row(part: StreamReport, name: str) -> list[str]:
    paces = [run for run in part.pace if run.subject == name]
    of_limit, cpu = median(chunk_cpu(part, LIMIT)), chunk_cpu(part, name)
    middle = median(cpu)
    delays = first_token_delays(part, name)
    return [
        label(name),
        str(paces[0].streams) if paces else "-",
        shown(median(run.request_cpu_us for run in paces), ".1f"),
        spread(cpu, ".1f"),
        shown(middle / of_limit if middle is not None and of_limit else None, ".2f"),
        shown(median(run.ttft_ms for run in part.first_token if run.subject == name), ".1f"),
        spread(delays, ".1f"),
        shown(median(wave.gap_p99_ms for run in paces for wave in run.waves), ".1f"),
        "INVALID" if name in part.invalid else "0",
    ]


def stream_table(part: StreamReport, kind: str) -> Table:
    columns = [
        "",
        "streams",
        "CPU us/chunk",
        "all",
        "to nginx",
        "first ms",
        "delay ms",
        "gap p99 ms",
        "errors",
    ]
    rows = [_stream_row(part, name) for name in _of_kind({run.subject for run in part.pace}, kind)]
    notes = _why(kind, part.skipped, part.invalid) + _disturbed(run.others_core_share for run in part.pace)
    return Table(f"{part.title}, a chunk every {part.interval_ms:g} ms each, {kind}", columns, rows, notes)


def idle_table(part: IdleReport, kind: str) -> Table:
    columns = ["", "streams", "MB before", "MB with", "KB a stream"]
    runs = {run.subject: run for run in part.runs}
    rows = [
        [
            label(name),
            str(runs[name].streams),
            f"{runs[name].before_megabytes:.0f}",
            f"{runs[name].with_megabytes:.0f}",
            f"{runs[name].kilobytes_a_stream:.1f}",
        ]
        for name in _of_kind(runs, kind)
    ]
    return Table(f"{part.title}, {kind}", columns, rows, _why(kind, part.skipped, part.invalid))


def start_table(part: StartReport, kind: str) -> Table:
    columns = ["", "start to answer s", "to /healthz s", "idle memory MB"]
    rows = []
    for name in _of_kind({run.subject for run in part.runs}, kind):
        runs = [run for run in part.runs if run.subject == name]
        row = [label(name), spread([run.seconds for run in runs], ".2f")]
        row += [shown(median(run.health_seconds for run in runs), ".2f")]
        rows.append([*row, spread([run.rss_megabytes for run in runs], ".0f")])
    return Table(f"{part.title}, {kind}", columns, rows, _why(kind, part.skipped, {}))


def overload_table(part: OverloadReport, kind: str) -> Table:
    columns = ["", "offered", "arrivals/s", "good/s", "of peak", "refused", "late, failed", "good p99 ms"]
    columns += ["refusal p50 ms", "p99 ms", "MB"]
    rows = []
    for name in _of_kind({run.subject for run in part.runs}, kind):
        for factor in sorted({run.factor for run in part.runs if run.subject == name}):
            runs = [run for run in part.runs if run.subject == name and run.factor == factor]
            row = [
                label(name),
                f"{factor:g}x",
                shown(median(run.arrivals_per_second for run in runs), ",.0f"),
            ]
            row += [shown(median(run.good_per_second for run in runs), ",.0f")]
            row += [spread([run.of_peak for run in runs], ".2f")]
            row += [shown(median(run.refused_share for run in runs), ".0%")]
            row += [shown(median(run.lost_share for run in runs), ".0%")]
            row += [shown(median(run.good_p99_ms for run in runs), ".0f")]
            row += [shown(median(run.refused_p50_ms for run in runs), ".0f")]
            row += [shown(median(run.refused_p99_ms for run in runs), ".0f")]
            rows.append([*row, shown(median(run.rss_megabytes for run in runs), ".0f")])
    notes = _why(kind, part.skipped, part.invalid) + _disturbed(run.others_core_share for run in part.runs)
    return Table(f"{part.title}, {kind}", columns, rows, notes)


def slow_table(part: SlowReport, kind: str) -> Table:
    columns = ["", "slow", "p50 ms alone", "beside", "p99 ms alone", "beside", "p99 ratio", "KB a connection"]
    rows = []
    for name in _of_kind({run.subject for run in part.runs}, kind):
        runs = [run for run in part.runs if run.subject == name]
        row = [label(name), str(runs[0].connections)]
        row += [shown(median(run.alone_p50_ms for run in runs), ".2f")]
        row += [shown(median(run.beside_p50_ms for run in runs), ".2f")]
        row += [shown(median(run.alone_p99_ms for run in runs), ".2f")]
        row += [shown(median(run.beside_p99_ms for run in runs), ".2f")]
        row += [spread([run.beside_p99_ms / run.alone_p99_ms for run in runs], ".2f")]
        rows.append([*row, shown(median(run.kilobytes_a_connection for run in runs), ".1f")])
    notes = _why(kind, part.skipped, part.invalid) + _disturbed(run.others_core_share for run in part.runs)
    return Table(f"{part.title}, {kind}", columns, rows, notes)


def calls_table(part: CallReport) -> Table:
    row = [label("tollway"), f"{part.python_calls:.0f}", f"{part.c_calls:.0f}", str(part.files)]
    return Table(part.title, ["", "Python calls", "C calls", "files"], [row])


def tables(report: Report) -> list[Table]:
    found: list[Table] = []
    for part in report.parts:
        match part:
            case UnaryReport():
                found += [unary_table(part, kind) for kind in KINDS]
            case StreamReport():
                found += [stream_table(part, kind) for kind in KINDS]
            case IdleReport():
                found += [idle_table(part, kind) for kind in KINDS]
            case StartReport():
                found += [start_table(part, kind) for kind in KINDS]
            case OverloadReport():
                found += [overload_table(part, kind) for kind in KINDS]
            case SlowReport():
                found += [slow_table(part, kind) for kind in KINDS]
            case CallReport():
                found.append(calls_table(part))
    rows = [[one.promise, shown(one.value, ".3g"), one.word()] for one in verdicts(report)]
    return [*found, Table("Promises", ["", "measured", ""], rows)]


def heading(report: Report) -> str:
    seen, asked = report.environment, report.parameters
    versions = ", ".join(f"{name} {version}" for name, version in seen.versions.items())
    how = f"at most {asked.rounds} rounds of {asked.seconds} s, {report.took_seconds:.0f} s in all"
    where = f"{seen.date}, {seen.cpu_model}, Linux {seen.kernel}, load {seen.load_average} before"
    shared = "  ONE CPU: subject and load share it" if seen.cores.shared else ""
    return f"Tollway {seen.commit} on {seen.interpreter.name()}; {where}; {how}; {versions}.{shared}"


def as_markdown(report: Report) -> str:
    lines = [heading(report), ""]
    for table in tables(report):
        lines += [f"### {table.title}", ""]
        if table.rows:
            lines += ["| " + " | ".join(table.columns) + " |"]
            lines += ["|---" + "|--:" * (len(table.columns) - 1) + "|"]
            lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines += ["", *(f"- {note}" for note in table.notes), ""]
    return "\n".join(lines)


def print_tables(report: Report) -> None:
    """To a terminal, or to whatever standard output is."""
    console = Console(width=max(Console().width, NARROWEST_TABLE))
    console.print(heading(report), highlight=False)
    for table in tables(report):
        console.print(_for_terminal(table) if table.rows else f"{table.title}: not measured")
        for note in table.notes:
            console.print(note, highlight=False, markup=False)


def _for_terminal(table: Table) -> RichTable:
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        words = column.startswith("does")
        drawn.add_column(column, justify="left" if number == 0 or words else "right", no_wrap=not words)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn
