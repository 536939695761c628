"""What a request may use: bounds before it is sent, for holds, and after an answer that broke off.

Of an answer without usage:
- What was seen: no tokenizer makes more tokens than bytes; fewer, where this pool has shown how many tokens
  one of its chunks of text holds.
- What was not seen: the time in which the upstream could write unread, at a speed that it does not exceed.
- Where neither is known, everything that was held. Budgets are promises, so a guess must not replace a bound.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.core.admission import Ask
from gateway.core.call import Call
from gateway.core.catalog import Api, Capability, Deployment, Modality, Price
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
    if call.needs and Capability.TOOLS in call.needs:
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
    if bound > context:
        bound = min(bound, max(context, likely))
    # The most output tokens of one choice: the client's own cap, never above the deployment's.
    most = deployment.max_output_tokens
    if call.api is Api.EMBEDDINGS:
        output = 0
    elif call.max_output is not None:
        output = call.max_output if call.max_output < most else most
    elif call.api is Api.COMPLETIONS:
        output = min(COMPLETION_DEFAULT_TOKENS, most)
    else:
        # A cap that the client did not ask for must leave room for the prompt, or the upstream refuses it.
        free = deployment.context_tokens - likely - likely // PROMPT_MARGIN_SHARE - TEMPLATE_TOKENS
        output = max(min(most, free), 1)
    return Estimate(likely, bound, output)


class Priced(Protocol):
    """What a hold needs to know of a candidate: see `sent.Candidate`."""

    @property
    def dearest(self) -> tuple[int, int]: ...

    @property
    def soon(self) -> tuple[Price, ...]: ...


def ask_for(
    call: Call, principal: Principal, candidates: Sequence[Priced], estimates: Sequence[Estimate]
) -> Ask:
    """The reservation that covers whichever candidate answers: each part priced at the dearest of them."""
    millionths = output_rate = output_tokens = 0
    tier = call.service_tier
    for candidate, expected in zip(candidates, estimates, strict=True):
        input_rate, rate = candidate.dearest if tier is None else _dearest(candidate.soon, tier)
        most, output = expected.prompt_bound * input_rate, expected.output
        if most > millionths:
            millionths = most
        if rate > output_rate:
            output_rate = rate
        if output > output_tokens:
            output_tokens = output
    prompt_nano = -(-millionths // 1_000_000)
    if prompt_nano or output_rate:
        prompt_nano += ROUNDING_NANO
    return Ask(
        # By position: by name it costs four times as much, and this is made for every request.
        principal,
        prompt_nano,
        output_rate * call.choices,
        output_tokens,
        call.max_output is not None,
        call.choices,
        estimates[0].prompt,
    )


def _dearest(prices: tuple[Price, ...], tier: str) -> tuple[int, int]:
    found = [price.dearest(tier) for price in prices]
    return max(one[0] for one in found), max(one[1] for one in found)


# How long an upstream may go on before it notices that nobody listens: the way there, and one step of it.
NOTICE_SECONDS = 0.25
# No upstream is taken to be slower than this, and one that was measured may double its speed at any moment.
LEAST_TOKENS_PER_SECOND = 1000.0
SPEED_MARGIN = 2
# All pieces may have come in one moment; then only this much time is sure to have passed.
CLOCK_SECONDS = 0.001
# Fewer pieces of text than these say nothing about a speed or a size.
MEASURED_CHUNKS = 16
# Tokens without text: ends of turns, and with tools the names and the marks around arguments.
SILENT_TOKENS = 64
TOOLS_SILENT_TOKENS = 512
# How much one answer moves what is usual.
USUAL_SMOOTHING = 0.1
# How much a pool's worst observation is forgotten with each new one.
FORGETTING = 0.01


class Pace:
    """What the complete answers of a pool have shown.

    Bounds: its fastest speed, and most tokens in one piece. And what is usual, which bounds nothing.
    """

    __slots__ = ("tokens_per_chunk", "tokens_per_second", "usual_tokens_per_second")

    def __init__(self) -> None:
        self.usual_tokens_per_second: float | None = None  # of one choice, since it was asked for
        self.tokens_per_second: float | None = None
        self.tokens_per_chunk: float | None = None

    def learn(self, tokens: int, text_chunks: int, seconds: float) -> None:
        """A complete answer had `tokens` in `text_chunks` of text, and took `seconds` to write."""
        if tokens >= MEASURED_CHUNKS and seconds > 0:
            new, known = tokens / seconds, self.tokens_per_second
            if known is None or new >= known:
                self.tokens_per_second = new
            else:  # `_worst` written out: it runs for every answer
                self.tokens_per_second = max(new, known - FORGETTING * (known - new))
        if text_chunks >= MEASURED_CHUNKS:
            self.tokens_per_chunk = _worst(self.tokens_per_chunk, tokens / text_chunks)

    def learn_usual(self, tokens: float, seconds: float) -> None:
        """One choice of a complete answer had `tokens`, the last of them `seconds` after it was asked for."""
        if tokens >= MEASURED_CHUNKS and seconds > 0:
            new, known = tokens / seconds, self.usual_tokens_per_second
            self.usual_tokens_per_second = new if known is None else known + USUAL_SMOOTHING * (new - known)

    def likely_output(self, seconds: float) -> int:
        """Tokens that one choice usually has `seconds` after it was asked for; 0 where nothing is known."""
        return int((self.usual_tokens_per_second or 0.0) * seconds)


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What came of one answer: `text_chunks` of text of `text_bytes` in all.

    `reported_tokens`: how many tokens it had so far, where the upstream said so with the last piece.

    `watched_seconds` are those in which it was read as it came. In the `silent_seconds` the upstream could
    write and nobody read: until the first piece, while the client was slow to take one, from the last one on.
    """

    text_chunks: int
    text_bytes: int
    watched_seconds: float
    silent_seconds: float
    reported_tokens: int | None = None


