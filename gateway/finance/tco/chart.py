"""The break-even curve as a picture. Needs matplotlib, which only `tollway[charts]` installs."""

from pathlib import Path

from matplotlib.figure import Figure

from gateway.finance.tco.report import Comparison, TcoReport


def draw(found: Comparison, path: Path) -> None:
    """Write the curves to `path`; its ending names the format. Raises OSError, ValueError."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    _curves(axes, found.actual, "-", "")
    if found.what_if is not None:
        _curves(axes, found.what_if.report, "--", " (what if)")
    axes.set(
        xlabel="utilisation of the pool, %",
        ylabel="USD per million tokens",
        title=f"{found.actual.since} to {found.actual.until}",
        ylim=(0, None),
    )
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


def _curves(axes: object, report: TcoReport, style: str, suffix: str) -> None:
    for pool in report.pools:
        for index, one in enumerate(pool.break_even):
            at = [100 * point.utilisation for point in one.curve]
            if index == 0:
                costs = [point.pool_usd_per_million_tokens for point in one.curve]
                axes.plot(at, costs, style, label=f"{pool.deployment}{suffix}")  # type: ignore[attr-defined]
            hosted = [point.hosted_usd_per_million_tokens for point in one.curve]
            label = f"{one.against}{suffix}"
            axes.plot(at, hosted, style, label=label)  # type: ignore[attr-defined]
