"""Cost of usage at a price: integers only, each component rounded up."""

from gateway.core.catalog import Deployment, Rates
from gateway.core.money import TOKENS_PER_PRICE_UNIT
from gateway.core.pricing import PriceBook
from gateway.core.usage import Usage


def cost(rates: Rates, usage: Usage) -> int:
    """Cost of `usage` in nano-USD, each component rounded up.

    Cached tokens are part of the prompt tokens and are charged once, at their own rate; they are taken to be
    text and image first, because the providers list no cached audio for chat.
    """
    plain = usage.input_text + usage.input_image
    audio = usage.input_audio
    cached = usage.input_cached
    nano = 0
    if cached:
        nano -= -cached * rates.cached_input // TOKENS_PER_PRICE_UNIT
        plain, overflow = max(plain - cached, 0), max(cached - plain, 0)
        audio -= overflow
    if plain:
        nano -= -plain * rates.input // TOKENS_PER_PRICE_UNIT
    if audio:
        nano -= -audio * rates.input_audio // TOKENS_PER_PRICE_UNIT
    if output := usage.output_text + usage.output_reasoning:
        nano -= -output * rates.output // TOKENS_PER_PRICE_UNIT
    if usage.output_audio:
        nano -= -usage.output_audio * rates.output_audio // TOKENS_PER_PRICE_UNIT
    return nano


def counterfactuals(
    deployments: tuple[Deployment, ...], chosen: str, usage: Usage, book: PriceBook, at: int
) -> dict[str, int]:
    """What the same token counts would have cost at `at` on each other deployment, in nano-USD.

    Tokenizers differ between models; the counts are not converted, so read it as a comparison of prices.
    """
    return {
        deployment.name: cost(book.price_of(deployment, at).standard, usage)
        for deployment in deployments
        if deployment.name != chosen
    }
