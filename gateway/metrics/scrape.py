"""A scrape: the counted numbers, and what other parts of the gateway know at this moment, as families."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
from prometheus_client import Metric

from gateway.core.balancing import Fleet
from gateway.core.errors import Overloaded
from gateway.core.histogram import Histogram
from gateway.core.metering import FLAGS
from gateway.core.money import NANO_PER_USD
from gateway.core.overload import Priority
from gateway.core.record import Outcome
from gateway.http.server.port_state import PortState
from gateway.metrics import families
from gateway.metrics.families import Family
from gateway.metrics.names import NONE
from gateway.metrics.series import AttemptSeries, RequestSeries
from gateway.ports import BudgetView, Clock
from gateway.supervised import TaskRegistry

SECONDS_PER_DAY = 86400.0

REFUSED = "refused"  # the outcome of a request without an attempt

# Why a budget refused: it is used up, or what is missing is only held by requests in flight.
USED, HELD = "used", "held"
REFUSAL_REASONS = (USED, HELD)


class WriterSums(Protocol):
    """What the processes that have written the ledger have counted."""

    @property
    def up(self) -> Mapping[str, bool]:
        """Whether each of its background loops works."""
        ...

    @property
    def failures(self) -> Mapping[str, int]:
        """Failed turns of each."""
        ...

    @property
    def commits(self) -> Histogram:
        """How long commits took."""
        ...


class WriterProcess(Protocol):
    """The process that writes the ledger."""

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        ...

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        ...

    @property
    def counts(self) -> WriterSums:
        """What it has told."""
        ...


class Shedder(Protocol):
    """What refuses requests in an overload."""

    @property
    def refused(self) -> Mapping[Priority, int]:
        """How many, by priority."""
        ...

    @property
    def is_shedding(self) -> bool: ...


class ScrapeSources(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is read at each scrape, on the event loop's thread.

    Many attributes: one for each part that knows a number which nobody counts.
    """

    budgets: Callable[[], Iterable[BudgetView]]
    fleet: Callable[[], Fleet]
    ledger_lag_rows: Callable[[], int]
    ledger_writable: Callable[[], bool]
    ready: Callable[[], bool]
    degraded: Callable[[], int]  # how many things fail and keep no request away
    policy_version: Callable[[], str]
    tasks: TaskRegistry
    ports: Sequence[PortState] = ()
    refusals_not_kept: Callable[[], int]
    refusals_limited: Callable[[], Mapping[str, int]]
    log_lines_lost: Callable[[], int]
    shedder: Shedder
    ledger_writer: WriterProcess | None = None  # None: somebody else runs it
    disks: Callable[[], Mapping[str, tuple[int, int]]] = dict  # free and all bytes, by path
    event_loop_tasks: Callable[[], int] = int


class SeriesByLabels:
    """All series by their label values, in the order of the labels of their family.

    Many attributes: one for each family of metrics that the request path or a loop counts in.
    """

    __slots__ = (
        "attempts",
        "budget_alerts",
        "budget_refusals",
        "decisions",
        "dialect_learned",
        "duration",
        "entity_looks",
        "fields_dropped",
        "first_token",
        "inter_token",
        "limit_rejections",
        "overhead",
        "pool_cost",
        "pool_effective",
        "pool_gpu_microseconds",
        "pool_utilisation",
        "refusals",
        "reload_ok",
        "reloaded_at",
        "reloads",
        "requests",
        "requests_refused",
        "shadow_rejections",
        "trace_spans",
    )

    def __init__(self, overhead: Histogram) -> None:
        self.attempts: dict[tuple[str, str, str, str], AttemptSeries] = {}
        self.requests: dict[tuple[str, ...], list[RequestSeries]] = {}
        self.requests_refused: dict[tuple[str, ...], int] = {}
        self.duration: dict[tuple[str, ...], Histogram] = {}
        self.first_token: dict[tuple[str, ...], Histogram] = {}
        self.inter_token: dict[tuple[str, ...], Histogram] = {}
        self.overhead = overhead
        self.decisions: dict[tuple[str, ...], int] = {}
        self.refusals: dict[str, int] = {}
        self.limit_rejections: dict[tuple[str, ...], int] = {}
        self.shadow_rejections: dict[tuple[str, ...], int] = {}
        self.budget_alerts: dict[tuple[str, ...], int] = {}
        self.fields_dropped: dict[tuple[str, ...], int] = {}
        self.dialect_learned: dict[tuple[str, ...], int] = {}
        self.budget_refusals: dict[tuple[str, ...], int] = {}
        self.trace_spans: dict[tuple[str, ...], int] = {}
        self.entity_looks: dict[tuple[str, ...], int] = {}
        self.pool_cost: dict[tuple[str, ...], int] = {}
        self.pool_gpu_microseconds: dict[tuple[str, ...], int] = {}
        self.pool_utilisation: dict[tuple[str, ...], float] = {}
        self.pool_effective: dict[tuple[str, ...], int] = {}
        self.reloads: dict[tuple[str, ...], int] = {}
        self.reload_ok = True
        self.reloaded_at = 0.0


