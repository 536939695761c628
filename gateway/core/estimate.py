"""What a request may use: bounds before it is sent, for holds, and after an answer that broke off.

Of an answer without usage, whose upstream stops once it is left:
- What was seen: no tokenizer makes more tokens than bytes; fewer, where this pool has shown how many tokens
  one of its chunks of text holds.
- What was not seen: the time in which the upstream could write unread, at a speed that it does not exceed. It
  is that of its pool, or of the answer itself where nobody has measured that. Where neither is known it is
  the most that the configuration says of the deployment.
- Where the upstream goes on when it is left, everything that was held.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import msgspec

from gateway.core.admission import Ask
from gateway.core.call import Call
from gateway.core.catalog import Api, Capability, Deployment, Modality
from gateway.core.rates import Price
from gateway.core.tenancy import Principal
from gateway.core.text_size import TokenRatios, size_of
from gateway.dialects.table import ServerDialect

# The model's chat template adds tokens that are not in the body: roles, separators, the assistant primer;
# with tools a preamble of some hundred more. Generous, because a hold must not be too small.
TEMPLATE_TOKENS = 64
TOOLS_TEMPLATE_TOKENS = 1024

# An estimate from bytes may be this share too low. A count may lack what a template adds.
PROMPT_MARGIN_SHARE = 5
COUNTED_MARGIN_TOKENS = 16
# A guess leaves this part of the context to the answer at least, and refuses a prompt only where it is this
# share larger than the context.
GUESSED_ROOM_SHARE = 8
REFUSED_ABOVE = 1.25
# No text has more bytes for each token, and a guess is not this much too low.
MOST_BYTES_PER_TOKEN = 12
COUNTED_ABOVE = 2.0

# 8 kbit/s is the thinnest speech codec met in practice, and base64 adds a third: at ten tokens a second
# that is at most one token for each 100 bytes of base64. Speech as it comes has ten times as many bytes.
AUDIO_BYTES_PER_TOKEN = 100
LIKELY_AUDIO_BYTES_PER_TOKEN = 1000

# A scanned page of half a megabyte takes about as many tokens as a thousand words. Only what surely does not
# fit may be refused, so this is on the low side; the bound of a file is the whole context.
LIKELY_FILE_BYTES_PER_TOKEN = 512

# What the API itself gives a completion for which the client names no cap.
COMPLETION_DEFAULT_TOKENS = 16


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request on one deployment: `prompt` as likely, `prompt_bound` as the most it can be.

    `near`: the prompt may be too near to the context's end for an average to do. `is_counted`: somebody has.
    `uncapped`: the server honours no output cap, so `output` is the most that it writes at all.
    """

    prompt: int
    prompt_bound: int
    output: int
    near: bool = False
    is_counted: bool = False
    uncapped: bool = False


class Pool(Protocol):
    """What an estimate needs to know of the servers of a deployment: see `balancing.ReplicaSet`."""

    @property
    def deployment(self) -> Deployment: ...

    @property
    def dialect(self) -> ServerDialect: ...

    @property
    def bytes_per_token(self) -> float: ...

    @property
    def ratios(self) -> TokenRatios: ...


def estimate(call: Call, pool: Pool, now: float, counted: int | None = None) -> Estimate:
    """Estimate `call` on `pool` at `now` (monotonic seconds). `counted`: its prompt's tokens, where known."""
    deployment = pool.deployment
    bound = call.text_bytes + TEMPLATE_TOKENS
    if call.needs and Capability.TOOLS in call.needs:
        bound += TOOLS_TEMPLATE_TOKENS
    media, most, wanted = call.media, deployment.max_output_tokens, call.max_output
    context = deployment.context_tokens * call.prompts
    images = beside = 0
    if media.bytes:
        rule = deployment.image_rule
        images = media.images_low * rule.low + media.images_high * rule.high
        beside = images + media.audio_bytes // LIKELY_AUDIO_BYTES_PER_TOKEN
        beside += media.file_bytes // LIKELY_FILE_BYTES_PER_TOKEN
        bound += images + media.audio_bytes // AUDIO_BYTES_PER_TOKEN
        if media.file_bytes:
            bound = max(bound, context)
    # Where even its bytes leave room for all output, no way of counting them could change anything.
    near = bound + (most if wanted is None else 0) > context
    likely = int(call.text_bytes / pool.bytes_per_token) + 1
    if near:
        if counted is not None:
            likely = counted
        elif (size := size_of(call)) is not None:
            likely = pool.ratios.tokens(size, now)
    likely += beside
    if bound > context:
        bound = min(bound, max(context, likely))
    if call.api is Api.EMBEDDINGS:
        return Estimate(likely, bound, 0, near, counted is not None)
    if not pool.dialect.is_capped and pool.dialect.cap_field(call.api, call.members) is None:
        return Estimate(likely, bound, most, near, counted is not None, True)
    # The most output tokens of one choice: the client's own cap, never above the deployment's.
    if wanted is not None:
        output = wanted if wanted < most else most
    elif call.api is Api.COMPLETIONS:
        output = min(COMPLETION_DEFAULT_TOKENS, most)
    else:
        output = most if not near else min(most, _free(deployment, likely, is_counted=counted is not None))
    return Estimate(likely, bound, output, near, counted is not None)


