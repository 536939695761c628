"""The `usage` object of an upstream, in every spelling that is met, as disjoint units.

Providers agree on little: details stand inside the totals or beside them, at the top or nested, and have
names of their own. What tells the readings apart is arithmetic: the one whose parts fit and add up to
`total_tokens` is the right one. Where none does, the object contradicts itself, and the dearer reading is
given with the counts as they were reported.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.core.usage import (
    CACHE_WRITE,
    CACHED,
    MAX_TOKENS,
    MODALITIES,
    REASONING,
    SEARCH_QUERIES,
    UNKNOWN,
    Usage,
    cached_parts,
    usage_of,
)

# As it was decoded: names to numbers, to more such objects, or to whatever a server puts there.
WireUsage = dict[str, Any]
# Counts by name, as they were reported.
Counts = tuple[tuple[str, int], ...]

_USUAL = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
    }
)
_PROMPT, _COMPLETION = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
_TOKENS = "_tokens"
_CACHED_TEXT = f"{CACHED}text"
# Names in the details of a prompt that are no modality.
_CACHE_READS = ("cached_tokens", "cache_read_tokens")
_CACHE_WRITES = ("cache_write_tokens", "cache_creation_tokens")
_READS_AT_TOP = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
_WRITES_AT_TOP = "cache_creation_input_tokens"
_LIFETIMES = "cache_creation"  # of an object {"ephemeral_1h_input_tokens": ...}
_SEARCHES = ("num_search_queries", "web_search_requests")
_KNOWN_AT_TOP = frozenset(
    {
        *_PROMPT,
        *_COMPLETION,
        *_READS_AT_TOP,
        _WRITES_AT_TOP,
        "prompt_cache_miss_tokens",
        "total_tokens",
        "reasoning_tokens",
        "citation_tokens",
    }
)
MOST_REPORTED = 32  # counts of one object that are kept


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What a usage object says. `reported` are its counts, where they contradict each other; else empty.

    `service_tier` is the one that stands inside it. `is_total_only`: nothing tells input from output.
    """

    usage: Usage
    reported: Counts = ()
    service_tier: str | None = None
    is_total_only: bool = False


def usage_from_wire(wire: WireUsage) -> Reading:
    """Read `wire`. What is not a number where one belongs counts as left out."""
    usage = usual_usage(wire)
    return _read(wire) if usage is None else Reading(usage)


def usual_usage(wire: WireUsage) -> Usage | None:
    """The usage of an object as OpenAI and vLLM write it, without a doubt; None: it has to be read closely.

    Its totals add up, and its details tell of nothing but cached and reasoning tokens within them.
    """
    prompt, completion = wire.get("prompt_tokens"), wire.get("completion_tokens")
    if (
        type(prompt) is int
        and type(completion) is int
        and 0 <= prompt <= MAX_TOKENS
        and 0 <= completion <= MAX_TOKENS
        and wire.get("total_tokens") == prompt + completion
    ):
        # Three members are just these.
        return Usage(prompt, completion) if len(wire) == 3 else _with_details(wire, prompt, completion)
    return None


def _with_details(wire: WireUsage, prompt: int, completion: int) -> Usage | None:
    if not wire.keys() <= _USUAL:
        return None
    cached = _only_detail(wire.get("prompt_tokens_details"), "cached_tokens", prompt)
    reasoning = _only_detail(wire.get("completion_tokens_details"), "reasoning_tokens", completion)
    if cached is None or reasoning is None:
        return None
    others: tuple[tuple[str, int], ...] = ()
    if cached:
        others = ((_CACHED_TEXT, cached),)
    if reasoning:
        others += ((REASONING, reasoning),)
    return Usage(prompt - cached, completion - reasoning, others)


def _only_detail(details: object, name: str, most: int) -> int | None:
    """The count of `name`, where it is the only one in `details` and within `most`; None: there is more."""
    found = 0
    if details is None:
        return found
    if type(details) is not dict:
        return None
    for key, amount in details.items():
        if amount:
            if key != name or type(amount) is not int or not 0 < amount <= most:
                return None
            found = amount
    return found


