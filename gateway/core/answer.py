"""What an upstream's answer says of itself: model, choices, usage, service tier, errors. And what usage is.

An answer is the client's, whatever its `id` or its usage look like. What is not of the expected type counts
as left out: a member that is only watched must never turn an answer that was paid for into a failure.
"""

from typing import Any

import msgspec

from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.lenient import NoObject, read_leniently
from gateway.core.verdicts import is_error

# More than any context window by far; an upstream that reports 10**30 must not end up in a budget.
MAX_TOKENS = 10**9


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Tokens of one attempt. The `input_*` and `output_*` parts are disjoint and add up to the totals.

    `input_cached` is the part of `input_text` + `input_image` + `input_audio` that the provider served from
    its cache; `output_reasoning` is the part of the output that the client never sees.
    """

    input_text: int = 0
    input_image: int = 0
    input_audio: int = 0
    input_cached: int = 0
    output_text: int = 0
    output_audio: int = 0
    output_reasoning: int = 0

    @property
    def input_tokens(self) -> int:
        """All prompt tokens, the cached ones included."""
        return self.input_text + self.input_image + self.input_audio

    @property
    def output_tokens(self) -> int:
        """All completion tokens, the reasoning ones included."""
        return self.output_text + self.output_audio + self.output_reasoning


NO_USAGE = Usage()


class Exact(msgspec.Struct, frozen=True, gc=False):
    """The upstream itself reported this usage.

    Not `is_final`: with the last chunk of a stream that broke off. It may have written more since.
    """

    usage: Usage
    service_tier: str | None = None
    is_final: bool = True


class UnderEstimate(msgspec.Struct, frozen=True, gc=False):
    """The stream broke before the usage arrived: at least this much was used. Never a reason to refund."""

    usage: Usage


Metered = Exact | UnderEstimate


# Some servers write their counts as 12.0.
_Count = int | float


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = 0
    audio_tokens: _Count | None = 0
    image_tokens: _Count | None = 0


class _MultimodalTokens(msgspec.Struct, gc=False):
    image: _Count | None = 0


class _VllmPromptDetails(_PromptDetails, gc=False):
    multimodal_tokens: _MultimodalTokens | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = 0
    audio_tokens: _Count | None = 0


class WireUsage(msgspec.Struct, gc=False):
    """The `usage` object of chat/completions, completions and embeddings, with vLLM's extra details."""

    prompt_tokens: _Count | None = 0
    completion_tokens: _Count | None = 0
    prompt_tokens_details: _VllmPromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


def usage_from_wire(wire: WireUsage) -> Usage:
    """An upstream's usage object as disjoint parts; inconsistent details are clamped to the totals."""
    prompt, completion = wire.prompt_tokens, wire.completion_tokens
    if type(prompt) is not int or not 0 <= prompt <= MAX_TOKENS:
        prompt = _clamp(prompt, MAX_TOKENS)
    if type(completion) is not int or not 0 <= completion <= MAX_TOKENS:
        completion = _clamp(completion, MAX_TOKENS)
    if wire.prompt_tokens_details is None and wire.completion_tokens_details is None:
        return Usage(input_text=prompt, output_text=completion)
    image = audio = cached = reasoning = audio_out = 0
    if (details := wire.prompt_tokens_details) is not None:
        image = _clamp(details.image_tokens, prompt)
        if not image and details.multimodal_tokens is not None:
            image = _clamp(details.multimodal_tokens.image, prompt)
        audio = _clamp(details.audio_tokens, prompt - image)
        cached = _clamp(details.cached_tokens, prompt)
    if (out := wire.completion_tokens_details) is not None:
        reasoning = _clamp(out.reasoning_tokens, completion)
        audio_out = _clamp(out.audio_tokens, completion - reasoning)
    return Usage(
        input_text=prompt - image - audio,
        input_image=image,
        input_audio=audio,
        input_cached=cached,
        output_text=completion - reasoning - audio_out,
        output_audio=audio_out,
        output_reasoning=reasoning,
    )


def _clamp(value: _Count | None, ceiling: int) -> int:
    return int(min(max(value or 0, 0), ceiling))


def usage_as_dict(usage: Usage) -> dict[str, Any]:
    """`usage` as plain JSON values, for records and reports."""
    return msgspec.structs.asdict(usage)


_NOTHING = msgspec.Raw()
_NO_ERROR = frozenset({b"", b"null"})
# What an upstream may leave in `error` beside an answer without meaning that anything failed.
_EMPTY_ERROR = frozenset({b'""', b"{}", b"[]", b"false", b"0"})
# Without them nothing is known of what an answer used; without any other, less of what its parts were.
_TOTALS = frozenset({"usage.prompt_tokens", "usage.completion_tokens", "usage.total_tokens"})
# What a choice says that came to its end, whatever else went wrong.
_WHOLE = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})


class Choice(msgspec.Struct, gc=False):
    """One completion, or a piece of it. `index` tells those of one answer apart.

    `finish_reason`: None or empty while it goes on.
    """

    index: int = 0
    finish_reason: str | None = None


class Observed(msgspec.Struct, gc=False):
    """What one answer, or one event of a stream, says of itself."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None
    error: msgspec.Raw = _NOTHING  # `Raw | None` would take nothing but null

    @property
    def finish_reason(self) -> str | None:
        return self.choices[0].finish_reason or None if self.choices else None

    @property
    def has_error(self) -> bool:
        error = bytes(self.error)
        return error not in _NO_ERROR and not (self.choices and error in _EMPTY_ERROR)

    def is_error(self, body: bytes) -> bool:
        """True when `body`, which this is of, is an error; one beside a whole answer makes no difference."""
        has_error = self.has_error and bytes(self.error) not in _EMPTY_ERROR
        if self.choices:
            return has_error and not any(choice.finish_reason in _WHOLE for choice in self.choices)
        return has_error or (self.usage is None and is_error(body))


_decode = msgspec.json.Decoder(Observed).decode

BROKEN_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, NoObject)


def observe(text: bytes) -> Observed:
    """Raises one of BROKEN_JSON when `text` is no JSON object."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        observed, misfits = read_leniently(text, Observed)
        if not _TOTALS.isdisjoint(misfits):
            observed.usage = None
        return observed


class ErrorInstead(Exception):
    """An answer, of status 200, is an error. `body` is what came."""

    def __init__(self, body: bytes) -> None:
        super().__init__("an error in place of an answer")
        self.body = body


def read_answer(body: bytes) -> Observed:
    """Raises UpstreamFailure when `body` is no JSON answer (BODY) or the engine gave up on it (ABORTED).

    Raises ErrorInstead when it is an error.
    """
    try:
        answer = observe(body)
    except RecursionError:
        return Observed()  # nested too deeply to be read here; the client may do better
    except BROKEN_JSON as exc:
        raise UpstreamFailure(FailureKind.BODY, "the answer is not the JSON that was expected") from exc
    if (answer.error is not _NOTHING or not answer.choices) and answer.is_error(body):
        raise ErrorInstead(body)
    for choice in answer.choices or ():
        if choice.finish_reason == "abort":
            raise UpstreamFailure(FailureKind.ABORTED, "the engine aborted the generation")
    return answer