def most_output(seen: Seen, pace: Pace, call: Call, deployment: Deployment, cap: int) -> int:
    """Output tokens that a broken attempt may be billed for at most, of the `cap` that its hold paid for."""
    if not deployment.stops_when_left.stops(stream=call.stream) or Modality.AUDIO in call.modalities:
        return cap
    speed = _speed(seen, pace)
    if speed is None:
        return cap
    unseen = math.ceil((seen.silent_seconds + NOTICE_SECONDS) * speed) * call.choices
    return min(_most_seen(seen, pace, call) + unseen, cap)


def most_output_of_whole(seen: Seen, pace: Pace, call: Call, cap: int) -> int:
    """The same of an answer that came whole, and without usage."""
    return cap if Modality.AUDIO in call.modalities else min(_most_seen(seen, pace, call), cap)


def _most_seen(seen: Seen, pace: Pace, call: Call) -> int:
    if seen.reported_tokens is not None:
        return seen.reported_tokens
    tokens = seen.text_bytes
    if pace.tokens_per_chunk is not None and call.stream:
        tokens = min(tokens, math.ceil(seen.text_chunks * max(pace.tokens_per_chunk, 1.0)))
    silent = SILENT_TOKENS + (TOOLS_SILENT_TOKENS if Capability.TOOLS in call.needs else 0)
    return tokens + silent * call.choices


def _speed(seen: Seen, pace: Pace) -> float | None:
    """Tokens a second that one choice surely did not exceed; None when nothing was measured."""
    fastest = pace.tokens_per_second
    if seen.text_chunks >= MEASURED_CHUNKS:
        watched = max(seen.watched_seconds, CLOCK_SECONDS)
        own = seen.text_chunks / watched * max(pace.tokens_per_chunk or 1.0, 1.0)
        fastest = max(fastest or 0.0, own)
    return None if fastest is None else max(fastest * SPEED_MARGIN, LEAST_TOKENS_PER_SECOND)


def _worst(known: float | None, new: float) -> float:
    return new if known is None else max(new, known - FORGETTING * (known - new))
