"""Prompts of token ids: what they say in text, by the vocabulary of the model that will read them."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

PROMPTS = frozenset({"input", "prompt"})

_READABLE = frozenset({str, int, list})
_IDS = frozenset({int})


class Vocabulary(msgspec.Struct, frozen=True, eq=False):
    """The bytes of each token id; None where there is no such token."""

    pieces: Sequence[bytes | None]

    def read(self, ids: Sequence[Any]) -> bytes | None:
        """The text of `ids` in UTF-8, where both ends may cut a character; None when an id is unknown."""
        pieces = self.pieces
        found = []
        for number in ids:
            piece = pieces[number] if type(number) is int and 0 <= number < len(pieces) else None
            if piece is None:
                return None
            found.append(piece)
        return b"".join(found)


def holds_token_ids(body: Mapping[str, Any]) -> bool:
    """Whether a prompt of `body` is written in token ids, all of it or a part."""
    return any(name in body and _is_ids(body[name]) for name in PROMPTS)


def _is_ids(prompt: object) -> bool:
    return type(prompt) is list and any(type(item) is int or type(item) is list for item in prompt)


def holds_neither_text_nor_ids(body: Mapping[str, Any]) -> bool:
    """Whether a prompt of `body` has something else in it, such as floats, which no vocabulary reads."""
    return any(_is_something_else(body.get(name)) for name in PROMPTS)


def _is_something_else(prompt: object) -> bool:
    if prompt is None or type(prompt) is str:
        return False
    if type(prompt) is not list or not _READABLE.issuperset(map(type, prompt)):
        return True
    return any(type(item) is list and not _IDS.issuperset(map(type, item)) for item in prompt)


def with_text(body: Mapping[str, Any], vocabulary: Vocabulary) -> Mapping[str, Any]:
    """`body` with text in place of its token ids; those that are not of `vocabulary` are left."""
    return {
        name: _text_of(value, vocabulary) if name in PROMPTS and _is_ids(value) else value
        for name, value in body.items()
    }


def _text_of(prompt: list[Any], vocabulary: Vocabulary) -> Any:
    if not any(type(item) is list for item in prompt):
        whole = vocabulary.read(prompt)
        return prompt if whole is None else whole.decode("utf-8", "replace")
    # One after the other: a long text is sent in several lists, which may cut a character.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    read: list[Any] = []
    for item in prompt:
        part = vocabulary.read(item) if type(item) is list else None
        if part is not None:
            read.append(decoder.decode(part))
        else:
            read.append(item)
            decoder.reset()
    return read
