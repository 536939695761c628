"""Answers that depend on the prompt and the seed alone, cut into the tokens in which they are streamed."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

import msgspec
import orjson

from gateway.simulators import schemas
from gateway.simulators.prompts import Prompt
from gateway.simulators.requests import Json, SimulatedCall
from gateway.simulators.tokens import Piece, SimulatorTokenizer

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_SENTENCES = (
    " The short version is that the numbers support a careful start.",
    " Two points matter most, and both follow from the text you gave.",
    " First, the schedule leaves little room for a second review.",
    " Second, the costs grow with volume rather than with headcount.",
    " I would compare the last three months before drawing a conclusion.",
    " A small pilot with clear limits would answer the open question.",
    " The earlier notes agree with this, apart from one detail on page four.",
    " It helps to write down who decides and by which date.",
    " Nothing in the material suggests a problem with the approach itself.",
    " The main risk is that the data arrives late or incomplete.",
    " In that case the team can fall back to the previous process.",
    " Most readers will want the summary before the tables.",
    " The naïve reading is tempting, yet the appendix points the other way.",
    " Please check the figures against the source before you share them.",
    " If the goal changes, the plan should change with it.",
    " That keeps the work simple and the outcome easy to explain.",
)


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a function; `arguments` is JSON text, cut into tokens."""

    ident: str
    name: str
    name_tokens: int
    arguments: tuple[Piece, ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One choice. `stop_reason` is the stop string that ended it."""

    index: int
    pieces: tuple[Piece, ...]
    finish_reason: str
    tool_calls: tuple[ToolCall, ...] = ()
    stop_reason: str | None = None
    tokens: int = 0
    """Of the text and the tool calls. Counted once, on creation."""

    def __post_init__(self) -> None:
        called = sum([call.name_tokens + _tokens(call.arguments) for call in self.tool_calls])
        msgspec.structs.force_setattr(self, "tokens", _tokens(self.pieces) + called)

    @property
    def text(self) -> str:
        return "".join([piece for piece, _ in self.pieces])

    def cut(self, tokens: int, finish_reason: str) -> "Answer":
        """The answer as it stands after so many tokens; unfinished tool calls are dropped."""
        pieces = tuple(_within(self.pieces, tokens))
        return Answer(index=self.index, pieces=pieces, finish_reason=finish_reason)


class Composer:
    """Writes answers: text, JSON for a response format, or tool calls."""

    def __init__(self, tokenizer: SimulatorTokenizer) -> None:
        self._tokenizer = tokenizer
        self._sentences = [tokenizer.pieces(sentence) for sentence in _SENTENCES]

    def compose(
        self, call: SimulatedCall, prompt: Prompt, *, index: int, seed: int, output_tokens: int, limit: int
    ) -> Answer:
        """Choice `index`, of `output_tokens` tokens if it is text, never more than `limit` tokens."""
        random = Random(_number(prompt.digest, seed, index))  # noqa: S311  # reproducible on purpose
        if tools := _chosen_tools(call, prompt.asked):
            return self._tool_answer(index, tools, random, limit)
        if (schema := _wanted_schema(call)) is not None:
            text = orjson.dumps(schemas.sample(schema, random)).decode()
            return _limited(index, self._tokenizer.pieces(text), limit, call.stop)
        length = limit if call.ignore_eos else max(output_tokens, call.min_tokens)
        pieces = self._prose(prompt.asked, random, min(length, limit))
        if length <= limit and not call.ignore_eos:
            pieces[-1] = (".", pieces[-1][1])
            return _stopped(index, pieces, "stop", call.stop)
        return _stopped(index, pieces, "length", call.stop)

    def _prose(self, asked: str, random: Random, length: int) -> list[Piece]:
        words = asked.split()[:8]
        quoted = f"You asked about “{' '.join(words)[:200]}”." if words else "Here is what I can say."
        pieces = list(self._tokenizer.pieces(quoted))
        at, step = (
            random.randrange(len(_SENTENCES)),
            random.choice((3, 5, 7, 11)),
        )  # steps coprime to the number
        while len(pieces) < length:
            pieces.extend(self._sentences[at])
            at = (at + step) % len(_SENTENCES)
        del pieces[length:]
        if _tokens(pieces) == length:
            return pieces
        kept = list(_within(pieces, length))
        # A character of several tokens that no longer fits leaves room: fill it with single tokens.
        return kept + [(".", 1)] * (length - _tokens(kept))

    def _tool_answer(self, index: int, tools: Iterable[Json], random: Random, limit: int) -> Answer:
        calls = tuple(self._tool_call(tool["function"], random) for tool in tools)
        answer = Answer(index=index, pieces=(), finish_reason="tool_calls", tool_calls=calls)
        if answer.tokens <= limit:
            return answer
        left = max(limit - calls[0].name_tokens, 0)
        short = msgspec.structs.replace(calls[0], arguments=tuple(_within(calls[0].arguments, left)))
        return Answer(index=index, pieces=(), finish_reason="length", tool_calls=(short,))

    def _tool_call(self, function: Json, random: Random) -> ToolCall:
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        arguments = orjson.dumps(schemas.sample(parameters, random)).decode()
        return ToolCall(
            ident=f"{random.getrandbits(96):024x}",
            name=function["name"],
            name_tokens=self._tokenizer.count(function["name"]),
            arguments=self._tokenizer.pieces(arguments),
        )


def _number(digest: bytes, seed: int, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(digest + repr((seed, index)).encode(), digest_size=8).digest())


def _tokens(pieces: Iterable[Piece]) -> int:
    return sum([tokens for _, tokens in pieces])


def _within(pieces: Iterable[Piece], limit: int) -> Iterator[Piece]:
    used = 0
    for piece in pieces:
        used += piece[1]
        if used > limit:
            return
        yield piece


def _limited(index: int, pieces: Sequence[Piece], limit: int, stop: tuple[str, ...]) -> Answer:
    whole = _tokens(pieces) <= limit
    kept = pieces if whole else list(_within(pieces, limit))
    return _stopped(index, kept, "stop" if whole else "length", stop)


def _stopped(index: int, pieces: Sequence[Piece], finish_reason: str, stops: tuple[str, ...]) -> Answer:
    """The answer, ended before the first stop string. The piece that holds it is cut and still counts."""
    text = "".join(piece for piece, _ in pieces) if stops else ""
    found = min(((text.find(stop), stop) for stop in stops if stop in text), default=None)
    if found is None:
        return Answer(index=index, pieces=tuple(pieces), finish_reason=finish_reason)
    kept = tuple(_first_chars(pieces, found[0]))
    return Answer(index=index, pieces=kept, finish_reason="stop", stop_reason=found[1])


def _first_chars(pieces: Iterable[Piece], chars: int) -> Iterator[Piece]:
    for text, tokens in pieces:
        if chars <= 0:
            return
        yield text[:chars], tokens
        chars -= len(text)


def _wanted_schema(call: SimulatedCall) -> Any:
    """The schema an answer must fit, or None for free text."""
    if call.response_format is None or call.response_format["type"] == "text":
        return None
    if call.response_format["type"] == "json_object":
        properties = {"summary": {"type": "string"}, "items": {"type": "array", "items": {"type": "string"}}}
        return {"type": "object", "properties": properties}
    return call.response_format["json_schema"].get("schema") or {"type": "object"}


def _chosen_tools(call: SimulatedCall, asked: str) -> list[Json]:
    """The functions to call: forced by `tool_choice`, or mentioned in a last message by the user."""
    tools = [tool for tool in call.tools if tool.get("type") == "function"]
    choice: Any = call.tool_choice
    if not tools or choice == "none":
        return []
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        return [tool for tool in tools if tool["function"]["name"] == choice["function"].get("name")][:1]
    mentioned = [tool for tool in tools if _is_mentioned(tool["function"]["name"], asked)]
    if choice == "required":
        chosen = mentioned or tools[:1]
    else:
        chosen = mentioned if call.messages[-1]["role"] == "user" else []
    return chosen if call.parallel_tool_calls else chosen[:1]


def _is_mentioned(name: str, asked: str) -> bool:
    """The function's name, or a word of it that is long enough to mean something ("weather", not "get")."""
    lowered = asked.lower()
    if name.lower() in lowered:
        return True
    said = {word.lower() for word in _WORD.findall(asked)}
    return any(len(word) >= 4 and word.lower() in said for word in _WORD.findall(name))
