"""Money is an integer number of nano-USD (1 USD = 10**9), rounded up once, where it is first computed."""

from decimal import ROUND_CEILING, Decimal
from typing import NewType

NanoUsd = NewType("NanoUsd", int)

NANO_PER_USD = 1_000_000_000
TOKENS_PER_PRICE_UNIT = 1_000_000


def nano_from_usd(usd: Decimal | int | str) -> NanoUsd:
    """`usd` dollars in nano-USD, rounded up. Floats are not accepted: they cannot hold a cent exactly."""
    scaled = Decimal(usd) * NANO_PER_USD
    return NanoUsd(int(scaled.to_integral_value(rounding=ROUND_CEILING)))


def usd_decimal(nano: int) -> Decimal:
    """`nano` as a Decimal number of dollars, exactly."""
    return Decimal(nano).scaleb(-9)
