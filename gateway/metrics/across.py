"""One set of metrics out of those of several workers.

Counters and histograms add up, those of workers that have died included. How a gauge does stands in GAUGES;
one that is not there is the same in all workers, and its largest value is shown.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec
from prometheus_client import Metric, generate_latest

from gateway.core.money import NANO_PER_USD
from gateway.metrics import families

Add = Callable[[float, float], float]


class MetricSample(msgspec.Struct, frozen=True, array_like=True):
    """One line of the exposition. `labels` are sorted by name."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class FamilySamples(msgspec.Struct, frozen=True, array_like=True):
    """One metric with all its series, in a form that can be sent to another process."""

    name: str  # without the `_total` of a counter
    kind: str
    help: str
    samples: tuple[MetricSample, ...]


def samples_of(metrics: Iterable[Metric]) -> list[FamilySamples]:
    """What a registry has collected."""
    return [
        FamilySamples(
            metric.name,
            metric.type,
            metric.documentation,
            tuple(
                MetricSample(sample.name, tuple(sorted(sample.labels.items())), sample.value)
                for sample in metric.samples
            ),
        )
        for metric in metrics
    ]


def summed(workers: Iterable[Sequence[FamilySamples]]) -> list[FamilySamples]:
    """The metrics of all `workers` as those of one gateway."""
    first: dict[str, FamilySamples] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for worker in workers:
        for family in worker:
            add = _rule(first.setdefault(family.name, family))
            series = values.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, sample.labels
                series[key] = add(series[key], sample.value) if key in series else sample.value
    return [
        FamilySamples(
            name,
            family.kind,
            family.help,
            tuple(MetricSample(*key, value) for key, value in values[name].items()),
        )
        for name, family in first.items()
    ]


def lasting(worker: Iterable[FamilySamples]) -> list[FamilySamples]:
    """What remains of a worker that has died: what it counted, so that no sum goes back."""
    return [family for family in worker if family.kind != "gauge"]


def exposition_of(all_samples: Iterable[FamilySamples]) -> bytes:
    """In Prometheus' text format."""
    return generate_latest(_Collected([_metric(family) for family in all_samples]))


class _Collected:
    """What generate_latest reads."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _metric(family: FamilySamples) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    for sample in family.samples:
        metric.add_sample(sample.name, dict(sample.labels), sample.value)
    return metric


def _rule(family: FamilySamples) -> Add:
    if family.kind == "gauge":
        return GAUGES.get(family.name, max)
    return _plus_usd if "_usd" in family.name else _plus


def _plus(one: float, other: float) -> float:
    return one + other


def _plus_usd(one: float, other: float) -> float:
    """Each value reads back as whole nano-USD, and so does their sum; that of the quotients might not."""
    return (round(one * NANO_PER_USD) + round(other * NANO_PER_USD)) / NANO_PER_USD


GAUGES: dict[str, Add] = {
    families.REPLICA_INFLIGHT.name: _plus,
    families.LEDGER_LAG.name: _plus,
    families.CONNECTIONS.name: _plus,
    families.MOST_CONNECTIONS.name: _plus,
    # What is well only when it is well in every worker.
    families.REPLICA_UP.name: min,
    families.READY.name: min,
    families.LEDGER_WRITABLE.name: min,
    families.RETIRES.name: min,
    families.DISK_FREE.name: min,
    families.RELOAD_OK.name: min,
    families.RELOAD_TIME.name: min,
    families.TASK_UP.name: min,
    "process_resident_memory_bytes": _plus,
    "process_virtual_memory_bytes": _plus,
    # The bound holds for each process: shown is the fullest one against the lowest bound.
    "process_open_fds": max,
    "process_max_fds": min,
    "process_start_time_seconds": min,
}
