"""A comparison of two policies in numbers: what moves, what is refused, what it costs, what must bear it."""

from collections import Counter, defaultdict
from collections.abc import Callable

import msgspec

from gateway.core.money import NANO_PER_USD
from gateway.policy.rollout.diff import Cell, Replayed, Tally
from gateway.policy.rollout.replay import Outcome, RefusedWith, RoutedTo


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a feature that go to another deployment. Costs are of the same tokens."""

    feature: str
    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    requests: int
    cost_usd_old: float
    cost_usd_new: float


class RefusedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a feature that one policy sends to `deployment` and the other refuses with `code`."""

    feature: str
    deployment: str
    code: str
    requests: int


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy gives a feature or a deployment. The peak is the mean of the fullest hour."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    peak_tokens_per_second: float


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The load of one feature or deployment under each policy."""

    name: str
    old: Load
    new: Load


class NotJudged(msgspec.Struct, frozen=True):
    """Requests that could not be judged, and why."""

    reason: str
    requests: int


class DiffReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `policy diff --format json` prints. Many attributes: each is a member of that object.

    `replayed_otherwise` of the judged requests were recorded under the old version and went elsewhere than it
    sends them in the replay. What decided then (a speed, a failure) is not recorded.
    """

    old_version: str
    new_version: str
    attempts: int
    requests: int
    judged: int
    not_judged: list[NotJudged]
    unchanged: int
    moved: list[Moved]
    refused: list[RefusedGroup]
    admitted: list[RefusedGroup]
    features: list[Change]
    deployments: list[Change]
    cost_usd_recorded: float
    cost_usd_old: float
    cost_usd_new: float
    replayed_otherwise: int


def report(replayed: Replayed) -> DiffReport:
    """`replayed` as a report, the most requests first."""
    tallies = replayed.cells.values()
    judged = sum(tally.requests for tally in tallies)
    not_judged = sorted(replayed.not_judged.items(), key=lambda item: -item[1])
    old, new = _sides(replayed)
    return DiffReport(
        old_version=replayed.old.version,
        new_version=replayed.new.version,
        attempts=replayed.attempts,
        requests=judged + sum(replayed.not_judged.values()),
        judged=judged,
        not_judged=[NotJudged(reason, requests) for reason, requests in not_judged if requests],
        unchanged=sum(n.tally.requests for o, n in zip(old, new, strict=True) if o.outcome == n.outcome),
        moved=_moved(old, new),
        refused=_refusals(old, new),
        admitted=_refusals(new, old),
        features=_changes(old, new, lambda side: side.cell.feature),
        deployments=_changes(old, new, lambda side: side.deployment),
        cost_usd_recorded=_usd(sum(tally.recorded_nano for tally in tallies)),
        cost_usd_old=_usd(sum(side.nano for side in old)),
        cost_usd_new=_usd(sum(side.nano for side in new)),
        replayed_otherwise=sum(tally.otherwise for tally in tallies),
    )


class _Side(msgspec.Struct, frozen=True, gc=False):
    """One tally as one of the policies has it."""

    cell: Cell
    tally: Tally
    outcome: Outcome
    nano: int

    @property
    def deployment(self) -> str | None:
        return self.outcome.deployment if isinstance(self.outcome, RoutedTo) else None

    @property
    def tokens(self) -> tuple[int, int]:
        usage = self.tally.usage
        return (usage.input_tokens, usage.output_tokens) if self.deployment is not None else (0, 0)


_Name = Callable[[_Side], str | None]


def _sides(replayed: Replayed) -> tuple[list[_Side], list[_Side]]:
    old: list[_Side] = []
    new: list[_Side] = []
    for cell, tally in replayed.cells.items():
        for evaluator, outcome, into in (
            (replayed.old, cell.verdict.old, old),
            (replayed.new, cell.verdict.new, new),
        ):
            into.append(
                _Side(cell, tally, outcome, evaluator.cost(outcome, tally.usage, cell.tier, cell.above))
            )
    return old, new


def _moved(old: list[_Side], new: list[_Side]) -> list[Moved]:
    sums: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for before, after in zip(old, new, strict=True):
        source, target = before.deployment, after.deployment
        if source is not None and target is not None and source != target:
            found = sums[before.cell.feature, source, target]
            found[0] += before.tally.requests
            found[1] += before.nano
            found[2] += after.nano
    moved = [
        Moved(
            feature=feature,
            source=source,
            target=target,
            requests=requests,
            cost_usd_old=_usd(nano_old),
            cost_usd_new=_usd(nano_new),
        )
        for (feature, source, target), (requests, nano_old, nano_new) in sums.items()
    ]
    return sorted(moved, key=lambda one: (-one.requests, one.feature))


def _refusals(served: list[_Side], refused: list[_Side]) -> list[RefusedGroup]:
    """What goes somewhere on the one side and is refused on the other, or with another error."""
    sums: Counter[tuple[str, str, str]] = Counter()
    for one, other in zip(served, refused, strict=True):
        if isinstance(other.outcome, RefusedWith) and one.deployment is not None:
            sums[one.cell.feature, one.deployment, other.outcome.code] += one.tally.requests
    return [
        RefusedGroup(feature=feature, deployment=deployment, code=code, requests=requests)
        for (feature, deployment, code), requests in sums.most_common()
    ]


def _changes(old: list[_Side], new: list[_Side], name: _Name) -> list[Change]:
    before, after = _loads(old, name), _loads(new, name)
    nothing = Load(requests=0, input_tokens=0, output_tokens=0, cost_usd=0.0, peak_tokens_per_second=0.0)
    changes = [
        Change(name=one, old=before.get(one, nothing), new=after.get(one, nothing))
        for one in before.keys() | after.keys()
    ]
    return sorted(changes, key=lambda one: (-max(one.old.requests, one.new.requests), one.name))


def _loads(sides: list[_Side], name: _Name) -> dict[str, Load]:
    by_name: defaultdict[str, list[_Side]] = defaultdict(list)
    for side in sides:
        if (found := name(side)) is not None:
            by_name[found].append(side)
    return {found: _load(own) for found, own in by_name.items()}


def _load(sides: list[_Side]) -> Load:
    by_hour: Counter[int] = Counter()
    for side in sides:
        by_hour[side.cell.hour] += sum(side.tokens)
    return Load(
        requests=sum(side.tally.requests for side in sides if side.deployment is not None),
        input_tokens=sum(side.tokens[0] for side in sides),
        output_tokens=sum(side.tokens[1] for side in sides),
        cost_usd=_usd(sum(side.nano for side in sides)),
        peak_tokens_per_second=round(max(by_hour.values(), default=0) / 3600, 3),
    )


def _usd(nano: int) -> float:
    return nano / NANO_PER_USD
