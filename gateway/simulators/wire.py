"""Bodies and stream events of chat and legacy completions. What differs between servers is in `Shape`."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import orjson

from gateway.simulators.answers import Answer, ToolCall
from gateway.simulators.odd_values import odd
from gateway.simulators.requests import Json, SimulatedCall
from gateway.simulators.tokens import Piece

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
_HOLE = "\x00hole\x00"
_HOLE_BYTES = orjson.dumps(_HOLE)

UsageOf = Callable[[int], Json]
"""The `usage` object after so many completion tokens."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that one server has and the other has not, by where they stand."""

    chunk: Json
    """In every chunk, after `model`."""
    body: Json
    """In a whole answer, at the end."""
    message: Json
    opening_delta: Json
    choice: Json
    """In a choice of a whole answer; `stop_reason` is filled in where it is a key."""
    streamed_choice: Json
    closing_choice: Json
    """In the last chunk of a choice; `stop_reason` likewise."""
    logprobs: Json
    null_usage: bool
    """Chunks before the last carry `"usage": null` under include_usage."""
    tool_id_prefix: str
    done_after_error: bool


class Wire:
    """Encodes one request's answer. `model` is the name that the server reports."""

    def __init__(
        self,
        call: SimulatedCall,
        shape: Shape,
        *,
        ident: str,
        created: int,
        model: str,
        usage_of: UsageOf,
        odd_values: bool = False,
    ) -> None:
        self._odd_values = odd_values
        self._call = call
        self._shape = shape
        self._usage_of = usage_of
        kind = "chat.completion" if call.is_chat else "text_completion"
        streamed_kind = "chat.completion.chunk" if call.is_chat else kind
        named = {"created": created, "model": model}
        self._body = {"id": ident, "object": kind, **named}
        self._chunk = {"id": ident, "object": streamed_kind, **named, **shape.chunk}
        if call.service_tier in ("priority", "flex") and "service_tier" in shape.chunk:
            self._chunk["service_tier"] = call.service_tier

    # Whole answers

    def body(self, answers: list[Answer], *, with_usage: bool) -> bytes:
        choice = self._chat_choice if self._call.is_chat else self._text_choice
        document = {**self._body, "choices": [choice(answer) for answer in answers]}
        if with_usage:
            document["usage"] = self._usage_of(sum(answer.tokens for answer in answers))
        return self._encoded({**document, **self._shape.body, **self._tier()})

    def _tier(self) -> Json:
        return {"service_tier": self._chunk["service_tier"]} if "service_tier" in self._shape.chunk else {}

    def _chat_choice(self, answer: Answer) -> Json:
        message: Json = {"role": "assistant", "content": answer.text, **self._shape.message}
        if answer.tool_calls:
            message["content"] = None
            message["tool_calls"] = [self._tool_call(call) for call in answer.tool_calls]
        return {
            "index": answer.index,
            "message": message,
            "logprobs": self._logprobs(answer.pieces),
            "finish_reason": answer.finish_reason,
            **_with_stop_reason(self._shape.choice, answer),
        }

    def _text_choice(self, answer: Answer) -> Json:
        return {
            "text": self._echoed(answer.index) + answer.text,
            "index": answer.index,
            "logprobs": self._logprobs(answer.pieces),
            "finish_reason": answer.finish_reason,
            **_with_stop_reason(self._shape.choice, answer),
        }

    def _echoed(self, index: int) -> str:
        prompt = self._call.prompts[index // self._call.choices_per_prompt]
        return prompt if self._call.echo and isinstance(prompt, str) else ""

    def _tool_call(self, call: ToolCall) -> Json:
        arguments = "".join(text for text, _ in call.arguments)
        return {
            "id": self._shape.tool_id_prefix + call.ident,
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    # Streams

    def opening(self, index: int) -> bytes:
        """The event before a choice's first token: the role, or nothing on the legacy endpoint."""
        if not self._call.is_chat:
            return self._event([self._text_delta(index, self._echoed(index))], 0) if self._call.echo else b""
        delta = {"role": "assistant", "content": "", **self._shape.opening_delta}
        return self._event([self._choice(index, delta)], 0)

    def deltas(self, answer: Answer) -> Iterator[tuple[bytes, int]]:
        """Events of one choice with the tokens that each carries."""
        sent = 0
        for place, call in enumerate(answer.tool_calls):
            for delta, tokens in self._tool_deltas(place, call):
                sent += tokens
                yield self._event([self._choice(answer.index, {"tool_calls": [delta]})], sent), tokens
        plain = not self._call.continuous_usage and self._call.top_logprobs is None
        pieces = self._plain_deltas if plain else self._full_deltas
        yield from pieces(answer)

    def closing(self, answer: Answer, sent: int) -> bytes:
        """The last event of a choice, of which `sent` tokens went out."""
        finish = {
            "finish_reason": answer.finish_reason,
            **_with_stop_reason(self._shape.closing_choice, answer),
        }
        if self._call.is_chat:
            return self._event([{**self._choice(answer.index, {}), **finish}], sent)
        return self._event([{**self._text_delta(answer.index, ""), **finish}], sent)

    def usage(self, tokens: int) -> bytes:
        return self._sse({**self._chunk, "choices": [], "usage": self._usage_of(tokens)})

    def _plain_deltas(self, answer: Answer) -> Iterator[tuple[bytes, int]]:
        """The hot path: the chunk is encoded once and only its text filled in."""
        before, after = self._event([self._content(answer.index, _HOLE)], 0).split(_HOLE_BYTES)
        for text, tokens in answer.pieces:
            yield before + orjson.dumps(text) + after, tokens

    def _full_deltas(self, answer: Answer) -> Iterator[tuple[bytes, int]]:
        sent = 0
        for piece in answer.pieces:
            sent += piece[1]
            choice = self._content(answer.index, piece[0])
            choice["logprobs"] = self._logprobs((piece,))
            yield self._event([choice], sent), piece[1]

    def _tool_deltas(self, place: int, call: ToolCall) -> Iterator[tuple[Json, int]]:
        first = {
            "index": place,
            "id": self._shape.tool_id_prefix + call.ident,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        yield first, call.name_tokens
        for text, tokens in call.arguments:
            yield {"index": place, "function": {"arguments": text}}, tokens

    def _content(self, index: int, text: str) -> Json:
        return self._choice(index, {"content": text}) if self._call.is_chat else self._text_delta(index, text)

    def _choice(self, index: int, delta: Json) -> Json:
        fixed = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**fixed, **self._shape.streamed_choice}

    def _text_delta(self, index: int, text: str) -> Json:
        fixed = {"text": text, "index": index, "logprobs": None, "finish_reason": None}
        return {**fixed, **self._shape.streamed_choice}

    def _event(self, choices: list[Json], tokens: int) -> bytes:
        chunk = {**self._chunk, "choices": choices}
        if self._call.include_usage:
            if self._call.continuous_usage:
                # Of this choice alone, and without the details of the last one.
                usage = self._usage_of(tokens)
                chunk["usage"] = {name: count for name, count in usage.items() if type(count) is int}
            elif self._shape.null_usage:
                chunk["usage"] = None
        return self._sse(chunk)

    def _sse(self, chunk: Json) -> bytes:
        return b"data: " + self._encoded(chunk) + b"\n\n"

    def _encoded(self, document: Json) -> bytes:
        return odd(document) if self._odd_values else orjson.dumps(document)

    # Log probabilities

    def _logprobs(self, pieces: tuple[Piece, ...]) -> Json | None:
        if self._call.top_logprobs is None:
            return None
        entries = [_logprob(text, self._call.top_logprobs) for text, _ in pieces]
        if self._call.is_chat:
            return {"content": entries, **self._shape.logprobs}
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries
            ],
            "text_offset": _offsets(pieces),
        }


def error_event(envelope: bytes) -> bytes:
    return b"data: " + envelope + b"\n\n"


def _with_stop_reason(fields: Json, answer: Answer) -> Json:
    return {**fields, "stop_reason": answer.stop_reason} if "stop_reason" in fields else fields


def _logprob(text: str, top: int) -> dict[str, Any]:
    """Invented but stable: longer tokens are a little less sure, alternatives ever less likely."""
    sure = -0.01 * (1 + len(text))
    tops = [_token_logprob(text if rank == 0 else f"{text}{rank}", sure - 1.5 * rank) for rank in range(top)]
    return {**_token_logprob(text, sure), "top_logprobs": tops}


def _token_logprob(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": round(logprob, 4), "bytes": list(text.encode())}


def _offsets(pieces: tuple[Piece, ...]) -> list[int]:
    offsets, at = [], 0
    for text, _ in pieces:
        offsets.append(at)
        at += len(text)
    return offsets
