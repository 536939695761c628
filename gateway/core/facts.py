"""What the conditions of rules see of a request; each fact is worked out when a condition asks for it."""

import datetime
from collections.abc import Callable, Mapping
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.balancing import Fleet
from gateway.core.call import MAX_TAG_LENGTH, MAX_TAGS, Call
from gateway.core.pricing import NO_VERSIONS, PriceBook
from gateway.core.tenancy import Principal

# The names within the variables that are maps with fixed names. Those of `pool` are the deployments.
TIME_NAMES = ("year", "month", "day", "weekday", "hour", "minute", "days_left")
BUDGET_NAMES = ("used",)
POOL_NAMES = ("outstanding", "available", "replicas")


def no_header(_: bytes) -> str | None:
    """The headers of a request that has none."""
    return None


class Moment(msgspec.Struct, frozen=True):
    """The circumstances of one decision: clock (UTC seconds and monotonic), and lazily read facts.

    `header` gives a header of the request by its name in lower case. `unit` is told for a request of the past
    only, whose session and user are not known any more.
    """

    now: float
    monotonic: float
    random: float
    budget_used: Callable[[], float]
    local_time: Callable[[], Mapping[str, int]]
    prices: PriceBook = NO_VERSIONS
    header: Callable[[bytes], str | None] = no_header
    unit: str | None = None


class Facts(dict[str, object]):
    """Variables of rules by name."""

    __slots__ = ("call", "fleet", "moment", "principal", "privacy")

    def __init__(self, call: Call, principal: Principal, privacy: str, moment: Moment, fleet: Fleet) -> None:
        super().__init__()
        self.call = call
        self.principal = principal
        self.privacy = privacy
        self.moment = moment
        self.fleet = fleet

    def __missing__(self, name: str) -> object:
        value = self[name] = _FACTS[name](self)
        return value

    def pools(self) -> dict[str, dict[str, int]]:
        now = self.moment.monotonic
        return {
            name: {
                "outstanding": replica_set.in_flight,
                "available": sum(state.available(now) for state in replica_set.replicas),
                "replicas": len(replica_set.replicas),
            }
            for name, replica_set in self.fleet.replica_sets.items()
        }


_FACTS: Mapping[str, Callable[[Facts], object]] = {
    "model": lambda facts: facts.call.model,
    "feature": lambda facts: facts.principal.feature,
    "team": lambda facts: facts.principal.team,
    "key": lambda facts: facts.principal.key,
    "privacy": lambda facts: facts.privacy,
    "modalities": lambda facts: [str(item) for item in facts.call.modalities],
    "tools": lambda facts: "tools" in facts.call.needs,
    "stream": lambda facts: facts.call.stream,
    "prompt_tokens": lambda facts: facts.call.prompt_tokens,
    "max_output_tokens": lambda facts: facts.call.max_output or 0,
    "tags": lambda facts: dict(tags_of(facts.call, facts.moment.header(b"x-tollway-tags"))),
    "budget": lambda facts: {"used": facts.moment.budget_used()},
    "pool": lambda facts: facts.pools(),
    "time": lambda facts: dict(facts.moment.local_time()),
}
VARIABLES = tuple(_FACTS)


def local_time(now: float, zone: ZoneInfo) -> dict[str, int]:
    """The variable `time` at `now` (UTC seconds): weekday 1 is Monday; no days are left on a month's last."""
    local = datetime.datetime.fromtimestamp(now, zone)
    next_month = (local.replace(day=28) + datetime.timedelta(days=4)).replace(day=1)
    return {
        "year": local.year,
        "month": local.month,
        "day": local.day,
        "weekday": local.isoweekday(),
        "hour": local.hour,
        "minute": local.minute,
        "days_left": (next_month.date() - local.date()).days - 1,
    }


def tags_of(call: Call, header: str | None) -> Mapping[str, str]:
    """Tags of the `x-tollway-tags: k=v,...` header over those of the body's `metadata`."""
    if header is None:
        return call.tags
    tags = dict(call.tags)
    for pair in header.split(",")[:MAX_TAGS]:
        name, found, value = pair.partition("=")
        if found and name.strip():
            tags[name.strip()[:MAX_TAG_LENGTH]] = value.strip()[:MAX_TAG_LENGTH]
    return tags
