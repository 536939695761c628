"""Folding: one spelling for text that a person or a model reads the same way.

Full-width and styled letters become ASCII, as in Unicode's NFKC; so do the decimal digits of every script,
dashes and spaces. Characters that show nothing (zero-width and other format characters, variation selectors,
combining marks) go. Characters that no detector could read are left as they are.

Folding goes character by character and never through `unicodedata.normalize` on the whole text: its
reordering of combining marks is quadratic, so a body of one megabyte could hold a process for hours.
"""

import re
import unicodedata
from collections.abc import Iterable

_INVISIBLE = frozenset({"Cf", "Mn", "Me"})
_SPACES = frozenset({"Zs", "Zl", "Zp"})

# Where characters live that fold to ASCII or to nothing. The gaps are CJK, Hangul and private use; a test
# compares the table with all of Unicode.
_FOLDED_PLANES = (
    range(0x80, 0x3400),
    range(0xA000, 0xAC00),
    range(0xD7B0, 0xD800),
    range(0xF900, 0x20000),
    range(0xE0000, 0xE0200),
)

# Japanese keyboards write a long vowel mark or a middle dot where a number has a dash or a dot.
_TYPED_FOR_ASCII = {0x30FC: "-", 0xFF70: "-", 0x2212: "-", 0x30FB: ".", 0xFF65: ".", 0x00B7: "."}

# Beside letters: the ones that a credential or an assignment is written with.
_TELLING_SIGNS = frozenset("_=:+/~%&#\\")

# A slice bounds how long one call keeps other threads waiting. Past so many separate runs in one, replacing
# every character is cheaper than a callback for each run.
_SLICE = 16_384
_MOST_RUNS = _SLICE // 8


def folded(character: str) -> str | None:
    """What `character` folds to: ASCII text, "" where it goes, None where it stays."""
    category = unicodedata.category(character)
    if category in _INVISIBLE:
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd":
        return "-"
    if category in _SPACES:
        return " "
    if not unicodedata.decomposition(character):
        return None
    compatible = unicodedata.normalize("NFKC", character)
    visible = "".join(part for part in compatible if unicodedata.category(part) not in _INVISIBLE)
    return visible if visible.isascii() else None


def _build_table() -> dict[int, str]:
    table = {
        point: text for plane in _FOLDED_PLANES for point in plane if (text := folded(chr(point))) is not None
    }
    return table | _TYPED_FOR_ASCII


def _ranges(points: Iterable[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for point in sorted(points):
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1] = (ranges[-1][0], point)
        else:
            ranges.append((point, point))
    return ranges


def _re2_class(points: Iterable[int]) -> str:
    return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in _ranges(points)) + "]"


def _needs_folding(table: dict[int, str]) -> str:
    """The RE2 expression for text in which folding could matter to a detector.

    Much ordinary text holds foldable characters that cannot matter: a Japanese comma, a dash between two
    words, an emoji's variation selector before a space. Those alone do not cost a fold.
    """
    hard = {point for point, text in table.items() if any(c.isalnum() or c == "@" for c in text)} | {0xFF0E}
    invisible = {point for point, text in table.items() if not text}
    signs = {point for point, text in table.items() if text in _TELLING_SIGNS} - hard
    separators = {point for point, text in table.items() if text and not text.strip(" .-")} - hard
    unseen = _re2_class(invisible)
    return "|".join(
        (
            _re2_class(hard),
            _touching(unseen, "[!-~]"),
            rf"[0-9][ .\-]{unseen}|{unseen}[ .\-][0-9]",
            _touching(_re2_class(signs), "[0-9A-Za-z]"),
            _touching(_re2_class(separators), "[0-9]"),
        )
    )


def _touching(one: str, other: str) -> str:
    return f"{one}{other}|{other}{one}"


