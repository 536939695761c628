"""Long lists of words: an Aho-Corasick automaton, whose cost does not grow with the list.

As one more expression a list of thousands of words would be just as quick on ordinary text. But a text that
is made of its words' beginnings would visit every state of the engine's automaton, which is built as it is
visited and thrown away when it is full: a second and more for a megabyte. This automaton is built once.

It reads text and words in one plain spelling: lower case, a space for everything that is neither a letter nor
a digit, and around each run of other scripts. A word is then whole where spaces are at its ends.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

import ahocorasick_rs

from gateway.detect.engine import Finder, Span

# Of a list, so many words are looked for where it has to be said where they stand.
MOST_PLACED = 200

_TO_SPACE = bytes(code if code >= 0x80 or chr(code).isalnum() else 0x20 for code in range(256))
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u2010-\u2015\u2028\u2029\u202f\u205f\u2212\u3000]+")
_OTHER_SCRIPTS = re.compile(rb"[\x80-\xff]+")


class WordList:
    """Which of many words a text has. `expressions` are those of the words, for telling where."""

    __slots__ = ("_automaton", "_expressions", "_finder", "_words")

    def __init__(self, words: Sequence[str], expressions: Sequence[str]) -> None:
        patterns = {_pattern(word): index for index, word in enumerate(words)}
        self._words = tuple(patterns.values())
        self._automaton = ahocorasick_rs.BytesAhoCorasick(
            list(patterns),
            implementation=ahocorasick_rs.Implementation.ContiguousNFA,
        )
        self._expressions = tuple(expressions)
        self._finder = lru_cache(maxsize=64)(_finder)

    def occurs_in(self, text: bytes) -> bool:
        return bool(self._automaton.find_matches_as_indexes(_plain(text)))

    def spans(self, text: bytes) -> Iterator[Span]:
        """First and last offset of the words of `text`; of no more than MOST_PLACED different ones."""
        matches = self._automaton.find_matches_as_indexes(_plain(text), overlapping=True)
        found = sorted(islice({self._words[match[0]] for match in matches}, MOST_PLACED))
        if found:
            yield from self._finder(tuple(self._expressions[index] for index in found)).spans(text)


def _finder(expressions: tuple[str, ...]) -> Finder:
    return Finder(f"(?i:{'|'.join(expressions)})")


def is_plain(word: str) -> bool:
    """Whether the plain spelling tells `word` from others: "C++" would become "c"."""
    return all(not sign.isascii() or sign.isalnum() or sign in "_- " for sign in word)


def _pattern(word: str) -> bytes:
    """The plain spelling of `word`."""
    spelled = _plain(word.encode())
    inner = spelled.strip(b" ")
    # A word that ends in another script need not end there: "カワセミ計画" is one in "カワセミ計画です".
    before = b" " if inner[:1].isalnum() else b""
    after = b" " if inner[-1:].isalnum() else b""
    return before + inner + after


def _plain(text: bytes) -> bytes:
    if text.isascii():
        spelled = text.lower().translate(_TO_SPACE)
    else:
        spaced = _SPACES.sub(" ", text.decode("utf-8", "surrogatepass"))
        lowered = spaced.lower().encode("utf-8", "surrogatepass")
        spelled = _OTHER_SCRIPTS.sub(rb" \g<0> ", lowered.translate(_TO_SPACE))
    spelled = b" " + spelled + b" "
    while b"  " in spelled:
        spelled = spelled.replace(b"  ", b" ")
    return spelled
