"""Privacy detectors: patterns and check digits that may raise the privacy class of a request, never lower it.

    found = find_text(body)                                  # the strings an upstream could read
    names = Detectors(("email", "iban")).scan(found.pieces)  # frozenset({"email"})

A scan is one pass of RE2 for what could matter at all, then an exact check for each detector whose trigger
was there. Time is linear in the text, whatever the text.
"""

import difflib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from gateway.detect.cards import CARD_TRIGGER, credit_card_spans, has_credit_card
from gateway.detect.credentials import SECRET_TRIGGER, has_secret, secret_spans
from gateway.detect.detector import AllowList, Detector, allowing
from gateway.detect.emails import EMAIL_TRIGGER, email_spans, has_email
from gateway.detect.encoded import NEEDS_DECODING, TooMuchEncoded, decode
from gateway.detect.engine import BadExpression, PatternSet
from gateway.detect.escapes import NEEDS_UNESCAPING, unescape
from gateway.detect.fold import NEEDS_COMPOSING, NEEDS_FOLDING, compose, fold, with_spaces
from gateway.detect.ids import (
    IBAN_TRIGGER,
    MY_NUMBER_TRIGGER,
    SSN_TRIGGER,
    has_iban,
    has_jp_my_number,
    has_us_ssn,
    iban_spans,
    jp_my_number_spans,
    us_ssn_spans,
)
from gateway.detect.places import Found, find_in
from gateway.detect.text import FoundText, find_text
from gateway.detect.views import encoded, joined, joined_to_trigger

__all__ = [
    "BUILT_IN",
    "DETECTOR_NAMES",
    "SEPARATORS_MATTER",
    "AllowList",
    "BadExpression",
    "Detector",
    "Detectors",
    "Found",
    "FoundText",
    "allowing",
    "find_text",
]

# More characters than any match of a built-in trigger has: the longest is twelve digits with three separators
# before each. Only that of an e-mail address can be longer, and takes the end of a line for the rest of it.
_SEAM = 48

BUILT_IN: Mapping[str, Detector] = MappingProxyType(
    {
        "email": Detector(EMAIL_TRIGGER, has_email, email_spans, reach=_SEAM),
        "credit_card": Detector(CARD_TRIGGER, has_credit_card, credit_card_spans, reach=_SEAM),
        "iban": Detector(IBAN_TRIGGER, has_iban, iban_spans, reach=_SEAM),
        "jp_my_number": Detector(MY_NUMBER_TRIGGER, has_jp_my_number, jp_my_number_spans, reach=_SEAM),
        "us_ssn": Detector(SSN_TRIGGER, has_us_ssn, us_ssn_spans, reach=_SEAM),
        "secret": Detector(SECRET_TRIGGER, has_secret, secret_spans, reach=_SEAM),
    }
)
DETECTOR_NAMES = tuple(BUILT_IN)
# In the others, spaces, dots and dashes only group the digits.
SEPARATORS_MATTER = frozenset({"email", "secret"})

_SPELLINGS = (NEEDS_FOLDING, NEEDS_UNESCAPING, NEEDS_DECODING)
_FOLDING, _UNESCAPING, _COMPOSING = 0, 1, len(_SPELLINGS)
_FIRST = len(_SPELLINGS) + 1
# An expression that occurs in no text.
_NEVER = r"[^\x{0}-\x{10ffff}]"
# A text that needs unescaping: the engine finds nothing at all when a set is too large for its memory.
_PROBE = rb"\u0041"

_NOTHING: frozenset[str] = frozenset()


