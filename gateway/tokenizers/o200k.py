"""OpenAI's vocabulary o200k_base, from a file in litellm's wheel: no network, no download."""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import tiktoken

_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"  # tiktoken's cache key: sha1 of the file's address
_CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"
# Merging takes longer than in proportion for words without end, so texts are cut: a token more at each cut.
_PIECE_CHARS = 8192
# Around each message stand three tokens, and three begin the answer.
_PER_PIECE, _PRIMER = 4, 3
# What functions and schemas are rewritten to is not known.
_MARGIN_SHARE = 50


class TokenizerMissing(RuntimeError):
    """litellm's wheel, or its copy of o200k_base, is not installed."""


@lru_cache(maxsize=1)
def load_o200k() -> tiktoken.Encoding:
    """Takes half a second the first time in a process. Raises TokenizerMissing; never uses the network."""
    with _environment(_CACHE_VARIABLE, str(_bundled_folder())):
        return tiktoken.get_encoding("o200k_base")


def count_pieces(encoding: tiktoken.Encoding, pieces: Iterable[str]) -> int:
    """Tokens of a prompt whose text is `pieces`, a little more rather than less."""
    tokens = _PRIMER
    for piece in pieces:
        tokens += _PER_PIECE
        for start in range(0, len(piece), _PIECE_CHARS):
            tokens += len(encoding.encode_ordinary(piece[start : start + _PIECE_CHARS]))
    return tokens + tokens // _MARGIN_SHARE


def _bundled_folder() -> Path:
    spec = importlib.util.find_spec("litellm")  # found, not imported: the import takes seconds
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "litellm_core_utils" / "tokenizers"
        if (folder / _FILE).is_file():  # if it were not there, tiktoken would download it
            return folder
    raise TokenizerMissing("litellm's bundled o200k_base was not found; install litellm")


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
