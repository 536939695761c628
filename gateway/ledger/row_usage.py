"""The usage of a kept row: its map of units where it has one, else what its columns tell."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.usage import Usage, usage_of, usage_of_columns

# In the order of `usage_of_columns`.
USAGE_COLUMNS = (
    "input_text_tokens",
    "input_image_tokens",
    "input_audio_tokens",
    "cached_input_tokens",
    "output_text_tokens",
    "output_audio_tokens",
    "reasoning_tokens",
)
NO_MAP = "{}"

_decode = msgspec.json.Decoder(dict[str, int]).decode
_encode = msgspec.json.Encoder().encode


def usage_in(units: str, *columns: int) -> Usage:
    """The usage of a row with the map `units` and these values of USAGE_COLUMNS."""
    return usage_of_columns(*columns) if units == NO_MAP else usage_of(_decode(units))


def usage_of_row(row: Mapping[str, Any]) -> Usage:
    """The usage of a row by name of column."""
    return usage_in(row["usage"], *(row[name] for name in USAGE_COLUMNS))


def negated(units: str) -> str:
    """The map of a row's reversal."""
    if units == NO_MAP:
        return units
    return _encode({unit: -amount for unit, amount in _decode(units).items()}).decode()
