"""Where in a text the values stand, in the text as the client wrote it."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from gateway.detect.detector import Detector
from gateway.detect.fold import fold, fold_with_origins

MOST_PLACES = 10_000


class Found(NamedTuple):
    """A value at `text[start:end]`, and which detector found it."""

    start: int
    end: int
    detector: str


def find_in(text: str, detectors: Iterable[tuple[str, Detector]]) -> list[Found]:
    """The values of all `detectors` in `text`, sorted; overlapping ones are one, of the first detector.

    At most MOST_PLACES of each detector.
    """
    folded = fold(text)
    raw = folded.encode("utf-8", "surrogatepass")
    found = [
        Found(*span, name)
        for name, detector in detectors
        for span in islice(detector.spans(raw), MOST_PLACES)
    ]
    if not found:
        return []
    merged = _merged(sorted(found))
    if not folded.isascii():
        merged = _in_characters(raw, merged)
    if folded != text:
        merged = _in_original(text, merged)
    return merged


def _merged(found: list[Found]) -> list[Found]:
    merged = [found[0]]
    for item in found[1:]:
        last = merged[-1]
        if item.start < last.end:
            merged[-1] = last._replace(end=max(last.end, item.end))
        else:
            merged.append(item)
    return merged


def _in_characters(raw: bytes, found: list[Found]) -> list[Found]:
    """Offsets of characters from offsets of bytes."""
    counted, at, result = 0, 0, []
    for start, end, name in found:
        counted += len(raw[at:start].decode("utf-8", "surrogatepass"))
        first = counted
        counted += len(raw[start:end].decode("utf-8", "surrogatepass"))
        at = end
        result.append(Found(first, counted, name))
    return result


def _in_original(text: str, found: list[Found]) -> list[Found]:
    _, origins = fold_with_origins(text)
    return _merged([Found(origins[start], origins[end - 1] + 1, name) for start, end, name in found])