class Detectors:
    """The detectors of one configuration. Immutable, so one instance serves every thread."""

    __slots__ = ("_always", "_enabled", "_names", "_seam", "_triggers")

    def __init__(self, names: Iterable[str], defined: Mapping[str, Detector] = BUILT_IN) -> None:
        """`defined` are all detectors by name. Raises ValueError for a name that is not one of them, and
        BadExpression when they are too large together."""
        self._names = tuple(dict.fromkeys(names))
        self._enabled = tuple(_detector(name, defined) for name in self._names)
        reaches = [detector.reach for detector in self._enabled]
        self._seam = None if None in reaches else max(filter(None, reaches), default=0)
        composing = any(detector.composed for detector in self._enabled)
        self._triggers = PatternSet(
            (
                *_SPELLINGS,
                NEEDS_COMPOSING if composing else _NEVER,
                *(detector.trigger or _NEVER for detector in self._enabled),
            )
        )
        self._always = tuple(
            number for number, detector in enumerate(self._enabled, _FIRST) if detector.trigger is None
        )
        if not self._triggers.matches(_PROBE):
            raise BadExpression("the detectors together are too large: shorten the lists of words")

    @property
    def names(self) -> tuple[str, ...]:
        """The enabled names, each once, in the order given."""
        return self._names

    def scan(self, pieces: Sequence[str]) -> frozenset[str]:
        """Names of the detectors that find something in `pieces`, which are read one after the other.

        How they are put together: see `views`. All names, when more is encoded in them than is decoded.
        """
        triggered = self._triggers.matches(encoded(joined_to_trigger(pieces, self._seam)))
        if not triggered and not self._always:
            return _NOTHING
        triggered = [*(triggered or ()), *self._always]
        raw = encoded(joined(pieces))
        if min(triggered) >= _FIRST:
            return frozenset(self._found(raw, triggered))
        written = [
            index for index in triggered if index >= _FIRST and self._enabled[index - _FIRST].as_written
        ]
        found = frozenset(self._found(raw, written))
        try:
            raw = encoded("\n\n".join(_respelled(pieces, triggered)))
        except TooMuchEncoded:
            return frozenset(self._names)
        return found.union(self._found(raw, (*(self._triggers.matches(raw) or ()), *self._always)))

    def _found(self, raw: bytes, triggered: Iterable[int]) -> Iterator[str]:
        for index in triggered:
            if index >= _FIRST and self._enabled[index - _FIRST].found_in(raw):
                yield self._names[index - _FIRST]

    def places(self, text: str, found: frozenset[str]) -> list[Found]:
        """Where in `text` the detectors `found` have values, first come first; of overlapping ones the union.

        `found` is what `scan` finds in all of the request: a word in one message may say what a number in
        another one is. What it finds only in an escaped or composed spelling, or across pieces, has no place.
        """
        return find_in(
            text, [pair for pair in zip(self._names, self._enabled, strict=True) if pair[0] in found]
        )


def _respelled(pieces: Sequence[str], spellings: Container[int]) -> list[str]:
    """`pieces` as they are read, and beside that what is written in their escapes and encodings."""
    composing = _COMPOSING in spellings
    if composing:
        pieces = [compose(piece) for piece in pieces]
    if composing or _FOLDING in spellings:
        read = [joined([fold(piece) for piece in pieces]), *_spaced(joined(pieces))]
    else:
        read = [joined(pieces)]
    # Beside the first reading, not instead of it: an escape may be a backslash that digits follow.
    if _UNESCAPING in spellings:
        text = unescape(joined(pieces))
        read += _folded(compose(text) if composing else text)
    plain = decode(encoded("\n\n".join(read)))
    return [*read, *_folded(unescape(plain.decode("utf-8", "replace")))] if plain else read


def _folded(text: str) -> list[str]:
    return [fold(text), *_spaced(text)]


def _spaced(text: str) -> list[str]:
    """`text` folded with spaces for blanks that folding drops; empty where it has none."""
    spaced = with_spaces(text)
    return [] if spaced == text else [fold(spaced)]


def _detector(name: str, defined: Mapping[str, Detector]) -> Detector:
    detector = defined.get(name)
    if detector is None:
        near = difflib.get_close_matches(name, defined, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(defined)}"
        raise ValueError(f"unknown detector {name!r}: {hint}")
    return detector
