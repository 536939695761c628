"""What a pool's tokens cost against a hosted price: exact fractions of nano-USD, nothing measured here.

A mix is an amount of tokens as the pool counts them. `ratio` converts to the hosted tokenizer: hosted tokens
for one of the pool's.
"""

from fractions import Fraction

import msgspec

from gateway.core.money import TOKENS_PER_PRICE_UNIT
from gateway.core.pool_cost import HOUR, Weights
from gateway.core.pricing import flat_cost
from gateway.core.rates import Rates
from gateway.core.usage import usage_of

HOURS_PER_MONTH = 730  # as for the transfer price
CURVE_PERCENT = range(5, 101, 5)


class Tokens(msgspec.Struct, frozen=True):
    """Tokens read, those of them that a cache gave, and tokens written."""

    input: int = 0
    cached: int = 0
    output: int = 0

    @property
    def all(self) -> int:
        return self.input + self.output

    def plus(self, other: "Tokens") -> "Tokens":
        return Tokens(self.input + other.input, self.cached + other.cached, self.output + other.output)

    def times(self, factor: Fraction) -> "Tokens":
        """Each rounded to the nearest whole token."""
        return Tokens(round(self.input * factor), round(self.cached * factor), round(self.output * factor))

    def work(self, weights: Weights) -> int:
        return weights.work(self.input, self.cached, self.output)


def hosted_cost(rates: Rates, tokens: Tokens) -> int:
    """What `tokens`, as the hosted model counts them, cost at `rates`, in nano-USD."""
    read, cached = max(tokens.input, 0), max(tokens.cached, 0)
    units = {
        "input_text": max(read - cached, 0),
        "cached_text": cached,
        "output_text": max(tokens.output, 0),
    }
    return flat_cost(rates, usage_of(units))


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the curve. Prices are for a million tokens as the pool counts them."""

    utilisation: float
    pool_usd_per_million_tokens: float
    hosted_usd_per_million_tokens: float
    tokens_per_month: int


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """Where the pool becomes cheaper. `utilisation` above 1: not as it is; None: at no volume."""

    against: str
    utilisation: float | None
    tokens_per_month: int | None
    hosted_usd_per_million_tokens: float
    curve: list[Point]


class Full(msgspec.Struct, frozen=True, kw_only=True):
    """A pool over a period: its bill, the work that was possible, and the mix of what it reads and writes.

    `marginal_rate` is what a million more tokens cost, in nano-USD.
    """

    bill_nano: int
    capacity: int
    microseconds: int
    mix: Tokens
    weights: Weights
    marginal_rate: int

    @property
    def tokens(self) -> Fraction:
        """Tokens of this mix that a full pool would have served."""
        return Fraction(self.mix.all * self.capacity, self.mix.work(self.weights))

    @property
    def tokens_per_month(self) -> Fraction:
        return self.tokens * HOURS_PER_MONTH * HOUR / self.microseconds


def break_even(full: Full, against: str, rates: Rates, ratio: Fraction) -> BreakEven:
    """The pool against a hosted deployment at `rates`. Its mix and capacity must not be empty."""
    hosted = _hosted_nano_per_token(full.mix, rates, ratio)
    saved = hosted - Fraction(full.marginal_rate, TOKENS_PER_PRICE_UNIT)
    at = full.bill_nano / (full.tokens * saved) if saved > 0 else None
    return BreakEven(
        against=against,
        utilisation=None if at is None else float(at),
        tokens_per_month=None if at is None else round(full.tokens_per_month * at),
        hosted_usd_per_million_tokens=_usd_per_million(hosted),
        curve=[_point(full, Fraction(percent, 100), hosted) for percent in CURVE_PERCENT],
    )


def _hosted_nano_per_token(mix: Tokens, rates: Rates, ratio: Fraction) -> Fraction:
    fresh = mix.input - mix.cached
    nano = fresh * rates.input + mix.cached * rates.cached_input + mix.output * rates.output
    return nano * ratio / (mix.all * TOKENS_PER_PRICE_UNIT)


def _point(full: Full, utilisation: Fraction, hosted: Fraction) -> Point:
    pool = full.bill_nano / (full.tokens * utilisation) + Fraction(full.marginal_rate, TOKENS_PER_PRICE_UNIT)
    return Point(
        utilisation=float(utilisation),
        pool_usd_per_million_tokens=_usd_per_million(pool),
        hosted_usd_per_million_tokens=_usd_per_million(hosted),
        tokens_per_month=round(full.tokens_per_month * utilisation),
    )


def _usd_per_million(nano_per_token: Fraction) -> float:
    return float(nano_per_token / 1000)  # 10**6 tokens, 10**9 nano-USD
