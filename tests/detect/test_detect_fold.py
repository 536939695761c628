"""Folding against all of Unicode."""

import sys
import unicodedata

import pytest

from gateway.detect import Detectors
from gateway.detect.engine import Pattern
from gateway.detect.escapes import unescape
from gateway.detect.fold import (
    _SLICE,
    _TABLE,
    _TYPED_FOR_ASCII,
    NEEDS_FOLDING,
    fold,
    folded,
)

NEEDED = Pattern(NEEDS_FOLDING)


def test_the_table_covers_every_character_that_folds() -> None:
    surrogates = range(0xD800, 0xE000)
    points = (point for point in [*range(0x20), *range(0x7F, sys.maxunicode + 1)] if point not in surrogates)
    expected = {point: text for point in points if (text := folded(chr(point))) is not None}
    assert expected | _TYPED_FOR_ASCII == _TABLE


def test_folding_agrees_with_nfkc_where_that_gives_letters_and_digits() -> None:
    for point, text in _TABLE.items():
        compatible = unicodedata.normalize("NFKC", chr(point))
        if compatible.isascii() and compatible.isalnum():
            assert text == compatible


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("ＡＢＣ１２３＠．－＿", "ABC123@.-_"),
        ("4\u200b1\u00ad1\u200d1\ufeff1\u2060", "41111"),
        ("1\ufe0f\u20e3 2\U000e0100", "1 2"),
        ("1\u20102\u20113\u20124\u20135\u20146\u20157", "1-2-3-4-5-6-7"),
        ("1\u00a02\u20093\u30004", "1 2 3 4"),
        ("٠١٢ ०१२ 𝟎𝟏𝟐 ①②", "012 012 012 12"),
        ("e\u0301", "e"),
        ("漢字かなカナ", "漢字かなカナ"),
        ("é ß 한글", "é ß 한글"),
    ],
)
def test_spellings_become_one(text: str, read: str) -> None:
    assert fold(text) == read


def test_folding_is_the_same_over_slices_with_few_and_with_many_runs() -> None:
    sparse, dense = "１" + "1" * 30, "1１"
    text = sparse * _SLICE + dense * _SLICE + sparse * 100
    assert fold(text) == text.replace("１", "1")


@pytest.mark.parametrize(
    "text",
    [
        "plain ASCII",
        "お世話になっております。資料（ABC版）を確認してください！",
        "“quoted” – dashed — text…",
        "❤ 👍🏽 fine",
        "naïve café",
    ],
)
def test_ordinary_text_needs_no_folding(text: str) -> None:
    assert not NEEDED.occurs_in(text.encode())


@pytest.mark.parametrize(
    "text", ["１", "＠", "4\u200b1", "4\u00a01", "4 \u200b 1", "password：x", "٣", "\u212a", "a\u0301@"]
)
def test_text_that_folding_could_change_for_a_detector_needs_it(text: str) -> None:
    assert NEEDED.occurs_in(text.encode())


def test_combining_marks_in_an_order_that_is_slow_to_normalise_are_dropped() -> None:
    """unicodedata.normalize would need more than 10**10 steps for this."""
    text = "bob@example.com" + "\u0300" * 200_000 + "\u0316" * 200_000
    assert Detectors(("email",)).scan([text]) == {"email"}
    assert fold(text) == "bob@example.com"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r"a\u0040b", "a@b"),
        (r"\uff14\uFF11", "４１"),
        (r"\ud835\udfcf", "𝟏"),
        (r"\ud835", "\ufffd"),
        (r"\\u0040", "@"),
        (r"\u{40}\U00000040\x40", "@@@"),
        (r"\xe3\x81\x82 \xff", "あ ÿ"),
        ("%40 %2540 %252540 %u0040 %E3%81%82 %", "@ @ @ @ あ %"),
        ("&#64;&#064&#x40;&commat;&amp;#64; &none; &", "@@@@@ &none; &"),
        ("&#1114112; &#9999999;", "\ufffd \ufffd"),
        (r"%5Cu0040", "@"),
        ("exam-\n  ple, A-\nB", "example, A-\nB"),
        (r"C:\users \u12", r"C:\users \u12"),
        ("no escape", "no escape"),
    ],
)
def test_json_escapes_are_decoded(text: str, read: str) -> None:
    assert unescape(text) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\u0041", "A"),
        (r"\\u0041", "A"),
        (r"\u00", r"\u00"),
        (r"\u00zz\u0042", r"\u00zzB"),
        (r"\n\x41\N{BULLET}\u0043", r"\nA\N{BULLET}C"),
        (r"\ud83d\ude00", "😀"),
        (r"é\u00e9😀", "éé😀"),
        ("\\", "\\"),
        (r"\U00000041\u0041", "AA"),
    ],
)
def test_what_is_an_escape(written: str, read: str) -> None:
    assert unescape(written) == read
