"""From a usage record to the row that the ledger keeps.

`row_of` checks all texts as one, and leaves the work on single values to `careful_row_of`, which only hostile
or broken values ever need. The row of an ordinary attempt comes straight from its halves: `half_rows.py`.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.lenient import is_unicode
from gateway.core.pricing import cost_parts
from gateway.core.record import Outcome, UsageRecord
from gateway.core.usage import CACHED, REASONING, Usage, is_input, is_output, usage_of
from gateway.ledger.row_usage import NO_MAP
from gateway.ledger.tables import COLUMNS

Row = tuple[str | int | float | None, ...]
# In the order of tables.COSTS, and the map of units.
CostColumns = tuple[int, int, int, int, str]

TEXT_CHARACTERS = 512  # longest text of a column, and of a tag's value
TAG_NAME_CHARACTERS = 128
TAGS = 64  # most tags of a row
INTEGER_CEILING = 2**53  # exact in JSON and Lua too; a thousand such rows still add up within 64 bits

ATTEMPT_ID, REQUEST_ID = COLUMNS.index("attempt_id"), COLUMNS.index("request_id")
_IDS = frozenset({"attempt_id", "request_id"})
JSON_COLUMNS = frozenset(
    {"tags", "counterfactual_nano_usd", "facts", "usage", "reported", "rates", "unit_nano_usd"}
)
_TAGS = COLUMNS.index("tags")
_COUNTERFACTUAL = COLUMNS.index("counterfactual_nano_usd")

_encode = msgspec.json.Encoder().encode
# An Outcome or a bool is not exactly a str or an int, and sqlite3 binds such values by a slow detour.
_OUTCOME_TEXT = {outcome: outcome.value for outcome in Outcome}


def row_of(record: UsageRecord) -> Row:
    """`record` in the order of `tables.COLUMNS`, fit for any database.

    Never fails on a record whose fields have their declared types: text loses NUL, lone surrogates and what
    exceeds its bound, integers are clamped.
    """
    try:
        row = _row(record)
    except (UnicodeError, OverflowError, TypeError):  # from the JSON of tags or counterfactual costs
        return careful_row_of(record)
    if _integers_fit(record) and _texts_fit(record, row) and _mappings_fit(record, row):
        return row
    return careful_row_of(record)


def careful_row_of(record: UsageRecord) -> Row:
    """As `row_of`, with every value looked at by itself."""
    clean = {name: _clean(value) for name, value in msgspec.structs.asdict(record).items()}
    clean |= {
        "attempt_id": _clean_id(record.attempt_id),
        "request_id": _clean_id(record.request_id),
        "tags": _clean_tags(record.tags),
        "reported": _clean_counts(record.reported),
        "rates": _clean_counts(record.rates),
        "counterfactual_nano_usd": {
            _clean_text(deployment): _clean_integer(nano)
            for deployment, nano in record.counterfactual_nano_usd.items()
        },
    }
    return _row(UsageRecord(**clean))


def careful_row(row: Row) -> Row:
    """`row` with every value looked at by itself, for a database that has refused it."""
    return tuple(_clean_value(column, value) for column, value in zip(COLUMNS, row, strict=True))


def _row(record: UsageRecord) -> Row:
    usage = record.usage
    text_in, image_in, audio_in, cached, text_out, audio_out, reasoning = usage.columns()
    counterfactual = record.counterfactual_nano_usd
    tags = record.tags
    return (
        record.attempt_id,
        record.request_id,
        record.at,
        record.org,
        record.team,
        record.feature,
        record.key,
        record.model,
        record.dispatched_model,
        record.reported_model,
        record.endpoint,
        record.deployment,
        record.replica,
        record.zone,
        record.privacy,
        record.modalities,
        record.decision,
        1 if record.stream else 0,
        record.status,
        _OUTCOME_TEXT[record.outcome],
        record.finish_reason,
        text_in + image_in + audio_in,
        text_in,
        image_in,
        audio_in,
        cached,
        text_out + audio_out + reasoning,
        text_out,
        audio_out,
        reasoning,
        1 if record.estimated else 0,
        record.service_tier,
        record.price_version,
        record.cost_nano_usd,
        _encode(counterfactual).decode() if counterfactual else "{}",
        record.held_nano_usd,
        record.unseen_nano_usd,
        record.ttft_ms,
        record.duration_ms,
        record.upstream_request_id,
        _encode(tags).decode() if tags else "{}",
        record.policy_version,
        _encode(record.facts).decode(),
        record.address,
        units_text(usage),
        record.flags,
        _encode(record.reported).decode() if record.reported else NO_MAP,
        _encode(record.rates).decode() if record.rates else NO_MAP,
        *cost_columns(record.cost_nano_usd, usage, record.rates),
    )


def cost_columns(nano: int, usage: Usage, rates: Mapping[str, int]) -> CostColumns:
    """What of `nano` is of which tokens, and of which unit where `usage` needs its map.

    Raises TypeError for what is no whole number: it must not be multiplied.
    """
    numbers = (nano, usage.input_text, usage.output_text, *[amount for _, amount in usage.others])
    if any(type(number) is not int for number in numbers):
        raise TypeError("cost and usage are whole numbers")
    read, written, *others = cost_parts(nano, usage, rates)
    if not others:
        return read, 0, written, 0, NO_MAP
    by_unit = {"input_text": read, "output_text": written}
    cached = 0
    for (unit, _), part in zip(usage.others, others, strict=True):
        by_unit[unit] = part
        if is_input(unit):
            read += part
            cached += part if unit.startswith(CACHED) else 0
        elif is_output(unit):
            written += part
    mapped = {unit: part for unit, part in by_unit.items() if part} if usage.needs_map else {}
    return read, cached, written, by_unit.get(REASONING, 0), _encode(mapped).decode() if mapped else NO_MAP


def units_text(usage: Usage) -> str:
    """The map of `usage` as JSON; {} where the row's columns tell all of it."""
    return _encode(usage.units).decode() if usage.others and usage.needs_map else "{}"