_TABLE = _build_table()
# A character that the table lacks costs an exception each time.
_TABLE_WITH_ASCII = {point: chr(point) for point in range(0x80)} | _TABLE
_FOLDABLE_RUN = re.compile(
    # Beyond the first plane one coarse range: the engine has a bitmap for the first and a list for the rest.
    "["
    + "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in _ranges(p for p in _TABLE if p <= 0xFFFF))
    + "\U00010000-\U0010ffff]+"
)
_MOST_HALF_ESCAPES = 4
_HEX_CODE = re.compile("[0-9a-fA-F]{4}")
_SURROGATE = re.compile("[\ud800-\udfff]")

# Kana at half width or with their mark apart, and characters that stand for a group of others: all that one
# character, or one and a mark, can be composed from.
_COMPOSABLE = re.compile(
    "[\uff61-\uff9f][\uff9e\uff9f]?|[\u3041-\u30fe][\u3099\u309a]|[\u3200-\u33ff\uf900-\ufaff]"
)
_IDEOGRAPHIC = r"[\x{3040}-\x{9fff}\x{ac00}-\x{d7af}]"

NEEDS_FOLDING = _needs_folding(_TABLE)
# Beyond that, for words that are not ASCII.
NEEDS_COMPOSING = (
    r"[\x{ff61}-\x{ff9f}\x{3200}-\x{33ff}\x{f900}-\x{faff}\x{3099}\x{309a}]|"
    + _IDEOGRAPHIC
    + _re2_class(point for point, text in _TABLE.items() if not text)
    + _IDEOGRAPHIC
)
NEEDS_UNESCAPING = r"\\u[0-9a-fA-F]{4}"


def fold(text: str) -> str:
    """`text` with every character folded."""
    slices: list[str] = []
    dense = False
    for start in range(0, len(text), _SLICE):
        part = text[start : start + _SLICE]
        if not dense:
            result, runs = _FOLDABLE_RUN.subn(_fold_run, part, count=_MOST_RUNS)
            dense = runs == _MOST_RUNS
        slices.append(part.translate(_TABLE_WITH_ASCII) if dense else result)
    return "".join(slices)


def fold_with_origins(text: str) -> tuple[str, list[int]]:
    """`text` folded, and for each of its characters the index in `text` that it came from."""
    characters: list[str] = []
    origins: list[int] = []
    for index, character in enumerate(text):
        replaced = _TABLE.get(ord(character), character)
        characters.append(replaced)
        origins += [index] * len(replaced)
    return "".join(characters), origins


def compose(text: str) -> str:
    """`text` with kana at full width and compatibility characters of Chinese and Japanese spelled out."""
    return _COMPOSABLE.sub(_composed, text)


def _composed(match: re.Match[str]) -> str:
    # One character or two: normalisation cannot be made to take long.
    return unicodedata.normalize("NFKC", match[0])


def _fold_run(run: re.Match[str]) -> str:
    return run[0].translate(_TABLE)


def unescape(text: str) -> str:
    """`text` with its JSON escapes decoded: tool call arguments and pasted JSON are JSON inside a string."""
    if "\\u" not in text:
        return text
    # Python's decoder reads these escapes at a fifth of the cost; every other backslash stands for itself.
    written = text.replace("\\", "\\\\").replace("\\\\u", "\\u").encode("ascii", "backslashreplace")
    decoded, at = [], 0
    for _ in range(_MOST_HALF_ESCAPES):
        try:
            decoded.append(written[at:].decode("unicode_escape"))
            return _paired("".join(decoded))
        except UnicodeDecodeError as half:  # the end of a piece may cut an escape
            decoded += written[at : at + half.start].decode("unicode_escape"), "\\u"
            at += half.start + 2
    return _paired(_unescaped_one_by_one(text))


def _unescaped_one_by_one(text: str) -> str:
    """As `unescape`, where a backslash and a "u" are often no escape."""
    before, *escaped = text.split("\\u")
    known: dict[str, str] = {}
    for code in {tail[:4] for tail in escaped}:
        known[code] = chr(int(code, 16)) if _HEX_CODE.fullmatch(code) else f"\\u{code}"
    return before + "".join([known[tail[:4]] + tail[4:] for tail in escaped])


def _paired(text: str) -> str:
    """`text` with pairs of surrogates as the characters that they stand for."""
    if _SURROGATE.search(text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
