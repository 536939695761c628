"""Privacy detectors: patterns and check digits that may raise the privacy class of a request, never lower it.

    found = find_text(body)                                  # the strings an upstream could read
    names = Detectors(("email", "iban")).scan(found.pieces)  # frozenset({"email"})

A scan is one pass of RE2 for what could matter at all, then an exact check for each detector whose trigger
was there. Time is linear in the text, whatever the text.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gateway.core.detect.cards import has_credit_card
from gateway.core.detect.engine import PatternSet
from gateway.core.detect.fold import NEEDS_FOLDING, NEEDS_UNESCAPING, fold, unescape
from gateway.core.detect.ids import (
    DIGITS_TRIGGER,
    IBAN_TRIGGER,
    SSN_TRIGGER,
    has_iban,
    has_jp_my_number,
    has_us_ssn,
)
from gateway.core.detect.strings import EMAIL_TRIGGER, SECRET_TRIGGER, has_email, has_secret
from gateway.core.detect.text import FoundText, find_text

__all__ = ["DETECTOR_NAMES", "Detectors", "FoundText", "find_text"]


class _Detector(NamedTuple):
    trigger: str
    found_in: Callable[[bytes], bool]


_DETECTORS = {
    "email": _Detector(EMAIL_TRIGGER, has_email),
    "credit_card": _Detector(DIGITS_TRIGGER, has_credit_card),
    "iban": _Detector(IBAN_TRIGGER, has_iban),
    "jp_my_number": _Detector(DIGITS_TRIGGER, has_jp_my_number),
    "us_ssn": _Detector(SSN_TRIGGER, has_us_ssn),
    "secret": _Detector(SECRET_TRIGGER, has_secret),
}
DETECTOR_NAMES = tuple(_DETECTORS)
_SPELLINGS = (NEEDS_FOLDING, NEEDS_UNESCAPING)

# How far a value that is split over two pieces can reach into each of them.
_REACH = 4_096
_WHOLE = 2 * _REACH

_NOTHING: frozenset[str] = frozenset()


class Detectors:
    """The detectors of one configuration. Immutable, so one instance serves every thread."""

    __slots__ = ("_enabled", "_names", "_triggers")

    def __init__(self, names: Iterable[str]) -> None:
        """Raises ValueError for a name that is not one of DETECTOR_NAMES."""
        self._names = tuple(dict.fromkeys(names))
        self._enabled = tuple(_detector(name) for name in self._names)
        self._triggers = PatternSet((*_SPELLINGS, *(detector.trigger for detector in self._enabled)))

    @property
    def names(self) -> tuple[str, ...]:
        """The enabled names, each once, in the order given."""
        return self._names

    def scan(self, pieces: Sequence[str]) -> frozenset[str]:
        """Names of the detectors that find something in `pieces`, which are read one after the other.

        Each piece is read as lines of its own, and all of them again with nothing between, so that neither a
        boundary nor its absence hides a value.
        """
        raw = _views(pieces)
        triggered = self._triggers.matches(raw)
        if triggered is None:
            return _NOTHING
        if 0 in triggered or 1 in triggered:
            raw = _views(_respelled(pieces, 1 in triggered))
            triggered = self._triggers.matches(raw) or []
        return frozenset(
            self._names[index - len(_SPELLINGS)]
            for index in triggered
            if index >= len(_SPELLINGS) and self._enabled[index - len(_SPELLINGS)].found_in(raw)
        )


def _views(pieces: Sequence[str]) -> bytes:
    text = "\n".join(pieces)
    if len(pieces) > 1:
        text = f"{text}\n\n{''.join(map(_ends, pieces) if len(text) > _WHOLE else pieces)}"
    # JSON can spell half a surrogate pair, which strict UTF-8 refuses.
    return text.encode("utf-8", "surrogatepass")


def _respelled(pieces: Sequence[str], escaped: bool) -> list[str]:
    read = [fold(piece) for piece in pieces]
    # Beside the first reading, not instead of it: an escape may be a backslash that digits follow.
    return read + [fold(unescape(piece)) for piece in pieces] if escaped else read


def _ends(piece: str) -> str:
    return piece if len(piece) <= _WHOLE else f"{piece[:_REACH]}\n{piece[-_REACH:]}"


def _detector(name: str) -> _Detector:
    detector = _DETECTORS.get(name)
    if detector is None:
        near = difflib.get_close_matches(name, DETECTOR_NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(DETECTOR_NAMES)}"
        raise ValueError(f"unknown detector {name!r}: {hint}")
    return detector
