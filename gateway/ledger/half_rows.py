"""From the two halves of a row to the row that the ledger keeps, without a record in between.

What an ordinary attempt needs is done here, at a third of the cost. Whatever is out of the ordinary, a text
that is too long or a value of the wrong type, goes the long way: `row_of(joined(...))`, which also says what
is wrong. Both give the same row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.lenient import is_unicode
from gateway.core.media import NO_MEDIA, Media
from gateway.core.record import (
    ENDED_FIELDS,
    ROUTE_FIELDS,
    SENT_FIELDS,
    Outcome,
    RecordedFacts,
    joined,
    usage_of_units,
)
from gateway.ledger.row_usage import NO_MAP
from gateway.ledger.rows import (
    INTEGER_CEILING,
    TEXT_CHARACTERS,
    Row,
    cost_columns,
    counterfactuals_fit,
    counts_fit,
    row_of,
    tags_fit,
    units_fit,
    units_text,
)

_encode = msgspec.json.Encoder().encode
_OUTCOME_TEXTS = {outcome.value: outcome.value for outcome in Outcome}
_OUT_OF_THE_ORDINARY = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)


class RouteHalf(msgspec.Struct, frozen=True):
    """What the rows of one route share: `values` in the order of ROUTE_FIELDS, looked at once."""

    values: Sequence[Any]
    others: tuple[str, ...]  # names of the other deployments
    is_clean: bool
    rates: Mapping[str, int]
    rates_text: str

    @classmethod
    def of(cls, values: Sequence[Any]) -> "RouteHalf":
        """Raises LookupError, TypeError or ValueError for a half that is none."""
        *texts, input_rate, output_rate, pairs = values
        others = tuple(name for name, _ in pairs)
        is_clean = len(values) == len(ROUTE_FIELDS) and all(map(_is_clean_text, texts))
        is_clean = is_clean and counterfactuals_fit(dict.fromkeys(others, 0))
        rates = {"input_text": input_rate, "output_text": output_rate}
        text = _text_of(rates)
        return cls(values, others, is_clean and text is not None, rates, text or NO_MAP)


def row_of_halves(route: RouteHalf, sent: Sequence[Any], ended: Sequence[Any]) -> Row:
    """The row of an attempt, its halves in the order of SENT_FIELDS and ENDED_FIELDS.

    Raises what `joined` raises for halves that are none.
    """
    if route.is_clean:
        try:
            row = _ordinary_row(route, sent, ended)
        except _OUT_OF_THE_ORDINARY:
            row = None
        if row is not None:
            return row
    return row_of(joined(sent_by_name(route, sent), dict(zip(ENDED_FIELDS, ended, strict=True))))


def sent_by_name(route: RouteHalf, sent: Sequence[Any]) -> Mapping[str, Any]:
    """All that is known before the answer. Raises ValueError for a half that is none."""
    by_name = dict(zip(ROUTE_FIELDS, route.values, strict=True))
    return by_name | dict(zip(SENT_FIELDS, sent, strict=True))


def _ordinary_row(route: RouteHalf, sent: Sequence[Any], ended: Sequence[Any]) -> Row | None:
    """None when some value has to be looked at by itself.

    Long, because a name for each value is what keeps three orders of fields apart.
    """
    (
        org,
        team,
        feature,
        key,
        model,
        dispatched_model,
        deployment,
        zone,
        route_price,
        policy,
        *_,
    ) = route.values
    (
        attempt_id,
        request_id,
        at,
        endpoint,
        replica,
        privacy,
        modalities,
        decision,
        stream,
        held,
        _,
        tags,
        text_bytes,
        max_output,
        choices,
        prompts,
        needs,
        media,
        named,
        finds,
        unit,
        draw,
        budget,
        pools,
    ) = sent
    (
        _,
        status,
        outcome,
        finish_reason,
        reported_model,
        units,
        estimated,
        service_tier,
        price_version,
        cost,
        other_costs,
        unseen,
        ttft,
        duration,
        upstream_request_id,
        address,
        flags,
        reported,
        booked_at,
    ) = ended
    usage = usage_of_units(units)
    text_in, image_in, audio_in, cached, text_out, audio_out, reasoning = usage.columns()
    counts = dict(reported)
    rates = route.rates if booked_at is None else booked_at
    rates_text = route.rates_text if booked_at is None else _text_of(booked_at)
    # One text made of all of them answers for each.
    texts = (
        f"{attempt_id}{request_id}{endpoint}{replica}{privacy}{modalities}{decision}{finish_reason}"
        f"{reported_model}{service_tier}{price_version}{upstream_request_id}{address}{flags}"
    )
    tokens_in, tokens_out = text_in + image_in + audio_in, text_out + audio_out + reasoning
    if (
        len(texts) > TEXT_CHARACTERS
        or "\0" in texts
        or not (texts.isascii() or is_unicode(texts))
        or tokens_in >= INTEGER_CEILING
        or tokens_out >= INTEGER_CEILING
        or cached >= INTEGER_CEILING
        or cost >= INTEGER_CEILING
        or held >= INTEGER_CEILING
        or unseen >= INTEGER_CEILING
        or max(other_costs, default=0) >= INTEGER_CEILING
        or not tags_fit(tags)
        or not units_fit(usage)
        or not counts_fit(counts)
        or rates_text is None
    ):
        return None
    facts = RecordedFacts(
        text_bytes=text_bytes,
        max_output=max_output,
        choices=choices,
        prompts=prompts,
        needs=needs,
        media=NO_MEDIA if media is None else Media(*media),
        named=named,
        finds=finds,
        unit=unit,
        draw=draw,
        budget=budget,
        pools={name: tuple(state) for name, state in pools.items()},
    )
    elsewhere = dict(zip(route.others, other_costs, strict=True))
    return (
        attempt_id,
        request_id,
        at,
        org,
        team,
        feature,
        key,
        model,
        dispatched_model,
        reported_model,
        endpoint,
        deployment,
        replica,
        zone,
        privacy,
        modalities,
        decision,
        1 if stream else 0,
        status,
        _OUTCOME_TEXTS[outcome],
        finish_reason,
        tokens_in,
        text_in,
        image_in,
        audio_in,
        cached,
        tokens_out,
        text_out,
        audio_out,
        reasoning,
        1 if estimated else 0,
        service_tier,
        price_version or route_price,
        cost,
        _encode(elsewhere).decode() if elsewhere else "{}",
        held,
        unseen,
        ttft,
        duration,
        upstream_request_id,
        _encode(tags).decode() if tags else "{}",
        policy,
        _encode(facts).decode(),
        address,
        units_text(usage),
        flags,
        _encode(counts).decode() if counts else "{}",
        rates_text,
        *cost_columns(cost, usage, rates),
    )


def _text_of(rates: Mapping[str, int]) -> str | None:
    """Rates as JSON; None where they have to be looked at by themselves."""
    is_plain = all(type(rate) is int for rate in rates.values()) and counts_fit(rates)
    return _encode(rates).decode() if is_plain else None


def _is_clean_text(text: object) -> bool:
    return isinstance(text, str) and len(text) <= TEXT_CHARACTERS and "\0" not in text and is_unicode(text)
