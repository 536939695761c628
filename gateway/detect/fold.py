"""Folding: one spelling for text that a person or a model reads the same way.

Full-width and styled letters become ASCII, as in Unicode's NFKC; so do the decimal digits of every script,
dashes and spaces. Characters that show nothing (zero-width, control and other format characters, variation
selectors, combining marks, fillers) go. Characters that no detector could read are left as they are.

Folding goes character by character and never through `unicodedata.normalize` on the whole text: its
reordering of combining marks is quadratic, so a body of one megabyte could hold a process for hours.
"""

import re
import unicodedata
from collections.abc import Iterable

_INVISIBLE = frozenset({"Cf", "Mn", "Me", "Cc"})
_SPACES = frozenset({"Zs", "Zl", "Zp"})
# Control characters that move on: to another line or page, and to the next tab.
_PAGES = frozenset("\v\f\x85")
_WHITE = _PAGES | {"\t", "\n", "\r"}

# Fillers and blanks: letters and symbols by their category, and they show nothing.
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_ALSO_INVISIBLE = _BLANKS | {"\ufffc", "\U0001d159"}
# Not assigned, and to be shown as nothing. Source: Default_Ignorable_Code_Point of DerivedCoreProperties.txt.
_RESERVED_INVISIBLE = (range(0x2065, 0x2066), range(0xFFF0, 0xFFF9), range(0xE0000, 0xE1000))

# Where characters live that fold to ASCII or to nothing. The gaps are CJK, Hangul and private use; a test
# compares the table with all of Unicode.
_FOLDED_PLANES = (
    range(0x20),
    range(0x7F, 0x3400),
    range(0xA000, 0xAC00),
    range(0xD7B0, 0xD800),
    range(0xF900, 0x20000),
    range(0xE0000, 0xE1000),
)

# Japanese keyboards write a long vowel mark or a middle dot where a number has a dash or a dot.
_TYPED_FOR_ASCII = {0x30FC: "-", 0xFF70: "-", 0x2212: "-", 0x30FB: ".", 0xFF65: ".", 0x00B7: "."}

# The full stop at full width, small, and as a leader: in an address it stands between letters.
_DOTS = frozenset({0xFF0E, 0xFE52, 0x2024})

# Beside letters: the ones that a credential or an assignment is written with.
_TELLING_SIGNS = frozenset("_=:+/~%&#\\")

# A slice bounds how long one call keeps other threads waiting. Past so many separate runs in one, replacing
# every character is cheaper than a callback for each run.
_SLICE = 16_384
_MOST_RUNS = _SLICE // 8


def folded(character: str) -> str | None:
    """What `character` folds to: ASCII text, "" where it goes, None where it stays."""
    category = unicodedata.category(character)
    if _shows_nothing(character, category):
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd":
        return "-"
    if category in _SPACES or character in _PAGES:
        return " "
    if not unicodedata.decomposition(character):
        return None
    compatible = unicodedata.normalize("NFKC", character)
    visible = "".join(part for part in compatible if unicodedata.category(part) not in _INVISIBLE)
    return visible if visible.isascii() else None


def _shows_nothing(character: str, category: str) -> bool:
    if category in _INVISIBLE:
        return character not in _WHITE
    return character in _ALSO_INVISIBLE or any(ord(character) in reserved for reserved in _RESERVED_INVISIBLE)


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
    hard = {point for point, text in table.items() if any(c.isalnum() or c == "@" for c in text)} | _DOTS
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
# With None for what goes, translating ASCII needs no look-up for each character.
_ASCII_TABLE = {point: text or None for point, text in _TABLE.items() if point < 0x80}
_FOLDABLE_RUN = re.compile(
    # Beyond the first plane one coarse range: the engine has a bitmap for the first and a list for the rest.
    "["
    + "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in _ranges(p for p in _TABLE if p <= 0xFFFF))
    + "\U00010000-\U0010ffff]+"
)
# Kana at half width or with their mark apart, and characters that stand for a group of others: all that one
# character, or one and a mark, can be composed from.
_COMPOSABLE = re.compile(
    "[\uff61-\uff9f][\uff9e\uff9f]?|[\u3041-\u30fe][\u3099\u309a]|[\u3200-\u33ff\uf900-\ufaff]"
)
_CJK = "[\u3040-\u9fff\uac00-\ud7af]"
_LINE_BROKEN = re.compile(rf"(?<={_CJK})\r?\n[ \t]{{0,24}}(?={_CJK})")
_IDEOGRAPHIC = r"[\x{3040}-\x{9fff}\x{ac00}-\x{d7af}]"

NEEDS_FOLDING = _needs_folding(_TABLE)
# Beyond that, for words that are not ASCII.
NEEDS_COMPOSING = (
    r"[\x{ff61}-\x{ff9f}\x{3200}-\x{33ff}\x{f900}-\x{faff}\x{3099}\x{309a}]|"
    + _IDEOGRAPHIC
    + _re2_class(point for point, text in _TABLE.items() if not text)
    + _IDEOGRAPHIC
    + rf"|{_IDEOGRAPHIC}\r?\n[ \t]{{0,24}}{_IDEOGRAPHIC}"
)


def fold(text: str) -> str:
    """`text` with every character folded."""
    if text.isascii():
        return text.translate(_ASCII_TABLE)
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
    """`text` with kana at full width and compatibility characters of Chinese and Japanese spelled out.

    The end of a line between two of their characters goes: a word needs no space there.
    """
    return _LINE_BROKEN.sub("", _COMPOSABLE.sub(_composed, text))


def with_spaces(text: str) -> str:
    """`text` with a space for each blank that folding drops, and that a reader may take for one."""
    for blank in _BLANKS:
        text = text.replace(blank, " ")
    return text


def _composed(match: re.Match[str]) -> str:
    # One character or two: normalisation cannot be made to take long.
    return unicodedata.normalize("NFKC", match[0])


def _fold_run(run: re.Match[str]) -> str:
    return run[0].translate(_TABLE)
