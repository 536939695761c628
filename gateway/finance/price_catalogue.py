"""Prices and context windows from the file that litellm ships, read without importing litellm (seconds)."""

import importlib.metadata
import importlib.util
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from gateway.finance.price_grammar import price_list
from gateway.finance.tariffs import PriceList

_FILE = "model_prices_and_context_window_backup.json"
_SAMPLE = "sample_spec"  # an entry that explains the others, with sentences where they have numbers

_decode_entry = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


class Listing(msgspec.Struct, frozen=True):
    """What the catalogue knows of a model. `prices` None: it lists no price, or only half of one."""

    prices: PriceList | None
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

    @property
    def names(self) -> list[str]:
        """Every model that it has an entry for."""
        return sorted(self._load())

    def find(self, provider: str, model: str) -> Listing | None:
        """The listing of `model` at `provider`, or None."""
        entries = self._load()
        for name in (f"{provider}/{model}", model):
            if name in entries:
                return _listing(entries[name])
        return None

    def entry(self, name: str) -> dict[str, Any]:
        """The entry of that name as it stands in the file, its amounts exact."""
        return _decode_entry(self._load()[name])

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
    entry = _decode_entry(raw)
    return Listing(
        price_list(entry),
        _tokens(entry.get("max_input_tokens")),
        _tokens(entry.get("max_output_tokens")),
    )


def _tokens(value: object) -> int | None:
    """A few entries have numbers as text, or as 1e6."""
    try:
        return None if value is None else int(Decimal(str(value)))
    except ArithmeticError:
        return None
