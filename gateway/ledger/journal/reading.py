"""From the frames of one journal to rows of the ledger. The only place that knows how frames join to a row.

Two formats: in today's an intent and an end are the two halves of a row (`gateway/core/record.py`). Up to
0.1.0 each was a whole record. The first frame of a segment names the fields, and so tells which one it is.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.record import ENDED_FIELDS, ROUTE_FIELDS, SENT_FIELDS, UsageRecord, joined
from gateway.core.usage import usage_of_columns
from gateway.ledger.half_rows import RouteHalf, row_of_halves, sent_by_name
from gateway.ledger.journal.frames import Frame, FrameKind, UnreadableRecord
from gateway.ledger.rows import Row, row_of

_decode_values = msgspec.msgpack.Decoder(list[Any]).decode
_decode_sent = msgspec.msgpack.Decoder(tuple[msgspec.Raw, list[Any]]).decode
_decode_names = msgspec.msgpack.Decoder(list[str | list[str]]).decode

_BROKEN = (msgspec.MsgspecError, LookupError, TypeError, ValueError)
_INTENT, _FINAL, _NAMES = FrameKind.INTENT, FrameKind.FINAL, FrameKind.NAMES
_ATTEMPT_ID, _ID_OF_ENDED = SENT_FIELDS.index("attempt_id"), ENDED_FIELDS.index("attempt_id")
ROUTES = 4096  # kept; a gateway has one for each key, feature and model


_PARTS = (
    "input_text",
    "input_image",
    "input_audio",
    "input_cached",
    "output_text",
    "output_audio",
    "output_reasoning",
)
# The usage of an end as it was before it was a map, and what halves did not have then.
_USAGE, _UNITS = "usage", "units"
_ADDED: dict[str, Any] = {"flags": "", "reported": (), "rates": {}}
_ADDED_TO_SENT: dict[str, Any] = {"output_rate": 0}


class _Order:
    """Brings values by the `names` of a segment into the order of `ours`.

    `added` are values of fields that a segment may lack.
    """

    def __init__(
        self, names: Sequence[str], ours: Sequence[str], added: Mapping[str, Any] | None = None
    ) -> None:
        absent = {name: value for name, value in (added or {}).items() if name not in names}
        self._count, self._absent = len(names), [*absent.values()]
        self.is_ours = list(names) == list(ours)
        names = [*names, *absent]
        self._missing = sorted(set(ours) - set(names))
        self._pick = None if self._missing else operator.itemgetter(*(names.index(name) for name in ours))

    def of(self, values: list[Any]) -> Sequence[Any]:
        """Raises LookupError or ValueError."""
        if len(values) != self._count:
            raise ValueError(f"{len(values)} values for {self._count} names")
        if self._pick is None:
            raise LookupError(f"no {', '.join(self._missing)}")
        ordered: Sequence[Any] = self._pick(values + self._absent)
        return ordered


class _HalfNames:
    """The fields of both halves of a segment."""

    def __init__(self, route: Sequence[str], sent: Sequence[str], ended: Sequence[str]) -> None:
        """Raises ValueError where no field is the attempt's id."""
        [*route, *sent].index("attempt_id")
        # As one: what all requests of a route share may be what each had for itself in another version.
        self._first = _Order([*route, *sent], (*ROUTE_FIELDS, *SENT_FIELDS), _ADDED_TO_SENT)
        self._usage = ended.index(_USAGE) if _USAGE in ended and _UNITS not in ended else None
        self._ended = _Order([_UNITS if name == _USAGE else name for name in ended], ENDED_FIELDS, _ADDED)
        are_ours = self._first.is_ours and self._ended.is_ours and self._usage is None
        self.is_ours = are_ours and len(route) == len(ROUTE_FIELDS)

    def first(self, route: list[Any], sent: list[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Both parts of the first half, in our order."""
        values = self._first.of(route + sent)
        return values[: len(ROUTE_FIELDS)], values[len(ROUTE_FIELDS) :]

    def ended(self, values: list[Any]) -> Sequence[Any]:
        if self._usage is not None:
            usage = usage_of_columns(*values[self._usage])
            values[self._usage] = (usage.input_text, usage.output_text, usage.others)
        return self._ended.of(values)


class _RecordNames(msgspec.Struct, frozen=True):
    """The fields of whole records."""

    fields: tuple[str, ...]


class _Intent(msgspec.Struct, frozen=True, gc=False):
    """The first half of an attempt that is under way."""

    route: RouteHalf
    sent: Sequence[Any]


_OURS = _HalfNames(ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS)


class RowReader:
    """Takes all frames of one journal in their order, and gives a row for each attempt that ended.

    It has to see every segment that is left, the oldest first: an end needs what its intent says.
    """

    def __init__(self) -> None:
        self._names: _HalfNames | _RecordNames = _OURS
        self._open: dict[str, _Intent | UsageRecord] = {}
        self._routes: dict[bytes, RouteHalf] = {}  # by the bytes that all attempts along one have in common
        self.unreadable = 0  # intents that `presumed` had to leave out

    def take(self, frame: Frame) -> Row | None:
        """The row of an attempt that ended; an intent is remembered. Raises UnreadableRecord."""
        kind = frame.kind
        try:
            if kind is _INTENT:
                self._begin(frame.payload)
            elif kind is _FINAL:
                return self._ended(frame.payload)
            elif kind is _NAMES:
                self._names = _read_names(frame.payload)
        except _BROKEN as exc:
            raise UnreadableRecord(f"{kind.name.lower()}: {exc}") from exc
        return None

    def presumed(self) -> Iterator[Row]:
        """What is to be booked for the attempts that have no end."""
        for intent in self._open.values():
            try:
                if isinstance(intent, UsageRecord):
                    yield row_of(intent)
                else:
                    yield row_of(joined(sent_by_name(intent.route, intent.sent), None))
            except _BROKEN:
                self.unreadable += 1

    def _begin(self, payload: bytes) -> None:
        names = self._names
        if isinstance(names, _RecordNames):
            record = _whole_record(payload, names)
            self._open[record.attempt_id] = record
            return
        shared, sent = _decode_sent(payload)
        if names.is_ours:
            intent = _Intent(self._route(bytes(shared)), sent)
        else:
            route, own = names.first(_decode_values(shared), sent)
            intent = _Intent(RouteHalf.of(route), own)
        self._open[intent.sent[_ATTEMPT_ID]] = intent

    def _route(self, shared: bytes) -> RouteHalf:
        route = self._routes.get(shared)
        if route is None:
            if len(self._routes) >= ROUTES:
                self._routes.clear()
            route = self._routes[shared] = RouteHalf.of(_decode_values(shared))
        return route

    def _ended(self, payload: bytes) -> Row:
        names = self._names
        if isinstance(names, _RecordNames):
            record = _whole_record(payload, names)
            self._open.pop(record.attempt_id, None)
            return row_of(record)
        values: Sequence[Any] = _decode_values(payload)
        if not names.is_ours:
            values = names.ended([*values])
        attempt_id = values[_ID_OF_ENDED]
        intent = self._open.get(attempt_id)
        if intent is None:
            raise LookupError("an end without its intent")
        if isinstance(intent, UsageRecord):
            raise TypeError("its intent is a whole record, and its end is not")
        row = row_of_halves(intent.route, intent.sent, values)
        del self._open[attempt_id]
        return row


def _read_names(payload: bytes) -> _HalfNames | _RecordNames:
    names = _decode_names(payload)
    halves = [part for part in names if isinstance(part, list)]
    if not halves:
        return _RecordNames(tuple(str(name) for name in names))
    route, sent, ended = halves
    return _HalfNames(route, sent, ended)


def _whole_record(payload: bytes, names: _RecordNames) -> UsageRecord:
    named = dict(zip(names.fields, _decode_values(payload), strict=True))
    return msgspec.convert(named | {_USAGE: usage_of_columns(*_parts_of(named[_USAGE]))}, UsageRecord)


def _parts_of(usage: Mapping[str, int]) -> list[int]:
    """Usage as records of 0.1.0 have it, in the order of columns."""
    return [usage.get(name, 0) for name in _PARTS]
