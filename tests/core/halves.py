"""The two halves of a ledger row, as a gateway journals them: read by name, and made from a row."""

from typing import Any

import msgspec

from gateway.core.money import TOKENS_PER_PRICE_UNIT
from gateway.core.record import (
    ENDED_FIELDS,
    ROUTE_FIELDS,
    SENT_FIELDS,
    UsageRecord,
    encode_half,
    joined,
    route_half,
    sent_half,
)

_decode_sent = msgspec.msgpack.Decoder(tuple[list[Any], list[Any]]).decode
_decode_ended = msgspec.msgpack.Decoder(list[Any]).decode


def sent_by_name(half: bytes) -> dict[str, Any]:
    """The half that is known before the answer, that of the route included."""
    route, own = _decode_sent(half)
    return dict(zip((*ROUTE_FIELDS, *SENT_FIELDS), route + own, strict=True))


def ended_by_name(half: bytes) -> dict[str, Any]:
    """The half that tells how an attempt ended."""
    return dict(zip(ENDED_FIELDS, _decode_ended(half), strict=True))


def record_of(sent: bytes, ended: bytes | None) -> UsageRecord:
    """The row that two halves make; without `ended` the one that has to be presumed."""
    return joined(sent_by_name(sent), None if ended is None else ended_by_name(ended))


def halves_of(record: UsageRecord) -> tuple[bytes, bytes]:
    """What a gateway writes before and after the attempt of `record`.

    A record that is presumed has its first half alone; the rates are those that lead to its costs.
    """
    usage, facts = record.usage, record.facts
    known = msgspec.structs.asdict(record) | msgspec.structs.asdict(facts)
    known |= {
        "prompt_tokens": usage.input_text,
        "input_rate": _rate(record.cost_nano_usd, usage.input_text),
        "output_rate": 0,
        "others": [
            (name, _rate(nano, usage.input_text)) for name, nano in record.counterfactual_nano_usd.items()
        ],
        "media": msgspec.structs.astuple(facts.media) if facts.media.bytes else None,
        "units": msgspec.structs.astuple(usage),
        "reported": list(record.reported.items()),
        "other_costs": list(record.counterfactual_nano_usd.values()),
    }
    route, sent, ended = (
        [known[name] for name in names] for names in (ROUTE_FIELDS, SENT_FIELDS, ENDED_FIELDS)
    )
    return sent_half(route_half(route), sent), encode_half(ended)


def _rate(nano: int, tokens: int) -> int:
    """A rate at which `tokens` cost `nano`: exact for fewer than a million tokens."""
    return nano * TOKENS_PER_PRICE_UNIT // tokens if tokens else 0
