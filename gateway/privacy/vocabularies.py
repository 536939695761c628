"""Vocabularies of tokenizers, from files: nothing is ever downloaded.

OpenAI's are in litellm's wheel, as tiktoken writes them. Others come as a `tokenizer.json` of Hugging Face:
of byte-level BPE, or of pieces with "▁" for a space. Both give back the text as it was; WordPiece does not.
"""

import asyncio
import base64
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import structlog

from gateway.detect.token_ids import Vocabulary

_log = structlog.get_logger("tollway.privacy")

# tiktoken's cache key, the sha1 of the file's address, and the tokens that the file does not list.
_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_BUNDLED: Mapping[str, tuple[str, Mapping[int, str]]] = {
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        {100257: "<|endoftext|>", **dict(enumerate(_FIM, 100258)), 100276: "<|endofprompt|>"},
    ),
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        {199999: "<|endoftext|>", 200018: "<|endofprompt|>"},
    ),
    "p50k_base": ("ec7223a39ce59f226a68acc30dc1af2788490e15", {50256: "<|endoftext|>"}),
}
ENCODINGS = tuple(_BUNDLED)

# What OpenAI serves at the endpoints that take token ids.
_TOKENIZERS = dict.fromkeys(
    (
        "text-embedding-3-small",
        "text-embedding-3-large",
        "text-embedding-ada-002",
        "gpt-3.5-turbo-instruct",
        "babbage-002",
        "davinci-002",
    ),
    "cl100k_base",
)

_LARGEST_ID = 2_000_000
_LARGEST_FILE_BYTES = 256 * 1024 * 1024
_HEX_BYTE_LENGTH = len("<0x00>")


class UnusableVocabulary(ValueError):
    """A tokenizer whose vocabulary cannot be read, and why."""


def known_tokenizer(model: str) -> str | None:
    """The encoding of one of OpenAI's models, by the name that its API knows."""
    return _TOKENIZERS.get(model)


def bundled_file(encoding: str) -> Path:
    """The file of one of ENCODINGS in litellm's wheel. Raises UnusableVocabulary when it is not there."""
    spec = importlib.util.find_spec("litellm")  # found, not imported: the import takes seconds
    for location in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(location) / "litellm_core_utils" / "tokenizers" / _BUNDLED[encoding][0]
        if file.is_file():
            return file
    raise UnusableVocabulary(f"litellm's bundled {encoding} was not found; install litellm")


def load_vocabulary(tokenizer: str) -> Vocabulary:
    """The vocabulary of one of ENCODINGS, or of a `tokenizer.json`. Takes up to a second.

    Raises UnusableVocabulary.
    """
    if tokenizer in _BUNDLED:
        lines = bundled_file(tokenizer).read_bytes().split(b"\n")
        ranked = (line.split() for line in lines if line)
        pieces = {int(rank): base64.b64decode(piece) for piece, rank in ranked}
        return _vocabulary({**pieces, **_encoded(_BUNDLED[tokenizer][1])})
    try:
        path = Path(tokenizer)
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise UnusableVocabulary("it is larger than 256 MiB")
        return _of_hugging_face(orjson.loads(path.read_bytes()))
    except OSError as exc:
        raise UnusableVocabulary(f"{tokenizer} cannot be read: {exc.strerror}") from exc
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        if isinstance(exc, UnusableVocabulary):
            raise
        raise UnusableVocabulary(f"{tokenizer} is no tokenizer.json of Hugging Face") from exc


def _encoded(tokens: Mapping[int, str]) -> dict[int, bytes]:
    return {number: token.encode() for number, token in tokens.items()}


def _vocabulary(pieces: Mapping[int, bytes]) -> Vocabulary:
    if not pieces or not 0 <= min(pieces) <= max(pieces) <= _LARGEST_ID:
        raise UnusableVocabulary(f"its token ids are not from 0 to {_LARGEST_ID:,}")
    return Vocabulary([pieces.get(number) for number in range(max(pieces) + 1)])


def _of_hugging_face(file: Mapping[str, Any]) -> Vocabulary:
    given = file["model"]["vocab"]
    pieces: Iterable[tuple[str, int]] = (
        given.items() if isinstance(given, dict) else ((item[0], number) for number, item in enumerate(given))
    )
    added = {item["id"]: item["content"] for item in file.get("added_tokens") or ()}
    kinds = set(_kinds(file.get("decoder")))
    if "ByteLevel" in kinds:
        code_points = _byte_of_character()
        found = {number: _byte_level(piece, code_points) for piece, number in pieces}
        return _vocabulary({**found, **_encoded(added)})
    if kinds & {"ByteFallback", "Metaspace"}:
        found = {number: _spaced(piece) for piece, number in pieces}
        return _vocabulary(found | {number: _spaced(token) for number, token in added.items()})
    raise UnusableVocabulary("its decoder does not give back the text as it was (no byte-level BPE)")


def _kinds(decoder: Any) -> Iterable[str]:
    if isinstance(decoder, dict):
        yield decoder["type"]
        for part in decoder.get("decoders", ()):
            yield from _kinds(part)


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as a character that shows: itself, or one from U+0100 on."""
    shown = {
        code for first, last in ((0x21, 0x7E), (0xA1, 0xAC), (0xAE, 0xFF)) for code in range(first, last + 1)
    }
    others = (code for code in range(256) if code not in shown)
    return {chr(code): code for code in shown} | {
        chr(256 + number): code for number, code in enumerate(others)
    }


def _byte_level(piece: str, code_points: Mapping[str, int]) -> bytes:
    if all(character in code_points for character in piece):
        return bytes(code_points[character] for character in piece)
    return piece.encode()  # a token that was added to the model's own


def _spaced(piece: str) -> bytes:
    if len(piece) == _HEX_BYTE_LENGTH and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace("▁", " ").encode()


class Vocabularies:
    """Vocabularies by name, each loaded when it is first asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Vocabulary | None] = {}
        self._loading = asyncio.Lock()

    async def of(self, tokenizer: str | None) -> Vocabulary | None:
        """None where nobody knows the tokenizer, or its file is gone."""
        if tokenizer is None:
            return None
        async with self._loading:
            if tokenizer not in self._loaded:
                self._loaded[tokenizer] = await asyncio.to_thread(load_or_log, tokenizer)
        return self._loaded[tokenizer]


def load_or_log(tokenizer: str) -> Vocabulary | None:
    """The vocabulary of `tokenizer`; None where its file cannot be used, which the log says."""
    try:
        return load_vocabulary(tokenizer)
    except UnusableVocabulary as exc:
        _log.error("tokenizer.unusable", tokenizer=tokenizer, problem=str(exc))
        return None
