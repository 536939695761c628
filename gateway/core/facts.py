"""What a decision depends on: the facts that conditions of rules see, and those that a row keeps.

Conditions work each fact out when they ask for it. What a row keeps lets another policy be tried on past
traffic. It has never a word of the prompt, and every value is bounded: a client cannot make a row large.
"""

import datetime
import hashlib
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.balancing import Fleet
from gateway.core.call import BYTES_PER_TOKEN, Call
from gateway.core.causes import MediaContent, written
from gateway.core.control_headers import tags_in
from gateway.core.record import PoolState
from gateway.core.screening import Classified
from gateway.core.tenancy import Principal

UNIT_BYTES = 5

# The names within the variables that are maps with fixed names. Those of `pool` are the deployments.
TIME_NAMES = ("year", "month", "day", "weekday", "hour", "minute", "days_left")
BUDGET_NAMES = ("used",)
POOL_NAMES = ("outstanding", "available", "replicas")


class Moment(msgspec.Struct, frozen=True, gc=False):
    """The circumstances of one decision. `now` is UTC seconds, `monotonic` seconds, `random` in [0, 1).

    `budget_used` is the share used of the payer's fullest budget. `headers` are the request's, by their names
    in lower case. `local_at` (UTC seconds) is what the clock of rules showed, where that is not `now`. `unit`
    is told for a request of the past only, whose session and user are not known any more. `counted` are the
    prompt's tokens by deployment, where somebody has counted them.
    """

    now: float
    monotonic: float
    random: float = 0.0
    budget_used: float = 0.0
    headers: Mapping[bytes, bytes] = {}
    local_at: float | None = None
    unit: str | None = None
    counted: Mapping[str, int] | None = None


class Facts(dict[str, object]):
    """Variables of rules by name, each worked out when a condition asks for it."""

    __slots__ = ("call", "fleet", "moment", "principal", "privacy", "zone")

    def __init__(
        self,
        call: Call,
        principal: Principal,
        privacy: str,
        moment: Moment,
        fleet: Fleet,
        zone: datetime.tzinfo,
    ) -> None:
        """`zone` is that of the variable `time`."""
        self.call = call
        self.principal = principal
        self.privacy = privacy
        self.moment = moment
        self.fleet = fleet
        self.zone = zone

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

    def time(self) -> dict[str, int]:
        moment = self.moment
        return local_time(moment.now if moment.local_at is None else moment.local_at, self.zone)


_FACTS: Mapping[str, Callable[[Facts], object]] = {
    "model": lambda facts: facts.call.model,
    "feature": lambda facts: facts.principal.feature,
    "team": lambda facts: facts.principal.team,
    "key": lambda facts: facts.principal.key,
    "privacy": lambda facts: facts.privacy,
    "modalities": lambda facts: [str(item) for item in facts.call.modalities],
    "tools": lambda facts: "tools" in facts.call.needs,
    "stream": lambda facts: facts.call.stream,
    "prompt_tokens": lambda facts: prompt_tokens(facts.call),
    "max_output_tokens": lambda facts: facts.call.max_output or 0,
    "tags": lambda facts: dict(tags_of(facts.call, facts.moment)),
    "budget": lambda facts: {"used": facts.moment.budget_used},
    "pool": lambda facts: facts.pools(),
    "time": lambda facts: facts.time(),
}
VARIABLES = tuple(_FACTS)


def known_of(model: str, principal: Principal) -> dict[str, object]:
    """The variables that are the same for all requests of `principal` to `model`."""
    return {
        "model": model,
        "feature": principal.feature,
        "team": principal.team,
        "key": principal.key,
    }


def prompt_tokens(call: Call) -> int:
    """Estimate of the text's tokens, the same for every deployment."""
    return call.text_bytes // BYTES_PER_TOKEN + 1


def local_time(now: float, zone: datetime.tzinfo) -> dict[str, int]:
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


def tags_of(call: Call, moment: Moment) -> Mapping[str, str]:
    """Tags of the `x-tollway-tags: k=v,...` header over those of the body's `metadata`.

    Raises InvalidRequest for a header that cannot be read.
    """
    header = moment.headers.get(b"x-tollway-tags")
    if header is None:
        return call.tags
    return {**call.tags, **tags_in(header)}


def unit_of(call: Call, principal: Principal, moment: Moment) -> str | None:
    """Who is to stay with one deployment: a session, else a key's user. None: nothing says who it is.

    A short digest, which can be kept: it tells units apart and names nobody.
    """
    if moment.unit is not None:
        return moment.unit
    session = moment.headers.get(b"x-tollway-session")
    if session:
        return digest(f"{principal.key}\0session\0{session.decode('latin-1')}", UNIT_BYTES).hex()
    if call.user is not None:
        return digest(f"{principal.key}\0user\0{call.user}", UNIT_BYTES).hex()
    return None


def digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def needs_text(call: Call) -> str:
    """The capabilities that `call` needs, as a row keeps them."""
    return ",".join(sorted(call.needs)) if call.needs else ""


def finds_text(classified: Classified) -> str:
    """What raised the request to its class, as a row keeps it."""
    if not classified.raised_by:
        return ""
    # The row's column of modalities names its media.
    causes = [item.by for item in classified.raised_by if not isinstance(item.by, MediaContent)]
    return ",".join(sorted(map(written, causes)))


def busy_pools(fleet: Fleet, monotonic: float) -> dict[str, PoolState]:
    """The state of each pool that is not idle and whole."""
    found: dict[str, PoolState] = {}
    for name, replica_set in fleet.replica_sets.items():
        in_flight = available = 0
        replicas = replica_set.replicas
        for state in replicas:
            in_flight += state.in_flight
            # As `state.available`, written out: this runs for every replica of every request.
            if state.is_up and (not state.breaker.is_open or state.breaker.allows(monotonic)):
                available += 1
        if in_flight or available < len(replicas):
            found[name] = (in_flight, available, len(replicas))
    return found