def _integers_fit(record: UsageRecord) -> bool:
    """Whether no integer needs clamping. Parts of the usage count as fit when their sum is."""
    usage = record.usage
    return (
        usage.input_tokens < INTEGER_CEILING
        and usage.output_tokens < INTEGER_CEILING
        and units_fit(usage)
        and record.cost_nano_usd < INTEGER_CEILING
        and record.held_nano_usd < INTEGER_CEILING
        and record.unseen_nano_usd < INTEGER_CEILING
    )


def units_fit(usage: Usage) -> bool:
    """Whether the units beside text can stand as they are."""
    return not usage.others or all(
        amount < INTEGER_CEILING and len(unit) <= TAG_NAME_CHARACTERS and "\0" not in unit
        for unit, amount in usage.others
    )


def counts_fit(counts: Mapping[str, int]) -> bool:
    """Whether numbers by a name from outside can. Lone surrogates fail where they become JSON."""
    return all(
        amount < INTEGER_CEILING and len(name) <= TAG_NAME_CHARACTERS and "\0" not in name
        for name, amount in counts.items()
    )


def _texts_fit(record: UsageRecord, row: Row) -> bool:
    """Whether no text needs cleaning: one text made of all of them answers for each."""
    whole = (
        f"{record.attempt_id}{record.request_id}{record.org}{record.team}{record.feature}{record.key}"
        f"{record.model}{record.dispatched_model}{record.reported_model}{record.endpoint}"
        f"{record.deployment}{record.replica}{record.zone}{record.privacy}{record.modalities}"
        f"{record.decision}{record.finish_reason}{record.service_tier}{record.price_version}"
        f"{record.upstream_request_id}{record.policy_version}{record.address}{record.flags}"
    )
    if len(whole) > TEXT_CHARACTERS and not _each_is_short(row):
        return False
    return "\0" not in whole and (whole.isascii() or is_unicode(whole))


def _each_is_short(row: Row) -> bool:
    return all(len(value) <= TEXT_CHARACTERS for value in row if isinstance(value, str))


def _mappings_fit(record: UsageRecord, row: Row) -> bool:
    """Whether tags and counterfactual costs can stand as they are. Lone surrogates have failed earlier."""
    if not counts_fit(record.reported) or not counts_fit(record.rates):
        return False
    return (
        _is_short_json(row[_TAGS])
        and _is_short_json(row[_COUNTERFACTUAL])
        and max(record.counterfactual_nano_usd.values(), default=0) < INTEGER_CEILING
    ) or _each_entry_fits(record)


def _is_short_json(value: object) -> bool:
    # So short that no name in it can be too long. JSON writes NUL as an escape.
    return isinstance(value, str) and len(value) <= TAG_NAME_CHARACTERS and "\\u0000" not in value


def _each_entry_fits(record: UsageRecord) -> bool:
    return tags_fit(record.tags) and counterfactuals_fit(record.counterfactual_nano_usd)


def tags_fit(tags: Mapping[str, str]) -> bool:
    """Whether they can stand as they are. Lone surrogates fail where they become JSON."""
    if len(tags) > TAGS:
        return False
    for name, value in tags.items():
        if len(name) > TAG_NAME_CHARACTERS or len(value) > TEXT_CHARACTERS or "\0" in name + value:
            return False
    return True


def counterfactuals_fit(nano_usd: Mapping[str, int]) -> bool:
    """The same for costs elsewhere."""
    return all(
        len(deployment) <= TEXT_CHARACTERS and "\0" not in deployment and nano < INTEGER_CEILING
        for deployment, nano in nano_usd.items()
    )


def _clean(value: Any) -> Any:
    if isinstance(value, Outcome | bool):
        return value
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, int):
        return _clean_integer(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.0  # databases keep NaN as NULL, or not at all
    if isinstance(value, Usage):
        return usage_of(_clean_counts(value.units))
    return value


def _clean_value(column: str, value: Any) -> Any:
    if not isinstance(value, str):
        return _clean(value)
    if column in JSON_COLUMNS:  # cut anywhere it would be none
        return _unicode(value.replace("\0", ""))
    return _clean_id(value) if column in _IDS else _clean_text(value)


def _clean_text(text: str, characters: int = TEXT_CHARACTERS) -> str:
    """`text` without NUL, with U+FFFD for each lone surrogate, at most `characters` long."""
    return _unicode(text[: 2 * characters].replace("\0", ""))[:characters]


def _unicode(text: str) -> str:
    # By way of UTF-16, where two surrogates that belong together become the character that they mean.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _clean_id(identifier: str) -> str:
    """As `_clean_text`, and still unique: whatever had to be changed ends in a digest of the original."""
    clean = _clean_text(identifier)
    if clean == identifier:
        return clean
    digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{clean[: TEXT_CHARACTERS - len(digest) - 1]}#{digest}"


def _clean_integer(value: int) -> int:
    return max(-INTEGER_CEILING, min(value, INTEGER_CEILING))


def _clean_counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {_clean_text(name, TAG_NAME_CHARACTERS): _clean_integer(count) for name, count in counts.items()}


def _clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The first TAGS of `tags`; names that become the same keep the last value."""
    return {
        _clean_text(name, TAG_NAME_CHARACTERS): _clean_text(value)
        for name, value in list(tags.items())[:TAGS]
    }
