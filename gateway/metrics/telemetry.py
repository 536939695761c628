"""The Telemetry port for Prometheus. Each call on the request path finds its series at its candidate.

prometheus_client's own counters take a lock and 1-2 us a sample, and a request makes about fifteen samples;
so the numbers are kept here, and prometheus_client only reads them at a scrape. All calls, scrapes included,
come on the event loop's thread.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest

from gateway.core.ended import Ended
from gateway.core.errors import BudgetExceeded, GatewayError, LimitExceeded
from gateway.core.histogram import Histogram
from gateway.core.pool_cost import PoolSpan
from gateway.core.record import Outcome
from gateway.core.refused_request import code_of
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal
from gateway.dialects.table import HELD_BACK
from gateway.metrics.across import FamilySamples, samples_of
from gateway.metrics.families import FAMILIES
from gateway.metrics.names import NONE, OTHER, LabelNames
from gateway.metrics.scrape import HELD, REFUSED, USED, ScrapeSources, SeriesByLabels, collect
from gateway.metrics.series import (
    FIRST_TOKEN_SECONDS,
    INTER_TOKEN_SECONDS,
    OVERHEAD_SECONDS,
    REQUEST_SECONDS,
    AttemptSeries,
    RequestSeries,
)
from gateway.ports import Clock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# A scope is `kind:name`. The upstream is not a scope of ours, but its 429 reaches the client in the same way.
_SCOPES = frozenset({"key", "feature", "team", "org", "upstream"})


class _Snapshot:
    """What a registry collected, as generate_latest reads it."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


