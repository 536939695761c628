"""What the plan of a request depended on and no other column of its row tells: sizes and circumstances.

Kept so that another policy can be tried on past traffic. Never a word of the prompt, and every value is
bounded here: what a client sends cannot make a row large.
"""

from collections.abc import Mapping

import msgspec

from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.causes import MediaContent, written
from gateway.core.facts import Moment
from gateway.core.media import NO_MEDIA, Media
from gateway.core.ordering import unit_of
from gateway.core.screening import Classified
from gateway.core.tenancy import Principal

MOST = 2**53  # exact in JSON everywhere
DIGITS = 6

# Attempts in flight, available replicas, and all replicas of a pool.
PoolState = tuple[int, int, int]


class RecordedFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """`draw` in [0, 1) is what a split by weights went by. `budget` is the share used of the fullest budget.

    `pools` leaves out those that were idle and whole. `text_bytes` 0: nothing of this was recorded.
    `needs` are capabilities in alphabetical order, with commas, as are `finds`: what in the text raised the
    request to its privacy class. `named` is the class of the caller's header. `unit` tells apart whom sticky
    shares keep together.
    """

    text_bytes: int = 0
    max_output: int | None = None
    choices: int = 1
    prompts: int = 1
    needs: str = ""
    media: Media = NO_MEDIA
    named: str = ""
    finds: str = ""
    unit: str | None = None
    draw: float = 0.0
    budget: float = 0.0
    pools: Mapping[str, PoolState] = {}


NOTHING_RECORDED = RecordedFacts()


def recorded_facts(
    call: Call, principal: Principal, classified: Classified, named: str | None, moment: Moment, fleet: Fleet
) -> RecordedFacts:
    """The facts of `call` as it is planned at `moment`. `named` is the class that the caller named."""
    needs = call.needs
    return RecordedFacts(
        text_bytes=call.text_bytes,
        max_output=None if call.max_output is None else min(call.max_output, MOST),
        choices=call.choices,
        prompts=call.prompts,
        needs=",".join(sorted(needs)) if needs else "",
        media=call.media,
        named=named or "",
        finds=_finds(classified),
        unit=unit_of(call, principal, moment),
        draw=round(moment.random, DIGITS),
        budget=round(moment.budget_used(), DIGITS),
        pools=_busy(fleet, moment.monotonic),
    )


def _finds(classified: Classified) -> str:
    if not classified.raised_by:
        return ""
    # The row's column of modalities names its media.
    causes = [item.by for item in classified.raised_by if not isinstance(item.by, MediaContent)]
    return ",".join(sorted(map(written, causes)))


def _busy(fleet: Fleet, monotonic: float) -> dict[str, PoolState]:
    found: dict[str, PoolState] = {}
    for name, replica_set in fleet.replica_sets.items():
        in_flight = available = 0
        for state in replica_set.replicas:
            in_flight += state.in_flight
            available += state.available(monotonic)
        count = len(replica_set.replicas)
        if in_flight or available < count:
            found[name] = (in_flight, available, count)
    return found