class _Parts(msgspec.Struct):
    """The counts of one object by their meaning. `modalities` and `written` are parts of the totals.

    `cached` and `writes` stand inside the prompt, or beside it; so does `reasoning` with the completion.
    """

    prompt: int
    completion: int
    total: int
    modalities: dict[str, int]
    cached: int
    cached_by: dict[str, int]
    writes: dict[str, int]
    written: dict[str, int]
    reasoning: int
    is_cache_beside: bool
    is_reasoning_beside: bool
    beside: dict[str, int]

    @property
    def cache(self) -> int:
        return self.cached + sum(self.writes.values())

    @property
    def read(self) -> int:
        """The least that the prompt must have, as far as its parts tell."""
        return sum(self.modalities.values())

    @property
    def beside_text(self) -> dict[str, int]:
        """Those of `written` that are told apart from text."""
        return {unit: amount for unit, amount in self.written.items() if unit != "output_text"}

    def fits(self, prompt: int, completion: int) -> bool:
        """Whether all parts can be within these totals."""
        inside = sum(self.beside_text.values())
        return (
            self.cache <= prompt
            and self.read <= prompt
            and inside + self.reasoning <= completion
            and self.written.get("output_text", 0) <= completion
        )

    def totals(self, is_cache_beside: bool, is_reasoning_beside: bool) -> tuple[int, int]:
        return (
            self.prompt + (self.cache if is_cache_beside else 0),
            self.completion + (self.reasoning if is_reasoning_beside else 0),
        )


def _read(wire: WireUsage) -> Reading:
    parts = _parts(wire)
    is_total_only = bool(parts.total) and not any(name in wire for name in (*_PROMPT, *_COMPLETION))
    if not parts.completion and not parts.prompt and parts.total:
        # An embedder has nothing but a total; what it counts is what it read.
        parts.prompt = parts.total
        is_total_only = True
    found = _consistent(parts)
    prompt, completion = _dearer(parts) if found is None else found
    usage = usage_of(_units(parts, prompt, completion))
    tier = wire.get("service_tier")
    return Reading(
        usage,
        reported_counts(wire) if found is None else (),
        tier if isinstance(tier, str) else None,
        is_total_only,
    )


def _consistent(parts: _Parts) -> tuple[int, int] | None:
    """The totals of the first reading that adds up: as usually meant, else with parts beside the totals."""
    usual = parts.totals(parts.is_cache_beside, parts.is_reasoning_beside)
    # Perplexity's total leaves out the reasoning that stands beside it.
    is_left_out = parts.is_reasoning_beside and parts.prompt + parts.completion == parts.total
    if not parts.total or is_left_out:
        return usual if parts.fits(*usual) else None
    for is_cache_beside in (parts.is_cache_beside, not parts.is_cache_beside):
        for is_reasoning_beside in (parts.is_reasoning_beside, not parts.is_reasoning_beside):
            found = parts.totals(is_cache_beside, is_reasoning_beside)
            if sum(found) == parts.total and parts.fits(*found):
                return found
    return None


def _dearer(parts: _Parts) -> tuple[int, int]:
    """Totals that cover every count: parts that do not fit stand beside, what is unexplained was written."""
    inside = sum(parts.beside_text.values())
    is_cache_beside = parts.is_cache_beside or parts.cache > parts.prompt
    is_reasoning_beside = parts.is_reasoning_beside or parts.reasoning + inside > parts.completion
    prompt, completion = parts.totals(is_cache_beside, is_reasoning_beside)
    prompt = max(prompt, parts.read)
    completion = max(completion, inside + parts.reasoning, parts.written.get("output_text", 0))
    return prompt, completion + max(parts.total - prompt - completion, 0)


def _units(parts: _Parts, prompt: int, completion: int) -> dict[str, int]:
    """`parts` as units that add up to these totals and to what stands beside both."""
    other = {name: amount for name, amount in parts.modalities.items() if name != "text"}
    read = {**other, "text": prompt - sum(other.values())}
    known: dict[str, int] = {}
    for modality, amount in parts.cached_by.items():
        # Told by the upstream: these were cached, whatever the order would be.
        known[f"{CACHED}{modality}"] = part = min(amount, read.get(modality, 0), parts.cached)
        read[modality] = read.get(modality, 0) - part
        parts.cached -= part
    _take_writes(read, parts.cached, sum(parts.writes.values()))
    units = cached_parts(read, parts.cached)
    for unit, amount in (known | parts.writes | parts.beside).items():
        units[unit] = units.get(unit, 0) + amount
    units |= parts.beside_text
    units[REASONING] = parts.reasoning
    units["output_text"] = completion - sum(parts.beside_text.values()) - parts.reasoning
    return units


def _take_writes(read: dict[str, int], cached: int, written: int) -> None:
    """Take what was written into a cache off `read`, of which `cached` came from one, in the same order."""
    for modality in (*MODALITIES, *sorted(set(read) - set(MODALITIES))):
        amount = read.get(modality, 0)
        kept = min(cached, amount)
        part = min(written, amount - kept)
        cached, written = cached - kept, written - part
        read[modality] = amount - part