def room_bytes(deployment: Deployment) -> int:
    """A prompt of so many bytes leaves room for all output of `deployment`, however it is counted."""
    most = deployment.max_output_tokens + TEMPLATE_TOKENS + TOOLS_TEMPLATE_TOKENS
    return max(deployment.context_tokens - most, 0)


def matters(call: Call, pool: Pool, now: float) -> bool:
    """Whether a count of the prompt may change what `estimate` makes of it."""
    expected, deployment = estimate(call, pool, now), pool.deployment
    context, wanted = deployment.context_tokens, call.max_output
    if not expected.near or call.text_bytes > context * MOST_BYTES_PER_TOKEN:
        return False
    output = deployment.max_output_tokens if wanted is None else 0
    return expected.prompt * COUNTED_ABOVE + TEMPLATE_TOKENS + output > context


def _free(deployment: Deployment, likely: int, *, is_counted: bool) -> int:
    """Output tokens for which the context has room beside a prompt of `likely` tokens.

    A cap that the client did not ask for must leave room for the prompt, or the upstream refuses it. But a
    guess must not leave an answer of one token: should it not fit, the server says so, and one more try
    follows.
    """
    context = deployment.context_tokens
    if is_counted:
        return max(context - likely - COUNTED_MARGIN_TOKENS, 1)
    free = context - likely - likely // PROMPT_MARGIN_SHARE - TEMPLATE_TOKENS
    return max(free, context // GUESSED_ROOM_SHARE, 1)


class Priced(Protocol):
    """What a hold needs to know of a candidate: see `sent.Candidate`."""

    @property
    def dearest(self) -> tuple[int, int]: ...

    @property
    def soon(self) -> tuple[Price, ...]: ...

    @property
    def has_more(self) -> bool: ...

    @property
    def deployment(self) -> Deployment: ...


def ask_for(
    call: Call, principal: Principal, candidates: Sequence[Priced], estimates: Sequence[Estimate]
) -> Ask:
    """The reservation that covers whichever candidate answers: each part priced at the dearest of them."""
    millionths = output_rate = output_tokens = beside = 0
    tier, uncapped = call.service_tier, False
    for candidate, expected in zip(candidates, estimates, strict=True):
        if tier is None and not candidate.has_more:
            input_rate, rate = candidate.dearest
        else:
            input_rate, rate = _dearest(candidate.soon, tier, expected.prompt_bound)
            deployment = candidate.deployment
            beside = max(beside, *(beside_tokens(call, deployment, price) for price in candidate.soon))
        most, output = expected.prompt_bound * input_rate, expected.output
        if most > millionths:
            millionths = most
        if rate > output_rate:
            output_rate = rate
        if output > output_tokens:
            output_tokens = output
        uncapped = uncapped or expected.uncapped
    if "prediction" in call.members:
        # Predicted text that the answer rejects is billed as output, beside the cap.
        millionths += predicted_tokens(call) * output_rate
    # Rounded up by itself, as the output is: a cost is rounded up once.
    prompt_nano = -(-millionths // 1_000_000) + beside
    return Ask(
        # By position: by name it costs four times as much, and this is made for every request.
        principal,
        prompt_nano,
        output_rate * call.choices,
        output_tokens,
        # An answer that no cap ends must fit as a whole, so a share of what is left does not do.
        call.max_output is not None or uncapped,
        call.choices,
        estimates[0].prompt,
    )


def predicted_tokens(call: Call) -> int:
    """The most tokens of a prediction that all answers may reject: they are written beside the cap."""
    return (call.text_bytes + TEMPLATE_TOKENS) * call.choices


def _dearest(prices: tuple[Price, ...], tier: str | None, prompt_bound: int) -> tuple[int, int]:
    found = [price.dearest(tier, prompt_bound) for price in prices]
    return max(one[0] for one in found), max(one[1] for one in found)


def beside_tokens(call: Call, deployment: Deployment, price: Price) -> int:
    """What `call` costs at most beside its tokens, in nano-USD.

    No field of the chat API bounds searches, so the deployment has a bound of its own.
    """
    searches = deployment.searches_unasked or Capability.WEB_SEARCH in call.needs
    return price.per_request + (deployment.most_searches * price.per_search if searches else 0)


# How long an upstream may go on before it notices that nobody listens: the way there, and one step of it.
NOTICE_SECONDS = 0.25
# No upstream is taken to be slower than this, and one that was measured may double its speed at any moment.
LEAST_TOKENS_PER_SECOND = 1000.0
SPEED_MARGIN = 2
# All pieces may have come in one moment; then only this much time is sure to have passed.
CLOCK_SECONDS = 0.001
# Fewer pieces of text than these say nothing about a size, nor about the speed of others.
MEASURED_CHUNKS = 16
# Of its own speed a stream shows something from the second piece on.
TIMED_CHUNKS = 2
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


def learn_from_broken(pace: Pace, seen: Seen) -> None:
    """What a stream that was left shows of the speed of its pool. It never makes that slower."""
    if seen.text_chunks >= MEASURED_CHUNKS:
        own = _own_speed(seen, pace)
        if own > (pace.tokens_per_second or 0.0):
            pace.tokens_per_second = own


def most_output(seen: Seen, pace: Pace, call: Call, deployment: Deployment, cap: int) -> int:
    """Output tokens that a broken attempt may be billed for at most, of the `cap` that its hold paid for."""
    if not deployment.stops_when_left.stops(stream=call.stream) or Modality.AUDIO in call.modalities:
        return cap
    speed = _speed(seen, pace, deployment.most_tokens_per_second)
    unseen = math.ceil((seen.silent_seconds + NOTICE_SECONDS) * speed) * call.choices
    return min(_most_seen(seen, pace, call) + unseen, cap)


def most_output_of_whole(seen: Seen, pace: Pace, call: Call, cap: int) -> int:
    """The same of an answer that came whole, and without usage."""
    return cap if Modality.AUDIO in call.modalities else min(_most_seen(seen, pace, call), cap)


def _most_seen(seen: Seen, pace: Pace, call: Call) -> int:
    if seen.reported_tokens is not None:
        return seen.reported_tokens
    # An answer in one piece has no pieces that were seen.
    tokens = _most_in_pieces(seen, pace) if call.stream else seen.text_bytes
    silent = SILENT_TOKENS + (TOOLS_SILENT_TOKENS if Capability.TOOLS in call.needs else 0)
    return tokens + silent * call.choices


def _speed(seen: Seen, pace: Pace, most: float) -> float:
    """Tokens a second that one choice surely did not exceed; `most` when nothing was measured."""
    fastest = pace.tokens_per_second
    if seen.text_chunks >= (TIMED_CHUNKS if fastest is None else MEASURED_CHUNKS):
        fastest = max(fastest or 0.0, _own_speed(seen, pace))
    return most if fastest is None else max(fastest * SPEED_MARGIN, LEAST_TOKENS_PER_SECOND)


def _own_speed(seen: Seen, pace: Pace) -> float:
    tokens = max(_most_in_pieces(seen, pace), seen.text_chunks)
    return tokens / max(seen.watched_seconds, CLOCK_SECONDS)


def _most_in_pieces(seen: Seen, pace: Pace) -> int:
    # Where nobody has shown how many tokens a piece holds, there are no more of them than bytes.
    if pace.tokens_per_chunk is None:
        return seen.text_bytes
    return min(seen.text_bytes, math.ceil(seen.text_chunks * max(pace.tokens_per_chunk, 1.0)))


def _worst(known: float | None, new: float) -> float:
    return new if known is None else max(new, known - FORGETTING * (known - new))
