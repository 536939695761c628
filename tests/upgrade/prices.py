"""What a token costs, so that what was really spent is a sum of products of integers."""

import msgspec

NANO = 10**9


class Price(msgspec.Struct, frozen=True):
    """Nano-USD a token."""

    input: int
    cached_input: int
    output: int


PRICES = {
    "gpt-4o": Price(2500, 1250, 10_000),
    "scout": Price(300, 300, 1200),
    "embedder": Price(20, 20, 0),
}


def price_of(deployment: str) -> dict[str, float]:
    """For the configuration, in USD per million tokens: 1,000 nano-USD a token are one."""
    return {kind: nano / 1000 for kind, nano in msgspec.structs.asdict(PRICES[deployment]).items()}