def collect(counted: SeriesByLabels, sources: ScrapeSources, clock: Clock, version: str) -> Iterator[Metric]:
    """Every family of FAMILIES, those without a series included."""
    requests = {labels: sum(one.requests for one in parts) for labels, parts in counted.requests.items()}
    shed = sources.shedder.refused
    refused, refusals = _with_shed(counted, sum(shed.values()))
    yield _counters(families.REQUESTS, requests | refused)
    fleet = sources.fleet()
    yield from _attempts(counted.attempts)
    yield _accounts_rejected(counted.attempts, fleet)
    yield _histograms(families.DURATION, counted.duration)
    yield _histograms(families.FIRST_TOKEN, counted.first_token)
    yield _histograms(families.INTER_TOKEN, counted.inter_token)
    yield _histograms(families.OVERHEAD, {(): counted.overhead})
    yield _counters(families.DECISIONS, counted.decisions)
    yield _counters(families.REFUSALS, {(code,): count for code, count in refusals.items()})
    yield _counters(families.SHED, {(priority,): count for priority, count in shed.items()})
    yield _gauge(families.OVERLOADED, {(): int(sources.shedder.is_shedding)})
    yield _counters(families.REFUSALS_NOT_KEPT, {(): sources.refusals_not_kept()})
    yield collect_refusal_limits(sources.refusals_limited())
    yield _counters(families.LIMIT_REJECTIONS, counted.limit_rejections)
    yield _counters(families.SHADOW_REJECTIONS, counted.shadow_rejections)
    yield _typical_outputs(fleet)
    yield _counters(families.FIELDS_DROPPED, counted.fields_dropped)
    yield _counters(families.DIALECT_LEARNED, counted.dialect_learned)
    yield _counters(families.BUDGET_ALERTS, counted.budget_alerts)
    budgets = list(sources.budgets())
    yield _budget_refusals(budgets, counted.budget_refusals)
    yield from _budgets(budgets)
    yield from _replicas(fleet, clock.monotonic())
    yield _retirements(fleet, clock.now())
    yield from _pools(counted)
    yield _gauge(families.READY, {(): int(sources.ready())})
    yield _gauge(families.DEGRADED, {(): sources.degraded()})
    yield _gauge(families.LEDGER_LAG, {(): sources.ledger_lag_rows()})
    yield _gauge(families.LEDGER_WRITABLE, {(): int(sources.ledger_writable())})
    yield from collect_writer(sources.ledger_writer)
    disks = sources.disks()
    yield _gauge(families.DISK_FREE, {(path,): free for path, (free, _) in disks.items()})
    yield _gauge(families.DISK_SIZE, {(path,): size for path, (_, size) in disks.items()})
    yield _gauge(families.BUILD, {(version,): 1})
    yield _gauge(families.POLICY, {(sources.policy_version(),): 1})
    yield _counters(families.ENTITY_LOOKS, counted.entity_looks)
    yield _counters(families.TRACE_SPANS, counted.trace_spans)
    yield _counters(families.RELOADS, counted.reloads)
    yield _gauge(families.RELOAD_OK, {(): int(counted.reload_ok)})
    yield _gauge(families.RELOAD_TIME, {(): counted.reloaded_at})
    yield _counters(families.LOG_LINES_LOST, {(): sources.log_lines_lost()})
    yield from collect_ports(sources.ports)
    yield _gauge(families.EVENT_LOOP_TASKS, {(): sources.event_loop_tasks()})
    yield from collect_tasks(sources.tasks, sources.ledger_writer)


