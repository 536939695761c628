"""What one attempt used: a map from unit to amount, with the two units that every answer has as fields.

Units are disjoint: a token is counted in one of them. Names say what they are:
- `input_*`: prompt tokens that were read and neither came from a cache nor went into one.
- `cached_*`: prompt tokens that came from the provider's cache.
- `cache_write`, `cache_write_1h`, ...: prompt tokens that went into it, by lifetime where that is told.
- `output_*`: completion tokens, those that the client never sees included.
- All others are no tokens: `requests`, `search_queries`, `seconds_input`, `images_output`, ...
A unit needs no table and no column: what an upstream counts that nobody knows yet is a unit by its name.
"""

from collections.abc import Mapping

import msgspec

# More than any context window by far; an upstream that reports 10**30 must not end up in a budget.
MAX_TOKENS = 10**9

CACHED = "cached_"
CACHE_WRITE = "cache_write"
REASONING = "output_reasoning"
REQUESTS = "requests"
SEARCH_QUERIES = "search_queries"
# A count of a name that nobody knows, beside the totals.
UNKNOWN = "unknown_"

_INPUT = ("input_", CACHED, CACHE_WRITE)
_OUTPUT = "output_"
_HIDDEN = frozenset({REASONING, "output_rejected_prediction"})
# Units that the ledger's totals tell apart; a row with others has its whole map.
_IN_TOTALS = frozenset({"cached_text", REASONING})
# In this order cached tokens are taken to be of a kind, where the upstream does not tell.
MODALITIES = ("text", "image", "video", "audio")

# The parts of usage up to release 0.1.0, as columns of the ledger still have them.
Columns = tuple[int, int, int, int, int, int, int]


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Amounts by unit. `others` are those beside the two fields, sorted by unit, none of them zero."""

    input_text: int = 0
    output_text: int = 0
    others: tuple[tuple[str, int], ...] = ()

    @property
    def input_tokens(self) -> int:
        """All prompt tokens, those from a cache and into it included."""
        tokens = self.input_text
        for unit, amount in self.others:
            if unit.startswith(_INPUT):
                tokens += amount
        return tokens

    @property
    def output_tokens(self) -> int:
        """All completion tokens, the reasoning ones included."""
        tokens = self.output_text
        for unit, amount in self.others:
            if unit.startswith(_OUTPUT):
                tokens += amount
        return tokens

    @property
    def cached_tokens(self) -> int:
        return sum(amount for unit, amount in self.others if unit.startswith(CACHED))

    @property
    def visible_tokens(self) -> int:
        """Completion tokens that went to the client."""
        if not self.others:
            return self.output_text
        return self.output_tokens - sum(amount for unit, amount in self.others if unit in _HIDDEN)

    @property
    def units(self) -> dict[str, int]:
        """Every unit that is not zero."""
        both = {"input_text": self.input_text, "output_text": self.output_text}
        return {unit: amount for unit, amount in both.items() if amount} | dict(self.others)

    @property
    def needs_map(self) -> bool:
        """Whether the totals of a row (input, cached, output, reasoning) do not tell all of it."""
        return any(unit not in _IN_TOTALS for unit, _ in self.others)

    def plus(self, unit: str, amount: int) -> "Usage":
        return usage_of({**self.units, unit: self.units.get(unit, 0) + amount})

    def with_request(self) -> "Usage":
        """The same of one request that was answered, which counts itself: some prices are for each."""
        if not (self.input_text or self.others) or any(unit == REQUESTS for unit, _ in self.others):
            return self
        return self.plus(REQUESTS, 1)

    def columns(self) -> Columns:
        """Text, image and audio read, the cached part of them; text and audio written, and reasoning.

        What has no column of its own is text, so that the columns add up to all tokens.
        """
        if not self.others:
            return self.input_text, 0, 0, 0, self.output_text, 0, 0
        units = dict(self.others)
        image = units.get("input_image", 0) + units.get("cached_image", 0)
        audio = sum(units.get(unit, 0) for unit in ("input_audio", "cached_audio", "cache_write_audio"))
        spoken, thought = units.get("output_audio", 0), units.get(REASONING, 0)
        text, written = self.input_tokens - image - audio, self.output_tokens - spoken - thought
        return text, image, audio, self.cached_tokens, written, spoken, thought


NO_USAGE = Usage()


def usage_of(units: Mapping[str, int]) -> Usage:
    """The usage of a map from unit to amount."""
    others = tuple(
        (unit, units[unit])
        for unit in sorted(units)
        if units[unit] and unit not in ("input_text", "output_text")
    )
    return Usage(
        input_text=units.get("input_text", 0), output_text=units.get("output_text", 0), others=others
    )


def usage_of_columns(
    text: int, image: int, audio: int, cached: int, written: int, spoken: int, thought: int
) -> Usage:
    """The usage that columns tell. Cached tokens are taken to be text first, then image, then audio."""
    units = {"output_text": written, "output_audio": spoken, REASONING: thought}
    return usage_of(units | cached_parts({"text": text, "image": image, "audio": audio}, cached))


def cached_parts(read: Mapping[str, int], cached: int) -> dict[str, int]:
    """Tokens by modality, `cached` of which came from a cache, as units: text first, audio last."""
    units: dict[str, int] = {}
    for modality in (*MODALITIES, *sorted(set(read) - set(MODALITIES))):
        amount = read.get(modality, 0)
        part = min(cached, amount)
        cached -= part
        units[f"input_{modality}"], units[f"{CACHED}{modality}"] = amount - part, part
    return units


def is_input(unit: str) -> bool:
    """Whether `unit` is of prompt tokens."""
    return unit.startswith(_INPUT)


def is_output(unit: str) -> bool:
    """Whether `unit` is of completion tokens."""
    return unit.startswith(_OUTPUT)
