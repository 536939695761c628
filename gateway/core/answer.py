"""What an upstream's answer says of itself: model, choices, usage, service tier, errors. And what usage is.

An answer is the client's, whatever its `id` or its usage look like. What is not of the expected type counts
as left out: a member that is only watched must never turn an answer that was paid for into a failure.
"""

from typing import Any

import msgspec

from gateway.core.errors import FailureKind, UpstreamFailure
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
    """The upstream itself reported this usage."""

    usage: Usage
    service_tier: str | None = None


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
_NO_ERROR = frozenset({b"", b"null", b'""', b"[]", b"false", b"0"})

# What a choice says that came to its end, whatever else went wrong.
_WHOLE = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})


class Choice(msgspec.Struct, gc=False):
    """One completion, or a piece of it. `index` tells those of one answer apart."""

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
        return self.choices[0].finish_reason if self.choices else None

    @property
    def has_error(self) -> bool:
        return self.error is not _NOTHING and bytes(self.error) not in _NO_ERROR

    def is_error(self, body: bytes) -> bool:
        """True when `body`, which this is of, is an error; one beside a whole answer makes no difference."""
        has_error = self.has_error and bytes(self.error) != b"{}"
        if self.choices:
            return has_error and not any(choice.finish_reason in _WHOLE for choice in self.choices)
        return has_error or (self.usage is None and is_error(body))


_decode = msgspec.json.Decoder(Observed).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_choice = msgspec.json.Decoder(Choice).decode
_decode_text = msgspec.json.Decoder(str | None).decode
_decode_usage = msgspec.json.Decoder(WireUsage | None).decode

BROKEN_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def observe(text: bytes) -> Observed:
    """Raises one of BROKEN_JSON when `text` is no JSON object."""
    try:
        return _decode(text)
    except msgspec.ValidationError:
        return _observe_one_by_one(_decode_members(text))


def _observe_one_by_one(members: dict[str, msgspec.Raw]) -> Observed:
    choices = _or_none(_decode_list, members.get("choices"))
    return Observed(
        model=_or_none(_decode_text, members.get("model")),
        choices=None if choices is None else [_choice(raw) for raw in choices],
        usage=_or_none(_decode_usage, members.get("usage")),
        service_tier=_or_none(_decode_text, members.get("service_tier")),
        error=members.get("error", _NOTHING),
    )


def _choice(raw: msgspec.Raw) -> Choice:
    return _or_none(_decode_choice, raw) or Choice()


def _or_none(decode: Any, raw: msgspec.Raw | None) -> Any:
    try:
        return None if raw is None else decode(raw)
    except BROKEN_JSON:
        return None


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
        try:
            answer = _decode(body)
        except msgspec.ValidationError:
            answer = observe(body)
    except BROKEN_JSON as exc:
        raise UpstreamFailure(FailureKind.BODY, "the answer is not the JSON that was expected") from exc
    if (answer.error is not _NOTHING or not answer.choices) and answer.is_error(body):
        raise ErrorInstead(body)
    for choice in answer.choices or ():
        if choice.finish_reason == "abort":
            raise UpstreamFailure(FailureKind.ABORTED, "the engine aborted the generation")
    return answer
