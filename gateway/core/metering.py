"""From what an upstream reported to what is booked: exactly, as the dearer of two readings, or as too little.

Flags say what a person should look at; they stand in the row, in a metric, and in reports.
"""

from typing import Any

import msgspec

from gateway.core.answer import BROKEN_JSON, Contradictory, Exact, Metered, UnderEstimate
from gateway.core.money import share_out
from gateway.core.rates import Price, Rates
from gateway.core.usage import SEARCH_QUERIES, Usage, is_input, is_output, usage_of
from gateway.core.wire_usage import Counts, Reading, WireUsage, reported_counts

CONTRADICTION = "contradiction"  # counts that cannot all be true: the dearer reading, at most what was held
UNKNOWN_TIER = "unknown_tier"  # the answer names a service tier without a price: at the dearest one
UNPRICED = "unpriced"  # a unit without a price: at the dearest rate
BEYOND_HOLD = "beyond_hold"  # more than was held, or than its caps allow: what they allow is booked
FLAGS = (CONTRADICTION, UNKNOWN_TIER, UNPRICED, BEYOND_HOLD)

_decode = msgspec.json.Decoder().decode
# Members of a choice, or of its message, in which a model writes.
_WRITTEN = (
    "content",
    "text",
    "reasoning",
    "reasoning_content",
    "refusal",
    "tool_calls",
    "function_call",
    "audio",
)


def metered_doubtful(
    reading: Reading, wire: WireUsage, service_tier: str | None, seen: Usage, *, wrote: bool, embeds: bool
) -> Metered:
    """What is to be booked for `reading`, which is not plainly exact.

    `seen` is the estimate for an answer without usage; `wrote`: there is text in it, or there may be.
    """
    usage = reading.usage
    if reading.is_total_only and not embeds:
        # Nobody tells what was read and what was written: writing costs more.
        return Contradictory(Usage(output_text=usage.input_tokens), service_tier, reported_counts(wire))
    if usage.input_tokens and (usage.output_tokens or embeds or not wrote):
        if reading.reported:
            return Contradictory(usage, service_tier, reading.reported)
        return Exact(usage, service_tier, wire=wire)
    # Nothing, zeros or less, and yet there was a prompt, or there is text: a count that is missing.
    return UnderEstimate(with_missing(usage, seen, wrote=wrote), _with_zeros(wire))


def with_missing(usage: Usage, seen: Usage, *, wrote: bool) -> Usage:
    """`usage` with what was `seen`, where it has no prompt, or no answer although there `wrote` somebody."""
    units = usage.units
    if not usage.input_tokens:
        units["input_text"] = seen.input_text
    if not usage.output_tokens and wrote:
        units["output_text"] = seen.output_text
    return usage_of(units)


def _with_zeros(wire: WireUsage) -> Counts:
    return reported_counts(wire) or (("total_tokens", 0),)


class Bounds(msgspec.Struct, frozen=True, gc=False):
    """The most that a hold was taken for: tokens read, tokens written, and searches."""

    read: int
    written: int
    searches: int

    def allow(self, usage: Usage) -> Usage:
        """`usage` itself where it is within them; else cut down to them, each kind of token in proportion."""
        units = usage.units
        searches = units.get(SEARCH_QUERIES, 0)
        if (
            usage.input_tokens <= self.read
            and usage.output_tokens <= self.written
            and searches <= self.searches
        ):
            return usage
        _cut(units, [unit for unit in units if is_input(unit)], self.read)
        _cut(units, [unit for unit in units if is_output(unit)], self.written)
        units[SEARCH_QUERIES] = min(searches, self.searches)
        return usage_of(units)


def _cut(units: dict[str, int], names: list[str], most: int) -> None:
    amounts = [units[name] for name in names]
    if sum(amounts) > most:
        units.update(zip(names, share_out(most, amounts), strict=True))


def reported_by(metered: Metered) -> Counts:
    """The counts as the upstream reported them; of an answer without any nothing."""
    if not isinstance(metered, Exact) and metered.reported:
        return metered.reported
    wire = None if isinstance(metered, Contradictory) else metered.wire
    return () if wire is None else reported_counts(wire)


def writes_text(body: bytes) -> bool:
    """Whether a whole answer has anything that a model wrote."""
    try:
        answer: Any = _decode(body)
    except BROKEN_JSON:
        return True
    choices = answer.get("choices") if isinstance(answer, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, dict) else None
        for place in (choice, message):
            if isinstance(place, dict) and any(place.get(name) for name in _WRITTEN):
                return True
    return False


def flags_of(metered: Metered, price: Price, rates: Rates, usage: Usage) -> str:
    """The flags of what is booked, with commas; "" for none."""
    found = []
    if not isinstance(metered, Exact) and metered.reported:
        found.append(CONTRADICTION)
    if not isinstance(metered, UnderEstimate) and not price.knows(metered.service_tier):
        found.append(UNKNOWN_TIER)
    if any(not rates.knows(unit) for unit, _ in usage.others):
        found.append(UNPRICED)
    return ",".join(found)
