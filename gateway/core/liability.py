"""The most that an attempt may have made its upstream generate, when no usage says how much it was.

Rules:
- What was seen: no tokenizer makes more tokens than bytes; fewer, where this pool has shown how many tokens
  one of its pieces of text holds.
- What was not seen: the time in which the upstream could write unread, at a speed that it does not exceed.
- Where neither is known, everything that was held. Budgets are promises, so a guess must not replace a bound.
"""

import math

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Capability, Deployment, Modality, StopsWhenLeft

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
# How much a pool's worst observation is forgotten with each new one.
FORGETTING = 0.01


class Pace:
    """What the complete answers of a pool have shown: its fastest speed, and most tokens in one piece."""

    __slots__ = ("tokens_per_chunk", "tokens_per_second")

    def __init__(self) -> None:
        self.tokens_per_second: float | None = None
        self.tokens_per_chunk: float | None = None

    def learn(self, tokens: int, text_chunks: int, seconds: float) -> None:
        """A complete answer had `tokens` in `text_chunks` of text, and took `seconds` to write."""
        if tokens >= MEASURED_CHUNKS and seconds > 0:
            self.tokens_per_second = _worst(self.tokens_per_second, tokens / seconds)
        if text_chunks >= MEASURED_CHUNKS:
            self.tokens_per_chunk = _worst(self.tokens_per_chunk, tokens / text_chunks)


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What came of one answer: `text_chunks` of text of `text_bytes` in all.

    `watched_seconds` are those in which it was read as it came. In the `silent_seconds` the upstream could
    write and nobody read: until the first piece, while the client was slow to take one, from the last one on.
    """

    text_chunks: int
    text_bytes: int
    watched_seconds: float
    silent_seconds: float


def most_output(seen: Seen, pace: Pace, call: Call, deployment: Deployment, cap: int) -> int:
    """Output tokens that a broken attempt may be billed for at most, of the `cap` that its hold paid for."""
    if not _stops(deployment.stops_when_left, stream=call.stream) or Modality.AUDIO in call.modalities:
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


def _stops(when: StopsWhenLeft, *, stream: bool) -> bool:
    return when is StopsWhenLeft.ALWAYS or (when is StopsWhenLeft.STREAMS and stream)


def _worst(known: float | None, new: float) -> float:
    return new if known is None else max(new, known - FORGETTING * (known - new))
