"""Money is an integer number of nano-USD (1 USD = 10**9), rounded up once, where it is first computed."""

from collections.abc import Sequence
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


def share_out(amount: int, weights: Sequence[int]) -> list[int]:
    """`amount` in whole parts by `weights`, which add up to it exactly.

    What is left after rounding down goes one by one to the largest remainders, the first of equals first.
    Raises ValueError when all weights are 0 and `amount` is not.
    """
    total = sum(weights)
    if total == 0:
        if amount:
            raise ValueError("nobody to share it among")
        return [0] * len(weights)
    parts = [amount * weight // total for weight in weights]
    left = amount - sum(parts)
    if left:
        order = sorted(range(len(weights)), key=lambda index: (-(amount * weights[index] % total), index))
        for index in order[:left]:
            parts[index] += 1
    return parts
