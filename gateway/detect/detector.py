"""One detector: what may trigger it, whether it really is there, and where."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice
from typing import NamedTuple

from gateway.detect.engine import Finder, Span
from gateway.detect.fold import fold

_SEPARATORS = str.maketrans("", "", " .-")

# So many values of one text are compared with an allow-list. With more of them it counts as found.
MOST_ALLOWED = 5_000


class Detector(NamedTuple):
    """`trigger` is an RE2 expression that occurs in every text in which `found_in` holds; None: always ask.

    `found_in` decides on folded text. `spans` says where the values are, in a text of a request in which it
    holds: also such that would not count alone; they may overlap. `as_written`: `found_in` also reads the
    text before folding, because its author may have meant that.
    `composed`: its characters ask for text in which kana and compatibility characters are composed.
    `reach`: so many characters on both sides of a seam show whether the trigger matches across it, since no
    match has more or a line end can stand for the rest; None where that is not known.
    """

    trigger: str | None
    found_in: Callable[[bytes], bool]
    spans: Callable[[bytes], Iterator[Span]]
    as_written: bool = False
    composed: bool = False
    reach: int | None = None


class AllowList:
    """Values that do not count. Raises BadExpression for a pattern that RE2 does not take.

    A value is compared in its folded spelling, upper and lower case alike; with `separators` False also
    without spaces, dots and dashes.
    """

    __slots__ = ("_patterns", "_separators", "_values")

    def __init__(
        self, values: Iterable[str] = (), patterns: Iterable[str] = (), *, separators: bool = True
    ) -> None:
        self._separators = separators
        self._values = frozenset(self._key(value) for value in values)
        self._patterns = tuple(Finder(pattern) for pattern in patterns)

    def __contains__(self, value: str) -> bool:
        return self._key(value) in self._values or any(
            pattern.is_whole(fold(value).encode("utf-8", "surrogatepass")) for pattern in self._patterns
        )

    def _key(self, value: str) -> str:
        folded = fold(value).casefold()
        return folded if self._separators else folded.translate(_SEPARATORS)


def allowing(detector: Detector, allowed: AllowList) -> Detector:
    """`detector`, which does not count what is on the list."""

    def counts(text: bytes, span: Span) -> bool:
        return text[span[0] : span[1]].decode("utf-8", "replace") not in allowed

    def found_in(text: bytes) -> bool:
        if not detector.found_in(text):
            return False
        spans = list(islice(detector.spans(text), MOST_ALLOWED + 1))
        if len(spans) > MOST_ALLOWED:
            return True
        counted = {span for span in spans if counts(text, span)}
        ignored = _apart_from(counted, (span for span in spans if span not in counted))
        # Without the allowed values nothing may be left: neither what the spans missed, nor what counts.
        return not ignored or detector.found_in(without(text, ignored))

    def spans(text: bytes) -> Iterator[Span]:
        return (span for span in detector.spans(text) if counts(text, span))

    return detector._replace(found_in=found_in, spans=spans)


def _apart_from(others: Iterable[Span], spans: Iterable[Span]) -> list[Span]:
    """Those of `spans` that overlap none of `others`."""
    ordered = sorted(others)
    starts = [start for start, _ in ordered]
    reached = list(accumulate((end for _, end in ordered), max))
    apart = []
    for start, end in spans:
        before = bisect_left(starts, end)
        if not before or reached[before - 1] <= start:
            apart.append((start, end))
    return apart


def without(text: bytes, spans: Iterable[Span]) -> bytes:
    """`text` with a line end in place of each of `spans`."""
    kept, at = [], 0
    for start, end in sorted(spans):
        if end > at:
            kept.append(text[at : max(start, at)])
            at = end
    kept.append(text[at:])
    return b"\n".join(kept)
