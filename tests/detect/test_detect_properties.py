"""A valid number is found whatever surrounds it, however it is spelled and wherever it is cut."""

import re
import string
from itertools import pairwise

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gateway.detect import BUILT_IN, DETECTOR_NAMES, Detectors
from gateway.detect.cards import _DIGEST, _MACHINE_NUMBER
from gateway.detect.engine import Finder
from gateway.detect.fold import fold
from gateway.detect.views import encoded, joined, joined_to_trigger

ALL = Detectors(DETECTOR_NAMES)
GROUPS = {16: (4, 4, 4, 4), 15: (4, 6, 5)}
SEPARATORS = ("", " ", "-", ".", "\u00a0", "\u3000", "\u2011", "\u2013", "\u2212", " - ")
UNSEEN = ("\u200b", "\u00ad", "\u200d", "\ufeff", "\ufe0f", "\u2060", "\u0301")

prefixes = st.sampled_from(["4", "51", "55", "2221", "2720", "34", "37", "6011", "65", "3528", "3589", "62"])
digits = st.text("0123456789", max_size=4)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
without_digits = st.text(st.characters(exclude_categories=["Cs", "Nd", "No"]), max_size=20)


def with_luhn_digit(digits: str) -> str:
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return digits + str(-total % 10)


@st.composite
def cards(draw: st.DrawFn) -> str:
    prefix = draw(prefixes)
    length = 15 if prefix in ("34", "37") else 16
    free = length - 1 - len(prefix)
    return with_luhn_digit(prefix + draw(st.text("0123456789", min_size=free, max_size=free)))


def grouped(card: str, separator: str) -> str:
    starts = [0]
    for size in GROUPS[len(card)]:
        starts.append(starts[-1] + size)
    return separator.join(card[start:end] for start, end in pairwise(starts))


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def is_excluded(text: str) -> bool:
    """What the rules call a machine's number."""
    raw = fold(text).encode("utf-8", "surrogatepass")
    return bool(_MACHINE_NUMBER.search(raw) or _DIGEST.search(raw))


@settings(max_examples=300)
@given(
    card=cards(),
    before=texts,
    glued=st.tuples(digits, digits),
    after=texts,
    places=st.lists(st.integers(0, 60), max_size=3),
)
def test_a_card_in_one_go_is_found_anywhere(
    card: str, before: str, glued: tuple[str, str], after: str, places: list[int]
) -> None:
    text = before + glued[0] + card + glued[1] + after
    assume(not is_excluded(text))
    alone = not (glued[0] or glued[1] or is_digit(fold(before)[-1:]) or is_digit(fold(after)[:1]))
    pieces = cut(text, places)
    assert "credit_card" in ALL.scan(pieces if alone else ["the card is", *pieces])


def is_digit(character: str) -> bool:
    return character in set(string.digits)


@settings(max_examples=300)
@given(
    card=cards(),
    separator=st.sampled_from(SEPARATORS),
    before=st.builds(str.__add__, texts, digits),
    after=without_digits,
    wide=st.booleans(),
    unseen=st.lists(st.tuples(st.integers(0, 25), st.sampled_from(UNSEEN)), max_size=4),
    places=st.lists(st.integers(0, 60), max_size=3),
)
def test_a_card_is_found_however_it_is_written(
    card: str,
    separator: str,
    before: str,
    after: str,
    wide: bool,
    unseen: list[tuple[int, str]],
    places: list[int],
) -> None:
    if not separator:
        before = before.rstrip() + ":"
    written = full_width(grouped(card, separator)) if wide else grouped(card, separator)
    for place, character in unseen:
        written = written[:place] + character + written[place:]
    text = before + written + after
    assume(not is_excluded(text))
    assert "credit_card" in ALL.scan(cut(text, places))


@given(
    local=st.text(string.ascii_letters + string.digits, min_size=1, max_size=10).filter(lambda s: s != "git"),
    domain=st.text(string.ascii_lowercase, min_size=1, max_size=10),
    before=texts,
    after=texts,
    wide=st.booleans(),
    places=st.lists(st.integers(0, 40), max_size=3),
)
def test_an_address_is_found_anywhere(
    local: str, domain: str, before: str, after: str, wide: bool, places: list[int]
) -> None:
    address = f"{local}@{domain}.com"
    text = before + (full_width(address) if wide else address) + after
    assert "email" in ALL.scan(cut(text, places))