def _with_shed(counted: SeriesByLabels, shed: int) -> tuple[dict[tuple[str, ...], int], dict[str, int]]:
    """Refused requests by their labels and by code, with those that were refused before anybody read them."""
    if not shed:
        return counted.requests_refused, counted.refusals
    refused = dict(counted.requests_refused)
    _add(refused, (NONE, NONE, NONE, NONE, REFUSED), shed)
    return refused, counted.refusals | {Overloaded.code: shed}


def collect_ports(ports: Sequence[PortState]) -> Iterator[Metric]:
    """The families of the ports' connections."""
    yield _gauge(families.CONNECTIONS, {(port.name,): len(port.connections) for port in ports})
    yield _gauge(families.MOST_CONNECTIONS, {(port.name,): port.most_connections for port in ports})
    yield _counters(families.CONNECTIONS_TAKEN, {(port.name,): port.accepted for port in ports})
    yield _counters(families.CONNECTIONS_EVICTED, {(port.name,): port.evicted for port in ports})
    pauses: dict[tuple[str, ...], int] = {
        (port.name, reason): count for port in ports for reason, count in port.pauses.items()
    }
    yield _counters(families.ACCEPTING_PAUSED, pauses)


def collect_writer(writer: WriterProcess | None) -> Iterator[Metric]:
    """The families of the process that writes the ledger; empty where somebody else runs it."""
    up: dict[tuple[str, ...], float] = {} if writer is None else {(): int(writer.is_up)}
    restarts: dict[tuple[str, ...], float] = {} if writer is None else {(): writer.restarts}
    yield _gauge(families.LEDGER_WRITER_UP, up)
    yield _counters(families.LEDGER_WRITER_RESTARTS, restarts)
    yield _histograms(families.LEDGER_COMMIT, {} if writer is None else {(): writer.counts.commits})


def collect_refusal_limits(counts: Mapping[str, int]) -> Metric:
    """The family of refusals that were not answered at once, by what came of them."""
    return _counters(families.REFUSALS_LIMITED, {(result,): count for result, count in counts.items()})


def collect_tasks(tasks: TaskRegistry, writer: WriterProcess | None) -> Iterator[Metric]:
    """The families of background loops, those of the ledger's writer among them."""
    up, failures = tasks.up(), dict(tasks.failures)
    if writer is not None:
        up |= writer.counts.up
        failures |= writer.counts.failures
    yield _gauge(families.TASK_UP, {(name,): int(is_up) for name, is_up in up.items()})
    yield _counters(families.TASK_FAILURES, {(name,): count for name, count in failures.items()})


def _attempts(series: Mapping[tuple[str, str, str, str], AttemptSeries]) -> Iterator[Metric]:
    """Series of attempts differ in more labels than each family has: their integers are added up first."""
    attempts: dict[tuple[str, ...], int] = {}
    tokens: dict[tuple[str, ...], int] = {}
    cost: dict[tuple[str, ...], int] = {}
    flagged: dict[tuple[str, ...], int] = {}
    elsewhere: dict[tuple[str, ...], int] = {}
    for (deployment, feature, team, outcome), one in series.items():
        _add(attempts, (deployment, outcome), one.attempts)
        _add(cost, (deployment, feature, team), one.cost_nano)
        for kind, modality, count in one.tokens():
            if count:
                _add(tokens, (deployment, feature, kind, modality), count)
        for flag in FLAGS:  # zeros too: the increase from nothing to one could not be seen
            _add(flagged, (deployment, flag), one.flags.get(flag, 0))
        for other, nano in one.counterfactual_nano.items():
            _add(elsewhere, (feature, other), nano)
    yield _counters(families.ATTEMPTS, attempts)
    yield _counters(families.TOKENS, tokens)
    yield _counters(families.FLAGGED, flagged)
    yield _counters(families.COST, _in_usd(cost))
    yield _counters(families.COUNTERFACTUAL, _in_usd(elsewhere))


def _accounts_rejected(series: Mapping[tuple[str, str, str, str], AttemptSeries], fleet: Fleet) -> Metric:
    """Each deployment has a series from the beginning: of one that begins at 1 no increase is seen."""
    rejected: dict[tuple[str, ...], int] = {(name,): 0 for name in fleet.replica_sets}
    for (deployment, _, _, outcome), one in series.items():
        if outcome == Outcome.ACCOUNT_REJECTED:
            _add(rejected, (deployment,), one.attempts)
    return _counters(families.ACCOUNT_REJECTED, rejected)


def _add(into: dict[tuple[str, ...], int], labels: tuple[str, ...], amount: int) -> None:
    into[labels] = into.get(labels, 0) + amount


