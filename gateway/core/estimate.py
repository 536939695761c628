"""What a request may use, before it is sent: bounds for holds, estimates for choosing."""

import msgspec

from gateway.core.admission import Ask
from gateway.core.call import Call
from gateway.core.catalog import Api, Capability, Deployment
from gateway.core.pricing import NO_VERSIONS, PriceBook
from gateway.core.tenancy import Principal

# The model's chat template adds tokens that are not in the body: roles, separators, the assistant primer;
# with tools a preamble of some hundred more. Generous, because a hold must not be too small.
TEMPLATE_TOKENS = 64
TOOLS_TEMPLATE_TOKENS = 1024

# An estimate from bytes may be this share too low.
PROMPT_MARGIN_SHARE = 5

# 8 kbit/s is the thinnest speech codec met in practice, and base64 adds a third: at ten tokens a second
# that is at most one token for each 100 bytes of base64. Speech as it comes has ten times as many bytes.
AUDIO_BYTES_PER_TOKEN = 100
LIKELY_AUDIO_BYTES_PER_TOKEN = 1000

# A scanned page of half a megabyte takes about as many tokens as a thousand words. Only what surely does not
# fit may be refused, so this is on the low side; the bound of a file is the whole context.
LIKELY_FILE_BYTES_PER_TOKEN = 512

# What a cost rounds up more often than a hold: cached input and audio input, and audio output.
ROUNDING_NANO = 3

# What the API itself gives a completion for which the client names no cap.
COMPLETION_DEFAULT_TOKENS = 16


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request on one deployment: `prompt` as likely, `prompt_bound` as the most it can be."""

    prompt: int
    prompt_bound: int
    output: int


def estimate(call: Call, deployment: Deployment, bytes_per_token: float) -> Estimate:
    """Estimate `call` on `deployment`, whose text takes `bytes_per_token` as learned from its usage."""
    text = call.text_bytes
    context = deployment.context_tokens * call.prompts
    likely = int(text / bytes_per_token) + 1
    bound = text + TEMPLATE_TOKENS
    if Capability.TOOLS in call.needs:
        bound += TOOLS_TEMPLATE_TOKENS
    media = call.media
    if media.bytes:
        rule = deployment.image_rule
        images = media.images_low * rule.low + media.images_high * rule.high
        likely += images + media.audio_bytes // LIKELY_AUDIO_BYTES_PER_TOKEN
        likely += media.file_bytes // LIKELY_FILE_BYTES_PER_TOKEN
        bound += images + media.audio_bytes // AUDIO_BYTES_PER_TOKEN
        if media.file_bytes:
            bound = max(bound, context)
    bound = min(bound, max(context, likely))
    return Estimate(likely, bound, _output_cap(call, deployment, likely))


def _output_cap(call: Call, deployment: Deployment, prompt: int) -> int:
    """The most output tokens of one choice: the client's own cap, never above the deployment's.

    A cap that the client did not ask for must leave room for the prompt, or the upstream refuses it.
    """
    if call.api is Api.EMBEDDINGS:
        return 0
    if call.max_output is not None:
        return min(call.max_output, deployment.max_output_tokens)
    if call.api is Api.COMPLETIONS:
        return min(COMPLETION_DEFAULT_TOKENS, deployment.max_output_tokens)
    free = deployment.context_tokens - prompt - prompt // PROMPT_MARGIN_SHARE - TEMPLATE_TOKENS
    return max(min(deployment.max_output_tokens, free), 1)


def ask_for(
    call: Call,
    principal: Principal,
    candidates: tuple[Deployment, ...],
    estimates: tuple[Estimate, ...],
    book: PriceBook = NO_VERSIONS,
    at: int = 0,
) -> Ask:
    """The reservation that covers whichever candidate answers: each part priced at the dearest of them.

    `at` is UTC microseconds since 1970.
    """
    prompt_nano = output_rate = output_tokens = 0
    for deployment, expected in zip(candidates, estimates, strict=True):
        for price in book.prices_soon(deployment, at):
            input_rate, rate = price.dearest(call.service_tier)
            prompt_nano = max(prompt_nano, -(-expected.prompt_bound * input_rate // 1_000_000))
            output_rate = max(output_rate, rate)
        output_tokens = max(output_tokens, expected.output)
    if prompt_nano or output_rate:
        prompt_nano += ROUNDING_NANO
    return Ask(
        principal=principal,
        prompt_nano=prompt_nano,
        output_nano_per_million=output_rate * call.choices,
        output_tokens=output_tokens,
        output_is_explicit=call.max_output is not None,
        choices=call.choices,
        prompt_tokens=estimates[0].prompt,
    )