@given(
    bank=st.text(string.ascii_uppercase, min_size=4, max_size=4),
    account=st.text(string.digits, min_size=14, max_size=14),
    before=texts,
    after=texts,
    spaced=st.booleans(),
    lower=st.booleans(),
    places=st.lists(st.integers(0, 60), max_size=3),
)
def test_a_british_iban_is_found_anywhere(
    bank: str, account: str, before: str, after: str, spaced: bool, lower: bool, places: list[int]
) -> None:
    as_number = int("".join(str(int(c, 36)) for c in f"{bank}{account}GB00"))
    iban = f"GB{98 - as_number % 97:02d}{bank}{account}"
    if spaced:
        iban = " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))
    text = before + (iban.lower() if lower else iban) + after
    assert "iban" in ALL.scan(cut(text, places))


@given(before=without_digits, after=without_digits, places=st.lists(st.integers(0, 60), max_size=3))
def test_an_individual_number_is_found_among_other_characters(
    before: str, after: str, places: list[int]
) -> None:
    folded_before, folded_after = fold(before), fold(after)
    assume(not re.search(r"[0-9A-Za-z+]$|[0-9][.\-]$", folded_before))
    assume(not re.match(r"[0-9A-Za-z]", folded_after))
    assert "jp_my_number" in ALL.scan(["個人番号", *cut(f"{before}123456789018{after}", places)])


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="@＠﹫%&\\")),
    st.lists(st.integers(0, 60), max_size=3),
)
def test_text_without_an_at_sign_holds_no_address(text: str, places: list[int]) -> None:
    assert "email" not in ALL.scan(cut(text, places))


@given(st.lists(st.text(), max_size=4))
def test_any_text_can_be_scanned_and_always_gives_the_same_answer(pieces: list[str]) -> None:
    assert ALL.scan(pieces) == ALL.scan(tuple(pieces))


# Looking for triggers only near the seams finds all that looking everywhere does.

signs = st.sampled_from(list("0123456789 .-@%&#;:=\"'\\aGBk19sStTOkenpPrR_\n１＠\u200b社号"))
pieces_of = st.lists(
    st.one_of(
        st.text(signs, max_size=200),
        st.text(signs, min_size=130, max_size=400),
        st.sampled_from(
            ["4111 1111 ", "1111 1111", "GB82 WEST 1234", " 5698 7654 32", "sk-", "proj-", "passw", "ord :"]
        ),
        st.sampled_from(
            ["1 . " * 40, "x" * 300 + "GB", "82" + " WEST12345698765432", "bob", "@", "b.example"]
        ),
    ),
    max_size=6,
)


@settings(max_examples=1_000, deadline=None)
@given(pieces_of)
@example(["bob", "x" * 60 + "a@"])
@example(["bob", "@" + "x" * 60])
@example(["x" * 60 + "bob@" + "x" * 60, "x", "x" * 60 + ".example"])
def test_what_is_triggered_near_the_seams_is_all_that_is_triggered(pieces: list[str]) -> None:
    everywhere = set(ALL._triggers.matches(encoded(joined(pieces))) or ())
    assert everywhere <= set(ALL._triggers.matches(encoded(joined_to_trigger(pieces, ALL._seam))) or ())


@settings(max_examples=300, deadline=None)
@given(pieces_of)
def test_and_so_is_what_is_found(pieces: list[str]) -> None:
    patient = Detectors(DETECTOR_NAMES)
    patient._seam = None
    assert ALL.scan(pieces) == patient.scan(pieces)


def test_no_trigger_matches_more_than_reaches_over_a_seam() -> None:
    longest = {
        "email": "&#64;",
        "credit_card": "1" + "-.-1" * 11,
        "iban": "GB82" + " A" * 8,
        "us_ssn": "social security",
        "secret": 'passphrase\\"   :',
    }
    for name, text in longest.items():
        assert Finder(BUILT_IN[name].trigger).is_whole(text.encode())
        assert len(text) < ALL._seam
