"""Embeddings: unit vectors made from a hash of the text. Similar texts are not close."""

import base64
import hashlib
import math
import struct
from typing import Any

import orjson

from gateway.simulators.refusals import invalid
from gateway.simulators.requests import Json, missing, wrong_type
from gateway.simulators.tokens import SimulatorTokenizer

_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
_MAX_INPUTS = 2048


def dimensions_of(model: str) -> int | None:
    """Length of a model's vectors; None when it embeds nothing."""
    if model in _DIMENSIONS:
        return _DIMENSIONS[model]
    return 1536 if "embed" in model else None


def embed(document: Json, model: str, tokenizer: SimulatorTokenizer) -> tuple[bytes, int]:
    """The response body and its prompt tokens. Raises Refused (400)."""
    inputs = _inputs(document)
    length = _wanted_length(document, dimensions_of(model) or 1536)
    as_base64 = document.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(unit_vector(item, length), as_base64)}
        for index, item in enumerate(inputs)
    ]
    tokens = sum(tokenizer.count(item) if isinstance(item, str) else len(item) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage}), tokens


def unit_vector(item: str | list[int], length: int) -> list[float]:
    """Deterministic, of length one. A shorter vector is the start of the longer one, scaled up again."""
    seed = item.encode() if isinstance(item, str) else repr(item).encode()
    raw = struct.unpack(f"<{length}h", hashlib.shake_128(seed).digest(2 * length))
    norm = math.sqrt(sum(value * value for value in raw))
    return [value / norm for value in raw]


def _encoded(vector: list[float], as_base64: bool) -> str | list[float]:
    if as_base64:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector


def _inputs(document: Json) -> list[str | list[int]]:
    given: Any = document.get("input")
    if given is None:
        raise missing("input")
    if isinstance(given, str) or _is_ids(given):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(item, str) or _is_ids(item) for item in given):
        raise wrong_type("input", "a string, array of strings, or array of token ids", given)
    if not given or len(given) > _MAX_INPUTS or "" in given:
        raise invalid(f"Invalid 'input': expected 1 to {_MAX_INPUTS} non-empty inputs.", "input")
    return given


def _is_ids(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and all(type(token) is int for token in item)


def _wanted_length(document: Json, longest: int) -> int:
    wanted = document.get("dimensions")
    if wanted is None:
        return longest
    if type(wanted) is not int:
        raise wrong_type("dimensions", "an integer", wanted)
    if not 1 <= wanted <= longest:
        message = f"Invalid value for 'dimensions' = {wanted}. Must be at least 1 and at most {longest}."
        raise invalid(message, "dimensions")
    return wanted
