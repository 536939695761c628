"""Prices and context windows from the file that litellm ships, read without importing litellm (seconds)."""

import importlib.metadata
import importlib.util
from decimal import Decimal
from pathlib import Path

import msgspec

from gateway.core.catalog import Rates

_FILE = "model_prices_and_context_window_backup.json"
_SAMPLE = "sample_spec"  # an entry that explains the others, with sentences where they have numbers
_TIERS = ("priority", "flex")
_NANO_PER_USD_PER_TOKEN = 10**15  # USD a token -> nano-USD a million tokens


class _Entry(msgspec.Struct):
    mode: str | None = None
    input_cost_per_token: Decimal | None = None
    output_cost_per_token: Decimal | None = None
    cache_read_input_token_cost: Decimal | None = None
    input_cost_per_audio_token: Decimal | None = None
    output_cost_per_audio_token: Decimal | None = None
    input_cost_per_token_priority: Decimal | None = None
    output_cost_per_token_priority: Decimal | None = None
    cache_read_input_token_cost_priority: Decimal | None = None
    input_cost_per_token_flex: Decimal | None = None
    output_cost_per_token_flex: Decimal | None = None
    cache_read_input_token_cost_flex: Decimal | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None


class Listing(msgspec.Struct, frozen=True):
    """What the catalogue knows of a model. `rates` None: it lists no price, or only half of one."""

    rates: Rates | None
    tiers: dict[str, Rates]
    context_tokens: int | None
    max_output_tokens: int | None


class PriceCatalogue:
    """Looks models up by provider and name. Reads its file at the first look-up."""

    def __init__(self) -> None:
        self._entries: dict[str, msgspec.Raw] | None = None

    @property
    def version(self) -> str:
        """Which edition of the catalogue this is."""
        return f"litellm-{importlib.metadata.version('litellm')}"

    def find(self, provider: str, model: str) -> Listing | None:
        """The listing of `model` at `provider`, or None."""
        entries = self._load()
        for name in (f"{provider}/{model}", model):
            if name in entries:
                return _listing(entries[name])
        return None

    def _load(self) -> dict[str, msgspec.Raw]:
        if self._entries is None:
            spec = importlib.util.find_spec("litellm")
            if spec is None or spec.origin is None:
                raise RuntimeError("the package litellm is not installed; it carries the price catalogue")
            raw = (Path(spec.origin).parent / _FILE).read_bytes()
            self._entries = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            self._entries.pop(_SAMPLE, None)
        return self._entries


def _listing(raw: msgspec.Raw) -> Listing:
    # The file has a few entries with numbers as text; lax decoding takes both.
    entry = msgspec.json.decode(raw, type=_Entry, strict=False)
    standard = None
    if entry.input_cost_per_token is not None and _is_whole(entry):
        standard = _rates(
            entry.input_cost_per_token,
            entry.cache_read_input_token_cost,
            entry.output_cost_per_token or Decimal(0),
            entry.input_cost_per_audio_token,
            entry.output_cost_per_audio_token,
        )
    tiers = {name: rates for name in _TIERS if (rates := _tier(entry, name)) is not None}
    return Listing(standard, tiers, entry.max_input_tokens, entry.max_output_tokens)


def _is_whole(entry: _Entry) -> bool:
    """A few models that generate have a price for reading only; what they write is not free."""
    return bool(entry.output_cost_per_token) or not entry.input_cost_per_token or entry.mode == "embedding"


def _tier(entry: _Entry, tier: str) -> Rates | None:
    given: Decimal | None = getattr(entry, f"input_cost_per_token_{tier}")
    output: Decimal | None = getattr(entry, f"output_cost_per_token_{tier}")
    if given is None or output is None:
        return None
    cached: Decimal | None = getattr(entry, f"cache_read_input_token_cost_{tier}")
    return _rates(given, cached, output, None, None)


def _rates(
    given: Decimal,
    cached: Decimal | None,
    output: Decimal,
    input_audio: Decimal | None,
    output_audio: Decimal | None,
) -> Rates:
    return Rates(
        input=_nano(given),
        cached_input=_nano(given if cached is None else cached),
        output=_nano(output),
        input_audio=_nano(given if input_audio is None else input_audio),
        output_audio=_nano(output if output_audio is None else output_audio),
    )


def _nano(usd_per_token: Decimal) -> int:
    return int((usd_per_token * _NANO_PER_USD_PER_TOKEN).to_integral_value())
