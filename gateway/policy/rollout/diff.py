"""Two policies over the traffic of the past: which requests would go elsewhere, and what that would change.

Rows are streamed; requests that no rule and no constraint can tell apart are evaluated once. Money and tokens
are those that were recorded, at the prices of each policy: how long another model's answers would have been
nobody knows.
"""

import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TypeVar

import msgspec

from gateway.config.build import Built
from gateway.core.catalog import Model, Objective
from gateway.core.record import RecordedFacts
from gateway.core.usage import Usage, usage_of
from gateway.ledger.past_attempts import PastAttempt, reading_past
from gateway.ledger.price_versions import read_prices
from gateway.ledger.spans import Span
from gateway.policy.rollout.equivalence import View, draws_of, views_of
from gateway.policy.rollout.replay import Outcome, ReplayEvaluator, RoutedTo, Unknown, past_request

_HOUR = 3600 * 1_000_000
# What is remembered of requests that were evaluated; then it begins anew, so that memory stays bounded.
MOST_REMEMBERED = 200_000

NOT_RECORDED = "its row is from before these facts were kept"

_facts_of = msgspec.json.Decoder(RecordedFacts).decode


class Verdict(msgspec.Struct, frozen=True):
    """What both policies do with a request."""

    old: Outcome
    new: Outcome

    @property
    def unknown(self) -> str | None:
        """Why it cannot be evaluated; None when it can."""
        for outcome in (self.new, self.old):
            if isinstance(outcome, Unknown):
                return outcome.reason
        return None


class Tally(msgspec.Struct):
    """Requests with one verdict, in one hour, of one feature and service tier, and what they used."""

    requests: int = 0
    otherwise: int = 0
    recorded_nano: int = 0
    input_text: int = 0
    output_text: int = 0
    others: dict[str, int] = {}

    @property
    def usage(self) -> Usage:
        return usage_of({"input_text": self.input_text, "output_text": self.output_text, **self.others})