def _in_usd(nano: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], float]:
    """The only division of money. Below 2**51 nano-USD the printed quotient reads back exactly."""
    return {labels: amount / NANO_PER_USD for labels, amount in nano.items()}


def _budget_refusals(views: Iterable[BudgetView], counted: Mapping[tuple[str, ...], int]) -> Metric:
    # From 0 for every budget: of a series that begins with 1, Prometheus would not see the first refusal.
    none = {(*_budget_labels(view), reason): 0 for view in views for reason in REFUSAL_REASONS}
    return _counters(families.BUDGET_REFUSALS, none | dict(counted))


def _budget_labels(view: BudgetView) -> tuple[str, str, str]:
    return view.kind, view.name, f"rolling_{view.per}" if view.rolling else str(view.per)


def _budgets(views: Iterable[BudgetView]) -> Iterator[Metric]:
    amounts: dict[Family, dict[tuple[str, ...], int]] = {
        families.BUDGET_LIMIT: {},
        families.BUDGET_SPENT: {},
        families.BUDGET_HELD: {},
        families.BUDGET_UNSEEN: {},
    }
    for view in views:
        labels = _budget_labels(view)
        amounts[families.BUDGET_LIMIT][labels] = view.limit_nano
        amounts[families.BUDGET_SPENT][labels] = view.spent_nano
        amounts[families.BUDGET_HELD][labels] = view.held_nano
        amounts[families.BUDGET_UNSEEN][labels] = view.unseen_nano
    for family, nano in amounts.items():
        yield _gauge(family, _in_usd(nano))


def _replicas(fleet: Fleet, monotonic: float) -> Iterator[Metric]:
    up: dict[tuple[str, ...], int] = {}
    busy: dict[tuple[str, ...], int] = {}
    barred: dict[tuple[str, ...], int] = {}
    in_flight: dict[tuple[str, ...], int] = {}
    for deployment, pool in fleet.replica_sets.items():
        for state in pool.replicas:
            labels = (deployment, state.replica.name)
            # Two servers may differ in their path only: one name then stands for both, and shows the worse.
            up[labels] = min(up.get(labels, 1), int(state.available(monotonic)))
            busy[labels] = max(busy.get(labels, 0), int(state.busy_until > monotonic))
            _add(barred, labels, state.breaker.barred_keys(monotonic))
            _add(in_flight, labels, state.in_flight)
    yield _gauge(families.REPLICA_UP, up)
    yield _gauge(families.REPLICA_BUSY, busy)
    yield _gauge(families.REPLICA_BARRED_KEYS, barred)
    yield _gauge(families.REPLICA_INFLIGHT, in_flight)


def _pools(counted: SeriesByLabels) -> Iterator[Metric]:
    seconds = {labels: amount / 1_000_000 for labels, amount in counted.pool_gpu_microseconds.items()}
    yield _counters(families.POOL_COST, _in_usd(counted.pool_cost))
    yield _counters(families.POOL_GPU_SECONDS, seconds)
    yield _gauge(families.POOL_UTILISATION, counted.pool_utilisation)
    yield _gauge(families.POOL_EFFECTIVE, _in_usd(counted.pool_effective))


def _typical_outputs(fleet: Fleet) -> Metric:
    sizes: dict[tuple[str, ...], int] = {
        (feature, model, str(is_capped).lower()): tokens
        for feature, model, is_capped, tokens in fleet.output_sizes.learned()
    }
    return _gauge(families.TYPICAL_OUTPUT, sizes)


def _retirements(fleet: Fleet, now: float) -> Metric:
    days: dict[tuple[str, ...], float] = {
        (name,): (pool.deployment.retires_at - now) / SECONDS_PER_DAY
        for name, pool in fleet.replica_sets.items()
        if pool.deployment.retires_at is not None
    }
    return _gauge(families.RETIRES, days)


def _counters(family: Family, values: Mapping[tuple[str, ...], float]) -> Metric:
    metric = family.counter()
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric


def _gauge(family: Family, values: Mapping[tuple[str, ...], float]) -> Metric:
    metric = family.gauge()
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric


def _histograms(family: Family, values: Mapping[tuple[str, ...], Histogram]) -> Metric:
    metric = family.histogram()
    for labels, histogram in values.items():
        metric.add_metric(labels, histogram.buckets(), histogram.total)
    return metric
