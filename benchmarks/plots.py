"""Plots of a report as SVG: CPU a request, latency by connections, streams. They need matplotlib."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from benchmarks.bench import DIRECT
from benchmarks.catalogue import BY_NAME, LIMIT, TOLLWAY, label
from benchmarks.processes import Skipped
from benchmarks.report import Report, chunk_cpu, first_token_delays, median, runs_of
from benchmarks.streams import StreamReport
from benchmarks.unary import UnaryReport

if TYPE_CHECKING:
    from pathlib import Path

OWN, GOVERNED, BARE = "#1f5fbf", "#e08a1e", "#9aa3ad"
LEAST = 0.1  # milliseconds: a delay that the noise makes negative has no place on a log scale
STEPS = re.compile(r"^unary-\d+$")
SOURCE_DATE = "0"  # no date in the file: a plot changes only when its numbers do
LEGEND = "blue: Tollway, all on; orange: other governed; grey: proxying only"


def draw(report: Report, folder: Path) -> list[Path]:
    """The plots for which the report has numbers. Raises Skipped without matplotlib."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", SOURCE_DATE)
    try:
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib import pyplot  # noqa: PLC0415
    except ImportError as exc:
        raise Skipped("--plots needs matplotlib: make install") from exc
    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "tollway", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=mpl.colormaps["tab20"].colors)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_cpu(report, pyplot, folder), _latency(report, pyplot, folder), _streams(report, pyplot, folder)]
    return [file for file in drawn if file is not None]


def _colour(name: str) -> str:
    if name.startswith(TOLLWAY):
        return OWN
    return GOVERNED if BY_NAME[name].governed else BARE


def _saved(pyplot: Any, figure: Any, file: Path) -> Path:
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return file


def _cpu(report: Report, pyplot: Any, folder: Path) -> Path | None:
    """Bars: the request process in full colour, what other processes of the subject add in pale."""
    part = report.part(UnaryReport, "unary-32")
    if part is None:
        return None
    found = {}
    for name in BY_NAME:
        request = median(run.request_cpu_us for run in runs_of(part, name))
        whole = median(run.whole_cpu_us for run in runs_of(part, name))
        if request is not None and whole is not None and name not in part.invalid:
            found[name] = (request, whole)
    names = sorted(found, key=lambda name: -found[name][1])
    figure, axes = pyplot.subplots(figsize=(8, 0.34 * len(names) + 1.1))
    for row, name in enumerate(names):
        request, whole = found[name]
        axes.barh(row, whole, color=_colour(name), alpha=0.45)
        axes.barh(row, request, color=_colour(name))
        axes.text(whole * 1.05, row, f"{whole:,.0f}", va="center")
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(
        f"CPU microseconds a request, 700 bytes, 32 connections (log)\n{LEGEND}; pale: other processes"
    )
    return _saved(pyplot, figure, folder / "cpu.svg")


def _latency(report: Report, pyplot: Any, folder: Path) -> Path | None:
    """Two panels, the median and the 99th percentile, a line for each subject."""
    parts = sorted(
        (part for part in report.parts_of(UnaryReport) if STEPS.match(part.scenario)),
        key=lambda part: part.connections,
    )
    if not parts:
        return None
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for axes, quantile in zip(panels, ("p50_ms", "p99_ms"), strict=True):
        for name in (DIRECT, *BY_NAME):
            points = [_point(part, name, quantile) for part in parts]
            known = [point for point in points if point is not None]
            if known:
                axes.plot(*zip(*known, strict=True), marker="o", markersize=3, **_line(name))
        axes.set(xscale="log", xlabel="connections", title=quantile[:3])
        _log_scale(axes)
        axes.set_xticks([part.connections for part in parts], [str(part.connections) for part in parts])
    panels[0].set_ylabel("milliseconds (log)")
    panels[1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return _saved(pyplot, figure, folder / "latency.svg")


def _point(part: UnaryReport, name: str, quantile: str) -> tuple[int, float] | None:
    value = median(getattr(run, quantile) for run in runs_of(part, name))
    return None if value is None or name in part.invalid else (part.connections, value)


def _line(name: str) -> dict[str, Any]:
    """The same colour for a subject in every plot."""
    own = name.startswith(TOLLWAY)
    style = {"label": label(name), "linewidth": 2.2 if own else 1.0}
    if name == DIRECT:
        return {**style, "color": "black", "linestyle": ":"}
    if name in (LIMIT, TOLLWAY):
        return {**style, "color": OWN if own else "black"}
    return {**style, "color": f"C{list(BY_NAME).index(name)}"}


def _log_scale(axes: Any) -> None:
    """Numbers as people write them, at 1, 2 and 5."""
    axes.set_yscale("log", subs=[])
    axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.minorticks_off()


def _streams(report: Report, pyplot: Any, folder: Path) -> Path | None:
    """Two panels of lines: CPU a chunk, and the delay of the first token, by streams at once."""
    parts = sorted(report.parts_of(StreamReport), key=lambda part: part.streams)
    if not parts:
        return None
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.2))
    wanted = (("CPU microseconds a chunk", chunk_cpu), ("first token delayed, ms", first_token_delays))
    for axes, (title, values) in zip(panels, wanted, strict=True):
        for name in BY_NAME:
            found = [(part.streams, median(values(part, name))) for part in parts if name not in part.invalid]
            known = [(streams, max(value, LEAST)) for streams, value in found if value is not None]
            if known:
                axes.plot(*zip(*known, strict=True), marker="o", markersize=3, **_line(name))
        axes.set(xscale="log", xlabel="streams at once", title=title)
        _log_scale(axes)
        axes.set_xticks([part.streams for part in parts], [f"{part.streams:,}" for part in parts])
    panels[1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return _saved(pyplot, figure, folder / "streams.svg")
