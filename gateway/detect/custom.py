"""Detectors that a configuration brings: expressions with an optional check digit, and lists of words."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType

from gateway.detect.candidates import any_passes
from gateway.detect.checksums import ean13_holds, iban_holds, luhn_holds, my_number_holds
from gateway.detect.detector import Detector
from gateway.detect.engine import BadExpression, Finder, Span
from gateway.detect.fold import compose, fold
from gateway.detect.wordlists import WordList, is_plain

# So many matches of one text are checked. With more of them, equal or not, the text counts as found.
MOST_CHECKED = 5_000
MOST_WORDS = 50_000
LONGEST_WORD = 200
# Beyond so many characters a list has an automaton of its own.
MOST_IN_ONE_EXPRESSION = 8_000

# A line end with its indent, and any kind of space, dash or "_".
MOST_BETWEEN_PARTS = 10
_BETWEEN_PARTS = (
    r"[\s_\-\x{a0}\x{1680}\x{2000}-\x{200a}\x{2010}-\x{2015}\x{2028}\x{2029}\x{202f}\x{205f}\x{2212}\x{3000}]"
    f"{{1,{MOST_BETWEEN_PARTS}}}"
)

_NOT_DIGITS = re.compile(rb"[^0-9]+")
_NOT_ALPHANUMERIC = re.compile(rb"[^0-9A-Za-z]+")
_IBAN_SHAPE = re.compile(rb"[A-Z]{2}[0-9]{2}[0-9A-Z]{11,30}")


def _luhn(value: bytes) -> bool:
    digits = _NOT_DIGITS.sub(b"", value)
    return len(digits) > 1 and luhn_holds(digits)


def _ean13(value: bytes) -> bool:
    digits = _NOT_DIGITS.sub(b"", value)
    return len(digits) == 13 and ean13_holds(digits)


def _my_number(value: bytes) -> bool:
    digits = _NOT_DIGITS.sub(b"", value)
    return len(digits) == 12 and my_number_holds(digits)


def _iban(value: bytes) -> bool:
    plain = _NOT_ALPHANUMERIC.sub(b"", value).upper()
    return _IBAN_SHAPE.fullmatch(plain) is not None and iban_holds(plain)


VALIDATORS: Mapping[str, Callable[[bytes], bool]] = MappingProxyType(
    {"luhn": _luhn, "iban": _iban, "ean13": _ean13, "my_number": _my_number}
)


def regex_detector(expression: str, validator: str | None = None) -> Detector:
    """What `expression` matches, if the value passes the validator of that name.

    The value is the whole match, or the first group where the expression has one; up to 1,024 bytes of it.
    Raises BadExpression, also for an expression that matches nothing at all as well.
    """
    finder = Finder(expression)
    if finder.is_whole(b""):
        raise BadExpression("it matches the empty text, so it would be found in every request")
    composed = not expression.isascii()
    if validator is None:
        return Detector(expression, finder.occurs_in, finder.spans, as_written=True, composed=composed)
    passes = VALIDATORS[validator]

    def found_in(text: bytes) -> bool:
        spans = list(islice(finder.spans(text), MOST_CHECKED + 1))
        if len(spans) > MOST_CHECKED:
            return True
        return any_passes((text[start:end] for start, end in spans), passes)

    def spans(text: bytes) -> Iterator[Span]:
        return ((start, end) for start, end in finder.spans(text) if passes(text[start:end]))

    return Detector(expression, found_in, spans, as_written=True, composed=composed)


def words_detector(words: Iterable[str]) -> Detector:
    """Any of `words`, whole, upper and lower case alike, with any white space between their parts.

    They are folded as the text is. Raises BadExpression when there is none, or too many of them.
    """
    words = list(words)
    expressions = {_word(word): _spelled(word) for word in words}
    expressions.pop("", None)
    if not expressions:
        raise BadExpression("it has no words")
    if len(expressions) > MOST_WORDS:
        raise BadExpression(f"it has {len(expressions):,} words, and {MOST_WORDS:,} is the most")
    expression = f"(?i:{'|'.join(expressions)})"
    composed = not expression.isascii()
    finder = Finder(expression)
    if sum(map(len, expressions)) > MOST_IN_ONE_EXPRESSION:
        return _long_list(expressions)

    def spans(text: bytes) -> Iterator[Span]:
        return _trimmed(text, finder.spans(text))

    reach = max(map(len, words)) + MOST_BETWEEN_PARTS * LONGEST_WORD
    return Detector(expression, finder.occurs_in, spans, composed=composed, reach=reach)


def _long_list(expressions: Mapping[str, str]) -> Detector:
    plain = {expression: word for expression, word in expressions.items() if is_plain(word)}
    others = [expression for expression in expressions if expression not in plain]
    if sum(map(len, others)) > MOST_IN_ONE_EXPRESSION:
        raise BadExpression(f"it has {len(others):,} words with signs in them, such as C++: fewer, please")
    listed = WordList(list(plain.values()), list(plain))
    rest = Finder(f"(?i:{'|'.join(others)})") if others else None

    def found_in(text: bytes) -> bool:
        return listed.occurs_in(text) or (rest is not None and rest.occurs_in(text))

    def spans(text: bytes) -> Iterator[Span]:
        yield from _trimmed(text, listed.spans(text))
        if rest is not None:
            yield from _trimmed(text, rest.spans(text))

    composed = any(not word.isascii() for word in plain.values())
    return Detector(None, found_in, spans, composed=composed)


def _spelled(word: str) -> str:
    return " ".join(fold(compose(unicodedata.normalize("NFC", word))).split())


def _word(word: str) -> str:
    """The expression of one entry. A Latin letter or digit at its end ends a word; other scripts need not."""
    parts = _spelled(word).split()
    if not parts:
        return ""
    if sum(map(len, parts)) > LONGEST_WORD:
        raise BadExpression(f"an entry is longer than {LONGEST_WORD} characters")
    inner = _BETWEEN_PARTS.join(map(_quoted, parts))
    # "_" is a letter to the engine, and joins words in the names of programs.
    before = r"(?:\b|_)" if _is_latin(parts[0][0]) else ""
    after = r"(?:\b|_)" if _is_latin(parts[-1][-1]) else ""
    return f"{before}{inner}{after}"


def _trimmed(text: bytes, spans: Iterable[Span]) -> Iterator[Span]:
    """`spans` without the "_" that a word ends at."""
    for start, end in spans:
        yield start + text.startswith(b"_", start), end - text.endswith(b"_", start, end)


def _quoted(text: str) -> str:
    return "".join(c if c.isalnum() or ord(c) >= 0x80 else f"\\x{{{ord(c):x}}}" for c in text)


def _is_latin(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")
