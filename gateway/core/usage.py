"""Token usage of one attempt, by type and modality, as the upstream reported it or as far as it was seen.

Wire facts: cached tokens are part of prompt tokens; reasoning and audio tokens are part of completion tokens.
"""

from typing import Any

import msgspec

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
    prompt = _clamp(wire.prompt_tokens, MAX_TOKENS)
    completion = _clamp(wire.completion_tokens, MAX_TOKENS)
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