class Cell(msgspec.Struct, frozen=True):
    """What a tally is kept for. `hour` counts from 1970 in UTC.

    `above`: each request read more tokens than this, and no more than the next size at which a price changes.
    """

    feature: str
    verdict: Verdict
    tier: str | None
    hour: int
    above: int = 0


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A span of the ledger under both policies. `attempts` are all rows that were read."""

    old: ReplayEvaluator
    new: ReplayEvaluator
    cells: dict[Cell, Tally]
    not_judged: dict[str, int]
    attempts: int


Advance = Callable[[int, int], None]
Remembered = TypeVar("Remembered")


def replay(url: str, old: Built, new: Built, span: Span, advance: Advance) -> Replayed:
    """Every attempt of `span` in the ledger at `url` under both, as if they were asked now.

    `advance` is told how many rows of how many are done. Raises LedgerUnavailable.
    """
    prices, now = read_prices(url), time.time()
    with reading_past(url, span) as past:
        latest = past.latest()
        before = ReplayEvaluator(old, old, prices, latest, now)
        after = ReplayEvaluator(new, old, prices, latest, now)
        replaying = _Replay(before, after)
        total, done = past.count(), 0
        for batch in past.attempts():
            for row in batch:
                replaying.take(PastAttempt._make(row))
            done += len(batch)
            advance(done, total)
    return Replayed(
        old=before,
        new=after,
        cells=replaying.cells,
        not_judged=dict(replaying.not_judged),
        attempts=done,
    )


class _VerdictsBySize:
    """Verdicts on requests that differ in nothing but their size, by size.

    Prompts that grow make deployments too small one after the other, and make one of two dearer than the
    other at one size only. So where the verdict on a smaller and a larger one is the same, with the same
    candidates in the same order, it is the same in between.
    """

    __slots__ = ("_found", "_shapes", "_sizes")

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._shapes: list[Hashable] = []
        self._found: list[Verdict] = []

    def find(self, size: int, *, between: bool) -> Verdict | None:
        """`between`: also where only a smaller and a larger one are known."""
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes):
            return None
        if self._sizes[at] == size or (between and at and self._shapes[at - 1] == self._shapes[at]):
            return self._found[at]
        return None

    def add(self, size: int, shape: Hashable, verdict: Verdict) -> None:
        at = bisect_left(self._sizes, size)
        self._sizes.insert(at, size)
        self._shapes.insert(at, shape)
        self._found.insert(at, verdict)
        for middle in (at + 1, at - 1):  # one between two that are alike is of no use any more
            if 0 < middle < len(self._sizes) - 1 and len(set(self._shapes[middle - 1 : middle + 2])) == 1:
                del self._sizes[middle], self._shapes[middle], self._found[middle]


class _RelevantFacts(msgspec.Struct, frozen=True):
    """What is to be looked at of the requests to one model."""

    views: tuple[View, ...]
    units: bool  # some shares keep sessions and users together
    draws: bool  # some do not
    edges: tuple[float, ...] | None  # draws between two of these are alike; None: all of them differ


class _Replay:
    def __init__(self, old: ReplayEvaluator, new: ReplayEvaluator) -> None:
        self._old = old
        self._new = new
        self._relevant_facts: dict[str, _RelevantFacts] = {}
        self._equivalent_principals: dict[tuple[str, str, str], Hashable] = {}
        self._rules: dict[Hashable, Hashable] = {}
        self._plans: dict[Hashable, _VerdictsBySize] = {}
        self._verdicts: dict[Verdict, Verdict] = {}  # each once, so that its id stands for it
        self._tally_of: dict[Hashable, Tally] = {}
        bands = old.bands | new.bands
        self._bands = sorted(bands | {-1, 0}) if bands else []
        self.cells: dict[Cell, Tally] = {}
        self.not_judged: defaultdict[str, int] = defaultdict(int)

    def take(self, row: PastAttempt) -> None:
        """Count one attempt. A request counts with its first one; what later ones used counts with it."""
        is_request = row.attempt_id.endswith(":1")
        facts = _facts_of(row.facts)
        if not facts.text_bytes:
            self.not_judged[NOT_RECORDED] += is_request
            return
        verdict = self._verdict(row, facts)
        unknown = verdict.unknown
        if unknown is not None:
            self.not_judged[unknown] += is_request
            return
        self._add(row, verdict, is_request)

    def _verdict(self, row: PastAttempt, facts: RecordedFacts) -> Verdict:
        relevant = self._relevant_facts.get(row.model) or self._find_relevant(row.model)
        kind = self._kind(row, facts)
        seen = (kind, *[view(row, facts) for view in relevant.views])
        rules = self._rules.get(seen)
        if rules is None:
            rules = self._remember(self._rules, seen, self._matched(row, facts))
        plan = (kind, rules, _share(facts, relevant))
        by_size = self._plans.get(plan)
        if by_size is None:
            by_size = self._remember(self._plans, plan, _VerdictsBySize())
        return by_size.find(facts.text_bytes, between=not self._bands) or self._evaluate(row, facts, by_size)

    @staticmethod
    def _remember(memory: dict[Hashable, Remembered], key: Hashable, value: Remembered) -> Remembered:
        if len(memory) >= MOST_REMEMBERED:
            memory.clear()
        memory[key] = value
        return value

    def _kind(self, row: PastAttempt, facts: RecordedFacts) -> Hashable:
        """What the constraints and the objectives look at, but for the size."""
        who = (row.key, row.feature, row.model)
        alike = self._equivalent_principals.get(who)
        if alike is None:
            alike = self._equivalent_principals[who] = (
                self._old.principal_class(*who),
                self._new.principal_class(*who),
            )
        return (
            row.model,
            alike,
            row.endpoint,
            row.privacy,
            row.modalities,
            facts.max_output,
            facts.choices,
            facts.prompts,
            facts.needs,
            facts.media if facts.media.bytes else None,
            facts.named,
            facts.finds,
            _down(facts) if facts.pools else None,
        )

    def _find_relevant(self, name: str) -> _RelevantFacts:
        models = [(side.model(name), side.zone) for side in (self._old, self._new)]
        present = [(model, zone) for model, zone in models if model is not None]
        shares = [way for model, _ in present for way in _shares(model)]
        edges = [draws_of(weights) for weights, _ in shares]
        retired = self._old.has_retired or self._new.has_retired  # then shares are handed on
        relevant = self._relevant_facts[name] = _RelevantFacts(
            views=views_of(present),
            units=any(sticky for _, sticky in shares),
            draws=not all(sticky for _, sticky in shares),
            edges=None
            if retired or None in edges
            else tuple(sorted({edge for found in edges if found is not None for edge in found})),
        )
        return relevant

    def _matched(self, row: PastAttempt, facts: RecordedFacts) -> Hashable:
        request = past_request(row, facts)
        return self._old.rules(request), self._new.rules(request)

    def _evaluate(self, row: PastAttempt, facts: RecordedFacts, by_size: _VerdictsBySize) -> Verdict:
        request = past_request(row, facts)
        old, new = self._old.evaluate(request), self._new.evaluate(request)
        combined = Verdict(old.outcome, new.outcome)
        verdict = self._verdicts.setdefault(combined, combined)
        by_size.add(facts.text_bytes, (verdict, old.shape, new.shape), verdict)
        return verdict

    def _add(self, row: PastAttempt, verdict: Verdict, is_request: bool) -> None:
        usage, above = row.usage, 0
        if self._bands:
            above = self._bands[bisect_left(self._bands, usage.input_tokens) - 1]
        cell = (row.feature, id(verdict), row.service_tier, row.at // _HOUR, above)
        tally = self._tally_of.get(cell)
        if tally is None:
            tally = self._tally_of[cell] = Tally()
            self.cells[Cell(row.feature, verdict, row.service_tier, row.at // _HOUR, above)] = tally
        if is_request:
            tally.requests += 1
            if row.policy_version == self._old.version and verdict.old != RoutedTo(row.deployment):
                tally.otherwise += 1
        tally.recorded_nano += row.cost_nano_usd
        tally.input_text += usage.input_text
        tally.output_text += usage.output_text
        for unit, amount in usage.others:
            tally.others[unit] = tally.others.get(unit, 0) + amount


def _shares(model: Model) -> Iterator[tuple[Mapping[str, float], bool]]:
    """The weights that the model or one of its rules has, and whether they are sticky."""
    if model.prefer is Objective.WEIGHTS:
        yield model.weights, model.sticky
    for rule in model.rules.rules if model.rules else ():
        if rule.prefer is Objective.WEIGHTS:
            yield rule.weights, rule.sticky


def _share(facts: RecordedFacts, relevant: _RelevantFacts) -> Hashable:
    """What decides for a request whose model splits its requests."""
    unit = facts.unit if relevant.units else None
    if not relevant.draws and (unit is not None or not relevant.units):
        return unit
    return unit, facts.draw if relevant.edges is None else bisect_right(relevant.edges, facts.draw)


def _down(facts: RecordedFacts) -> Hashable:
    """The pools that had nothing available."""
    return tuple(sorted(name for name, (_, available, _) in facts.pools.items() if not available)) or None
