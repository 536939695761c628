"""From what an upstream reported to what is booked: exactly, as the dearer of two readings, or as too little.

Flags say what a person should look at; they stand in the row, in a metric, and in reports.
"""

from typing import Any

import msgspec

from gateway.core.answer import BROKEN_JSON, Contradictory, Exact, Metered, UnderEstimate
from gateway.core.rates import Price, Rates
from gateway.core.usage import Usage, usage_of
from gateway.core.wire_usage import Counts, Reading, WireUsage, reported_counts

CONTRADICTION = "contradiction"  # counts that cannot all be true: the dearer reading, at most what was held
UNKNOWN_TIER = "unknown_tier"  # the answer names a service tier without a price: at the dearest one
UNPRICED = "unpriced"  # a unit without a price: at the dearest rate
BEYOND_HOLD = "beyond_hold"  # more than any request within its bounds can cost
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
    if reading.reported:
        return Contradictory(usage, service_tier, reading.reported)
    read, written = usage.input_tokens, usage.output_tokens
    if read and (written or embeds or not wrote):
        return Exact(usage, service_tier)
    # Zeros, and yet there was a prompt, or there is text.
    units = usage.units
    if not read:
        units["input_text"] = seen.input_text
    if not written and wrote:
        units["output_text"] = seen.output_text
    return UnderEstimate(usage_of(units), _with_zeros(wire))


def _with_zeros(wire: WireUsage) -> Counts:
    return reported_counts(wire) or (("total_tokens", 0),)


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
