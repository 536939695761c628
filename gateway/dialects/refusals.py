"""What a server means when it answers 400 or 422: a field that the gateway added, or a cap of its own.

Servers say it in a hundred ways, and none is a contract. So a reading here is only ever tried: the request is
sent again without the field, and the table learns only where that goes through.
"""

import re
from collections.abc import Iterable

import msgspec

from gateway.dialects.table import ServerDialect

REFUSING_STATUSES = frozenset({400, 422})
# The words for it stand at the beginning; some servers repeat the whole request behind them.
MOST_READ_BYTES = 4096

_UNKNOWN = re.compile(
    r"un(supported|recognized|recognised|known|expected|permitted)|not (supported|permitted|allowed|"
    r"recogni[sz]ed|available|implemented)|does(n't| not) (support|accept|allow|take)|extra_forbidden|"
    r"extra (inputs|fields)|forbidden|additional propert|invalid (field|parameter|argument|key)",
    re.IGNORECASE,
)
# About a value, not about the field: the field is read.
_VALUE = re.compile(
    r"too (large|long|big|high|small|low|many)|exceed|at (most|least)|maximum|minimum|greater|less than|"
    r"context|must be",
    re.IGNORECASE,
)
_CONTEXT = re.compile(
    r"context[ _-]?(length|size|window|limit)|max_model_len|maximum (sequence|input|model) length|"
    r"exceed_context|max_new_tokens",
    re.IGNORECASE,
)
_SIZES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\d+ \+ `?\d+`? > (\d+)",
        r"context (?:length|size|window|limit)(?: is| of|:)? ?(\d+)",
        r"max_model_len[^0-9]{0,24}(\d+)",
        r"must be <= (\d+)",
    )
)
# "at least" and "the upper bound for" are of servers that stopped counting.
_PROMPTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<!at least )(?<!bound for )\b(\d+) input tokens",
        r"(\d+) in the messages",
        r"(\d+) tokens (?:from|in) the (?:input|prompt|messages)",
        r"given: (\d+) `?inputs",
        r"exceed context limit: (\d+) \+",
    )
)
# OpenAI counts them beside the messages.
_FUNCTIONS = (re.compile(r"(\d+) in the functions", re.IGNORECASE),)


class Remedy(msgspec.Struct, frozen=True):
    """What a refused request is sent again with.

    `dialect` is what is left of the deployment's, in the situation `where`. `refused` is the field that was;
    None where it is the size of the cap, which is at most `most_output` tokens then.
    """

    dialect: ServerDialect
    where: str
    refused: str | None = None
    most_output: int | None = None


def refused_field(text: str, param: str | None, added: Iterable[str]) -> str | None:
    """Which of the fields that the gateway has `added` an error's `text` says the server does not read.

    `param` is the field that the error names, where it names one.
    """
    for field in added:
        named = param is not None and param.partition(".")[0] == field
        for found in re.finditer(rf"\b{field}\b", text):
            around = text[max(found.start() - 160, 0) : found.end() + 160]
            if _UNKNOWN.search(around) and not _VALUE.search(around):
                return field
        if named and _UNKNOWN.search(text) and not _VALUE.search(text):
            return field
    return None


def smaller_cap(text: str, code: str | None, cap: int) -> int | None:
    """The cap that may fit, tokens, where an error's `text` says that prompt and `cap` exceed the context.

    None: it says something else, or the prompt alone leaves no room.
    """
    if code != "context_length_exceeded" and not _CONTEXT.search(text):
        return None
    context, prompt = _first(_SIZES, text), _first(_PROMPTS, text)
    if context is not None and prompt is not None:
        left = context - prompt - (_first(_FUNCTIONS, text) or 0)
        return left if 0 < left < cap else None
    smaller = cap // 4 if context is None else min(cap // 4, context // 8)
    return smaller or None


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    for pattern in patterns:
        if found := pattern.search(text):
            return int(found[1])
    return None