def _parts(wire: WireUsage) -> _Parts:
    details, out = _object(wire, _INPUT_DETAILS), _object(wire, _OUTPUT_DETAILS)
    cached, cached_by = _cached(wire, details)
    lifetimes = _lifetimes(wire)
    writes = lifetimes or {CACHE_WRITE: _first(details, _CACHE_WRITES) or _count(wire, _WRITES_AT_TOP)}
    reasoning, is_reasoning_beside = _count(out, "reasoning_tokens"), False
    if not reasoning:
        reasoning = _count(wire, "reasoning_tokens")
        is_reasoning_beside = reasoning > 0 and bool(wire.get("citation_tokens"))
    # Anthropic's `input_tokens` is what no cache was asked for; all others' prompt holds everything.
    is_anthropic = "prompt_tokens" not in wire and (
        "cache_read_input_tokens" in wire or _WRITES_AT_TOP in wire
    )
    prompt = _first(wire, _PROMPT)
    hit = _count(wire, "prompt_cache_hit_tokens")
    if "prompt_cache_miss_tokens" in wire and not is_anthropic:
        prompt = max(prompt, hit + _count(wire, "prompt_cache_miss_tokens"))
    return _Parts(
        prompt=prompt,
        completion=_first(wire, _COMPLETION),
        total=_count(wire, "total_tokens"),
        modalities=_modalities(details),
        cached=cached,
        cached_by=cached_by,
        writes={unit: amount for unit, amount in writes.items() if amount},
        written=_written(out),
        reasoning=reasoning,
        is_cache_beside=is_anthropic,
        is_reasoning_beside=is_reasoning_beside,
        beside=_beside(wire),
    )


def _cached(wire: WireUsage, details: WireUsage) -> tuple[int, dict[str, int]]:
    """Tokens from a cache, and those whose modality is told."""
    cached = _first(details, _CACHE_READS) or _first(wire, _READS_AT_TOP)
    told = _object(details, ("cached_tokens_details",))
    return cached, {name.removesuffix(_TOKENS): amount for name, amount in _counts(told)}


def _lifetimes(wire: WireUsage) -> dict[str, int]:
    """Cache writes by lifetime, and the rest of all writes, whose lifetime is not told."""
    found = {
        f"{CACHE_WRITE}_{name.removeprefix('ephemeral_').removesuffix('_input_tokens')}": amount
        for name, amount in _counts(_object(wire, (_LIFETIMES,)))
    }
    rest = _count(wire, _WRITES_AT_TOP) - sum(found.values())
    return {**found, CACHE_WRITE: max(rest, 0)} if found else {}


def _modalities(details: WireUsage) -> dict[str, int]:
    """Prompt tokens by modality; vLLM has its own object for them."""
    found = {
        name.removesuffix(_TOKENS): amount
        for name, amount in _counts(details)
        if name.endswith(_TOKENS) and name not in (*_CACHE_READS, *_CACHE_WRITES)
    }
    for name, amount in _counts(_object(details, ("multimodal_tokens",))):
        found.setdefault(name, amount)
    return found


def _written(details: WireUsage) -> dict[str, int]:
    """Completion tokens by kind, but for reasoning."""
    return {
        f"output_{name.removesuffix(_TOKENS)}": amount
        for name, amount in _counts(details)
        if name.endswith(_TOKENS) and name not in ("reasoning_tokens", *_CACHE_READS)
    }


def _beside(wire: WireUsage) -> dict[str, int]:
    """Counts that are no part of either total, those of an unknown name among them."""
    searches = _first(wire, _SEARCHES) or _first(_object(wire, ("server_tool_use",)), _SEARCHES)
    found = {
        SEARCH_QUERIES: searches,
        "input_citation": _count(wire, "citation_tokens"),
    }
    for name, amount in _counts(wire):
        if name.endswith(_TOKENS) and name not in _KNOWN_AT_TOP:
            found[UNKNOWN + name.removesuffix(_TOKENS)] = amount
    return {unit: amount for unit, amount in found.items() if amount}


def reported_counts(wire: WireUsage) -> Counts:
    """Every count of the object, nested ones by their path."""
    found = [*_counts(wire)]
    for name, inner in wire.items():
        if isinstance(inner, dict):
            found += [(f"{name}.{key}", amount) for key, amount in _counts(inner)]
    return tuple((name[:128], amount) for name, amount in found[:MOST_REPORTED])


def _object(wire: Mapping[str, Any], names: tuple[str, ...]) -> WireUsage:
    for name in names:
        if isinstance(found := wire.get(name), dict):
            return found
    return {}


def _counts(wire: WireUsage) -> Iterator[tuple[str, int]]:
    """Names with a number above zero."""
    return ((name, amount) for name in wire if (amount := _count(wire, name)))


def _first(wire: WireUsage, names: tuple[str, ...]) -> int:
    return next((amount for name in names if (amount := _count(wire, name))), 0)


def _count(wire: WireUsage, name: str) -> int:
    """Some servers write their counts as 12.0; what is no number counts as left out."""
    value = wire.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    if isinstance(value, float) and math.isnan(value):
        return 0
    return int(min(max(value, 0), MAX_TOKENS))
