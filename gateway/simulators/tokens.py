"""Text tokens by OpenAI's o200k_base, loaded from a file in litellm's wheel: no network, no download."""

import codecs
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import tiktoken

from gateway.privacy.vocabularies import UnusableVocabulary, bundled_file

Piece = tuple[str, int]
"""A run of whole characters and the number of tokens that make it up (1, unless a character spans tokens)."""

_CACHED_TEXT_CHARS = 16_384
_CACHED_PIECES_CHARS = 1_024
_CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"


class TokenizerMissing(RuntimeError):
    """litellm's wheel, or its copy of o200k_base, is not installed."""


class SimulatorTokenizer:
    """Counts and cuts text. Recent short texts are remembered, or load tests would measure tokenizing."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self._remembered = lru_cache(maxsize=2048)(self._encode)
        self._remembered_pieces = lru_cache(maxsize=2048)(self._cut)

    def ids(self, text: str) -> "array[int]":
        """Token ids of `text`; what looks like a special token is plain text. Do not change the result."""
        return self._remembered(text) if len(text) <= _CACHED_TEXT_CHARS else self._encode(text)

    def count(self, text: str) -> int:
        return len(self.ids(text))

    def pieces(self, text: str) -> tuple[Piece, ...]:
        """`text` token by token, where a character split over tokens comes whole with its last token."""
        return self._remembered_pieces(text) if len(text) <= _CACHED_PIECES_CHARS else self._cut(text)

    def _cut(self, text: str) -> tuple[Piece, ...]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        pieces: list[Piece] = []
        pending = 0
        for token in self.ids(text):
            pending += 1
            chars = decoder.decode(self._encoding.decode_single_token_bytes(token))
            if chars:
                pieces.append((chars, pending))
                pending = 0
        return tuple(pieces)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids. Raises KeyError for an id outside the vocabulary."""
        joined = b"".join(self._encoding.decode_single_token_bytes(token) for token in ids)
        return joined.decode("utf-8", errors="replace")

    def _encode(self, text: str) -> "array[int]":
        return array("I", self._encoding.encode_ordinary(text))


def load_tokenizer() -> SimulatorTokenizer:
    """Takes half a second the first time in a process. Raises TokenizerMissing; never uses the network."""
    try:
        folder = bundled_file("o200k_base").parent  # if it were not there, tiktoken would download it
    except UnusableVocabulary as exc:
        raise TokenizerMissing(str(exc)) from exc
    with _environment(_CACHE_VARIABLE, str(folder)):
        return SimulatorTokenizer(tiktoken.get_encoding("o200k_base"))


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
