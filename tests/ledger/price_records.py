"""Prices for the tests of the ledger and of what finance makes of it."""

from typing import Any

from gateway.core.pricing import PriceVersion
from gateway.core.rates import Rates


def rates(factor: int = 1) -> Rates:
    return Rates(
        input=3 * factor, cached_input=factor, output=12 * factor, input_audio=5 * factor, output_audio=7
    )


def version(name: str = "v1", **changes: Any) -> PriceVersion:
    given = {
        "provider": "vllm",
        "model": "scout",
        "tier": "standard",
        "effective_from": 0,
        "version": name,
        "rates": rates(),
        "entered_at": 1,
    }
    return PriceVersion(**(given | changes))