class PrometheusTelemetry:
    """Implements the Telemetry port, and the Collector of its own registry.

    Series of names that a new configuration no longer has stay, so that counters never go back.
    """

    def __init__(
        self,
        *,
        names: LabelNames,
        sources: ScrapeSources,
        clock: Clock,
        version: str,
        registry: CollectorRegistry | None = None,
        budget_refused: Callable[[BudgetExceeded], None] = lambda _: None,
    ) -> None:
        """`budget_refused` hears of each request that a budget refused."""
        self._budget_refused = budget_refused
        self._names = names
        self._sources = sources
        self._clock = clock
        self._version = version
        self._counted = SeriesByLabels(overhead=Histogram(OVERHEAD_SECONDS))
        self._counted.reloaded_at = clock.now()
        self._requests: dict[tuple[str, str, str, str, str, bool], RequestSeries] = {}
        self.registry = CollectorRegistry() if registry is None else registry
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def configure(self, names: LabelNames) -> None:
        """Take over the names of a new configuration."""
        self._names = names

    # --- the request path ---

    def planned(self, sent: Sent, overhead_seconds: float) -> None:
        key: tuple[str, ...] = (sent.model.name, sent.candidate.deployment.name, sent.decision)
        counted = self._counted
        decisions = counted.decisions
        if key not in decisions:
            key = (self._names.model(key[0]), self._names.deployment(key[1]), sent.decision)
            decisions.setdefault(key, 0)
        decisions[key] += 1
        overhead = counted.overhead
        # `Histogram.observe` written out.
        overhead.counts[bisect_left(overhead.bounds, overhead_seconds)] += 1
        overhead.total += overhead_seconds

    def attempted(self, sent: Sent, ended: Ended) -> None:
        candidate, outcome = sent.candidate, ended.outcome
        series: AttemptSeries = candidate.series.get(outcome) or self._attempt_series(sent, outcome)
        series.attempts += 1
        series.cost_nano += ended.cost_nano
        usage = ended.usage
        series.input_text += usage.input_text
        series.output_text += usage.output_text
        if usage.others:
            series.add_others(usage)
        if ended.flags:
            series.add_flags(ended.flags)
        if sent.changed:
            self._fields_dropped(sent)
        elsewhere = series.counterfactual_nano
        for name, nano in zip(candidate.others, ended.other_costs, strict=True):
            if name in elsewhere:
                elsewhere[name] += nano
            else:
                self._add_elsewhere(elsewhere, name, nano)

    def answered(self, sent: Sent, ended: Ended, seconds: float) -> None:
        stream = sent.call.stream
        key = (ended.outcome, stream)
        series: RequestSeries = sent.candidate.series.get(key) or self._request_series(sent, *key)
        series.requests += 1
        duration = series.duration
        duration.counts[bisect_left(duration.bounds, seconds)] += 1
        duration.total += seconds
        ttft_ms = ended.ttft_ms
        # A whole answer comes at once: its first token tells nothing that the duration does not.
        if not stream or ttft_ms is None:
            return
        series.first_token.observe(ttft_ms * 0.001)
        # Tokens that the client never sees have no gap between them.
        gaps = ended.usage.visible_tokens - 1
        if gaps > 0:
            series.inter_token.observe((ended.duration_ms - ttft_ms) * 0.001 / gaps)

    def refused(self, error: GatewayError, principal: Principal | None, model: str | None) -> None:
        names, counted = self._names, self._counted
        code = code_of(error)
        counted.refusals[code] = counted.refusals.get(code, 0) + 1
        feature = names.feature(principal.feature if principal else None)
        team = names.team(principal.team if principal else None)
        key = (names.model(model), NONE, feature, team, REFUSED)
        counted.requests_refused[key] = counted.requests_refused.get(key, 0) + 1
        if isinstance(error, LimitExceeded | BudgetExceeded):
            kind = error.scope.partition(":")[0]
            limit = (kind if kind in _SCOPES else OTHER, error.limit)
            counted.limit_rejections[limit] = counted.limit_rejections.get(limit, 0) + 1
        if isinstance(error, BudgetExceeded):
            kind, _, name = error.scope.partition(":")
            budget = (kind, name, error.window, HELD if error.only_held else USED)
            counted.budget_refusals[budget] = counted.budget_refusals.get(budget, 0) + 1
            self._budget_refused(error)

    def dialect_learned(self, deployment: str, field: str) -> None:
        key = (self._names.deployment(deployment), field)
        counted = self._counted.dialect_learned
        counted[key] = counted.get(key, 0) + 1

    # --- limits and budgets, beside the Telemetry port ---

    def shadowed(self, scope: str, limit: str) -> None:
        """A limit in shadow mode would have refused; `scope` is `kind:name`."""
        key = (scope.partition(":")[0], limit)
        counted = self._counted.shadow_rejections
        counted[key] = counted.get(key, 0) + 1

    def budget_alerted(self, kind: str, name: str, window: str, percent: int) -> None:
        """A budget has reached `percent` of its limit."""
        key = (kind, name, window, str(percent))
        counted = self._counted.budget_alerts
        counted[key] = counted.get(key, 0) + 1

    def entities_looked_for(self, result: str) -> None:
        """The second stage of detection has looked at a text, or could not."""
        counted = self._counted.entity_looks
        counted[result,] = counted.get((result,), 0) + 1

    def spans_ended(self, result: str, count: int) -> None:
        """So many spans of traces were exported, dropped or refused (`result`)."""
        counted = self._counted.trace_spans
        counted[result,] = counted.get((result,), 0) + count

    # --- pools of own GPUs ---

    def pool_booked(self, spans: Iterable[PoolSpan]) -> None:
        """This process has booked what pools cost; all processes together count all of it, once."""
        cost, gpu_time = self._counted.pool_cost, self._counted.pool_gpu_microseconds
        for span in spans:
            key = (self._names.deployment(span.deployment),)
            cost[key] = cost.get(key, 0) + span.nano_usd
            gpu_time[key] = gpu_time.get(key, 0) + span.gpu_microseconds

    def pool_measured(
        self, utilisation: Mapping[str, float], nano_usd_per_million_tokens: Mapping[str, int]
    ) -> None:
        """How the pools of which that is known were used of late, by deployment."""
        name = self._names.deployment
        self._counted.pool_utilisation = {(name(key),): one for key, one in utilisation.items()}
        self._counted.pool_effective = {(name(key),): one for key, one in nano_usd_per_million_tokens.items()}

    # --- the configuration ---

    def reloaded(self, result: str, *, in_force: bool) -> None:
        """A reload ended; `in_force`: what the file says is what serves."""
        counted = self._counted
        counted.reloads[result,] = counted.reloads.get((result,), 0) + 1
        counted.reload_ok = in_force
        if in_force:
            counted.reloaded_at = self._clock.now()

    # --- a scrape ---

    async def exposition(self) -> bytes:
        """Everything in Prometheus' text format, of content type CONTENT_TYPE.

        The numbers are read at one moment, here; putting them into words takes longer than a stream should
        wait for its next token (25 ms for 4,000 samples), so a thread does that.
        """
        snapshot = _Snapshot(list(self.registry.collect()))
        return await asyncio.to_thread(generate_latest, snapshot)

    def samples(self) -> list[FamilySamples]:
        """The same numbers, to be added up with those of other workers."""
        return samples_of(self.registry.collect())

    def collect(self) -> Iterator[Metric]:
        """Every family of FAMILIES, for the registry."""
        return collect(self._counted, self._sources, self._clock, self._version)

    def describe(self) -> Iterator[Metric]:
        """Names only, so that registering reads no source."""
        return (family.empty() for family in FAMILIES)

    def _fields_dropped(self, sent: Sent) -> None:
        deployment, counted = self._names.deployment(sent.candidate.name), self._counted.fields_dropped
        for field in HELD_BACK.intersection(sent.changed):
            key = (deployment, field)
            counted[key] = counted.get(key, 0) + 1

    # --- the first time that a combination of names is seen ---

    def _add_elsewhere(self, elsewhere: dict[str, int], name: str, nano: int) -> None:
        deployment = self._names.deployment(name)
        elsewhere[deployment] = elsewhere.get(deployment, 0) + nano

    def _attempt_series(self, sent: Sent, outcome: Outcome) -> AttemptSeries:
        names, payer, attempts = self._names, sent.principal, self._counted.attempts
        deployment = sent.candidate.name
        # What was counted under a name goes on there, also where a new configuration lacks it.
        series = attempts.get((deployment, payer.feature, payer.team, str(outcome)))
        if series is None:
            # Unknown names share a series: memory stays bounded.
            payers = names.feature(payer.feature), names.team(payer.team)
            labels = (names.deployment(deployment), *payers, str(outcome))
            series = attempts.setdefault(labels, AttemptSeries())
        sent.candidate.series[outcome] = series
        return series

    def _request_series(self, sent: Sent, outcome: Outcome, stream: bool) -> RequestSeries:
        names, counted, payer = self._names, self._counted, sent.principal
        as_named = (sent.model.name, sent.candidate.name, payer.feature, payer.team, str(outcome))
        deployment = names.deployment(sent.candidate.name)
        payers = names.feature(payer.feature), names.team(payer.team)
        labels = (names.model(sent.model.name), deployment, *payers, str(outcome))
        series = self._requests.get((*as_named, stream)) or self._requests.get((*labels, stream))
        if series is None:
            streamed = "true" if stream else "false"
            series = self._requests[*labels, stream] = RequestSeries(
                _histogram(counted.duration, (deployment, streamed), REQUEST_SECONDS),
                _histogram(counted.first_token, (deployment,), FIRST_TOKEN_SECONDS),
                _histogram(counted.inter_token, (deployment,), INTER_TOKEN_SECONDS),
            )
            counted.requests.setdefault(labels, []).append(series)
        sent.candidate.series[outcome, stream] = series
        return series


def _histogram(
    into: dict[tuple[str, ...], Histogram], labels: tuple[str, ...], bounds: tuple[float, ...]
) -> Histogram:
    return into.setdefault(labels, Histogram(bounds))
