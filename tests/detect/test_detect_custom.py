"""Detectors that a configuration brings: expressions, check digits, lists of words, allow-lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect import BUILT_IN, Detectors
from gateway.detect.custom import MOST_CHECKED, MOST_WORDS, regex_detector, words_detector
from gateway.detect.detector import AllowList, Detector, allowing
from gateway.detect.engine import BadExpression, Finder
from tests.detect.test_detect_properties import full_width

EMPLOYEE = regex_detector(r"\bE[0-9]{6}\b")


def found(detector: Detector, *pieces: str) -> bool:
    return bool(Detectors(("mine",), {"mine": detector}).scan(pieces))


def with_allowed(name: str, *values: str, patterns: tuple[str, ...] = ()) -> Detector:
    return allowing(BUILT_IN[name], AllowList(values, patterns, separators=name == "email"))


# Expressions


@pytest.mark.parametrize(
    "text", ["E123456", "Ｅ１２３４５６", "E123\u200b456", "badge E123456.", r"\u0045123456"]
)
def test_an_expression_is_found_in_every_spelling(text: str) -> None:
    assert found(EMPLOYEE, text)


@pytest.mark.parametrize("text", ["E12345", "SE123456", "E1234567", "e123456"])
def test_and_nowhere_else(text: str) -> None:
    assert not found(EMPLOYEE, text)


def test_a_value_that_is_split_over_two_parts_is_found() -> None:
    assert found(EMPLOYEE, "my badge is E123", "456 and I forgot it")


def test_an_expression_reads_the_text_as_written_as_well() -> None:
    assert found(regex_detector("Ａ[0-9]"), "Ａ1")
    assert found(regex_detector("極秘—[0-9]"), "極秘—1")


@pytest.mark.parametrize(
    ("validator", "holds", "fails"),
    [
        ("luhn", "79927398713", "79927398710"),
        ("iban", "GB82 WEST 1234 5698 7654 32", "GB82 WEST 1234 5698 7654 33"),
        ("ean13", "4006381333931", "4006381333932"),
        ("my_number", "1234-5678-9018", "1234-5678-9012"),
    ],
)
def test_a_match_needs_its_check_digit(validator: str, holds: str, fails: str) -> None:
    detector = regex_detector(r"[0-9A-Z][0-9A-Z \-]{9,30}[0-9A-Z]", validator)
    assert found(detector, holds)
    assert not found(detector, fails)


def test_the_first_group_is_the_value_where_there_is_one() -> None:
    detector = regex_detector("member 7?([0-9]{11})", "luhn")
    assert found(detector, "member 779927398713")
    assert list(detector.spans(b"a member 79927398713.")) == [(9, 20)]


@pytest.mark.parametrize("expression", ["(", "(?<=a)b", r"(a)\1", "[", "x{1001}"])
def test_what_no_linear_engine_can_match_is_refused(expression: str) -> None:
    with pytest.raises(BadExpression):
        regex_detector(expression)


@pytest.mark.parametrize(
    ("expression", "hint"),
    [("(?<=a)b", "no look-around"), ("a(?!b)", "no look-around"), (r"(a)\1", "no back")],
)
def test_and_it_is_said_what_there_is_not(expression: str, hint: str) -> None:
    with pytest.raises(BadExpression, match=hint):
        regex_detector(expression)


@pytest.mark.parametrize("expression", ["a*", "", "(a|)"])
def test_an_expression_that_matches_nothing_at_all_is_refused(expression: str) -> None:
    with pytest.raises(BadExpression, match="empty"):
        regex_detector(expression)


def test_too_many_matches_to_check_count_as_found() -> None:
    detector = regex_detector("[0-9]{3}", "luhn")
    assert not found(detector, "001 " * MOST_CHECKED)
    assert found(detector, "001 " * (MOST_CHECKED + 1))


@given(st.text("ab \n", max_size=6_000))
def test_spans_are_those_of_one_search_after_the_other(text: str) -> None:
    raw = text.encode()
    spans = list(Finder("ab{1,3}").spans(raw))
    assert [raw[start:end] for start, end in spans] == _matches(raw)


def _matches(raw: bytes) -> list[bytes]:
    import re

    return re.findall(rb"ab{1,3}", raw)


def test_a_match_across_the_window_is_whole() -> None:
    for at in range(2_040, 2_060):
        raw = b" " * at + b"ab" * 20 + b" "
        assert list(Finder("(?:ab)+").spans(raw)) == [(at, at + 40)]


# Words

PROJECTS = words_detector(["Bluebird", "Project Kestrel", "C++", "カワセミ計画", "ガス田"])


@pytest.mark.parametrize(
    "text",
    [
        "the bluebird report",
        "BLUEBIRD",
        "Project  Kestrel",
        "project\nkestrel",
        "project-kestrel",
        "ＢＬＵＥＢＩＲＤ",
        "blue\u200bbird",
        "we use C++ here",
        "新しいカワセミ計画です",
        "ｶﾜｾﾐ計画",
        "ｶﾞｽ田",
        "カ\u3099ス田",
        "カワ\u200bセミ計画",
        "Bluebirdです",
    ],
)
def test_a_word_is_found_in_every_spelling(text: str) -> None:
    assert found(PROJECTS, text)


@pytest.mark.parametrize("text", ["bluebirds", "ProjectKestrel", "C+", "カワセミ", "blue bird"])
def test_only_whole_words_count(text: str) -> None:
    assert not found(PROJECTS, text)


def test_every_sign_of_a_word_is_meant_as_it_stands() -> None:
    detector = words_detector([r"a.b*c\d(e)[f]|g^$"])
    assert found(detector, r"see A.B*C\D(E)[F]|G^$ there")
    assert not found(detector, "axbbbc1ef")
    assert not found(detector, "g")


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5), st.integers(0, 4))
def test_any_word_is_found_in_a_text_of_its_own(words: list[str], index: int) -> None:
    kept = [word for word in words if word.isalnum() and word.isascii()]
    if kept:
        word = kept[index % len(kept)]
        assert found(words_detector(words), f"see {word}, please")
        assert found(words_detector(words), f"see {full_width(word)}, please")


def test_ten_thousand_words_are_one_automaton() -> None:
    detector = words_detector([f"supplier{number}" for number in range(10_000)])
    assert found(detector, "an offer of Supplier9999 came in")
    assert not found(detector, "an offer of Supplier10000 came in " * 1_000)


# Long lists have an automaton of their own, and find the same.

FILLER = [f"supplier{number}" for number in range(1_000)]
NAMES = ["Bluebird", "Project Kestrel", "C++", "カワセミ計画", "ガス田", "ABC商事", "Café Zürich", "ЯНТАРЬ"]
LONG, SHORT = words_detector(FILLER + NAMES), words_detector(NAMES)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("the bluebird report", True),
        ("(Bluebird)", True),
        ("Bluebirdです", True),
        ("Ｂｌｕｅｂｉｒｄ", True),
        ("blue\u200bbird", True),
        ("Project  Kestrel", True),
        ("project\nkestrel", True),
        ("project-kestrel", True),
        ("project_kestrel", True),
        ("we use C++ here", True),
        ("新しいカワセミ計画です", True),
        ("ｶﾜｾﾐ計画", True),
        ("ｶﾞｽ田", True),
        ("abc商事の件", True),
        ("CAFÉ ZÜRICH", True),
        ("янтарь", True),
        ("bluebirds", False),
        ("my_bluebird", True),
        ("xabc商事", False),
        ("ProjectKestrel", False),
        ("C+", False),
        ("c", False),
        ("カワセミ", False),
    ],
)
def test_a_long_list_finds_what_a_short_one_does(text: str, whole: bool) -> None:
    assert LONG.trigger is None
    assert SHORT.trigger is not None
    assert found(SHORT, text) == whole
    assert found(LONG, text) == whole
    assert found(LONG, "and so on, " + text[: len(text) // 2], text[len(text) // 2 :]) >= whole


@given(
    st.lists(
        st.sampled_from([*NAMES, "Blue", "kestrel", " ", "-", "です", "x", "_", "\n", "supplier7"]),
        max_size=6,
    )
)
def test_nothing_that_a_short_list_finds_escapes_a_long_one(parts: list[str]) -> None:
    text = "".join(parts)
    if found(SHORT, text):
        assert found(LONG, text)


def test_a_long_list_says_where_its_words_stand() -> None:
    text = "a bluebird and supplier12 for Project Kestrel in C++"
    places = Detectors(("mine",), {"mine": LONG}).places(text, frozenset({"mine"}))
    assert [text[place.start : place.end] for place in places] == [
        "bluebird",
        "supplier12",
        "Project Kestrel",
        "C++",
    ]
    allowed = allowing(LONG, AllowList(("bluebird",)))
    assert not found(allowed, "the Bluebird report")
    assert found(allowed, "the Bluebird report by supplier12")


def test_a_text_of_half_words_is_read_to_its_end() -> None:
    half = " ".join(word[:-1] + "x" for word in FILLER)
    assert not found(LONG, half)
    assert found(LONG, half + " supplier3")


@pytest.mark.parametrize(
    "words",
    [[], ["  "], ["x" * 201], [f"w{n}" for n in range(MOST_WORDS + 1)], [f"c+{n}+" for n in range(5_000)]],
)
def test_lists_that_cannot_be_meant_are_refused(words: list[str]) -> None:
    with pytest.raises(BadExpression):
        words_detector(words)


# Allow-lists


def test_an_allowed_value_does_not_count() -> None:
    detector = with_allowed("email", "support@example.com", patterns=(r".*@ours\.example",))
    assert not found(detector, "write to Support@Example.com")
    assert not found(detector, "write to anybody@ours.example, or ｓｕｐｐｏｒｔ@example.com")
    assert found(detector, "write to xsupport@example.com")
    assert found(detector, "write to support@example.com.evil.example")
    assert found(detector, "anybody@ours.example and bob@example.com")


def test_an_allowed_number_does_not_count_however_it_is_grouped() -> None:
    detector = with_allowed("credit_card", "4111111111111111")
    assert not found(detector, "the test card 4111 1111 1111 1111")
    assert not found(detector, "the test card 4111-1111-1111-1111 or 4111111111111111")
    assert found(detector, "the test card 4111 1111 1111 1111, mine 5500 0055 5555 5559")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iban", "GB82 WEST 1234 5698 7654 32"),
        ("jp_my_number", "1234 5678 9018"),
        ("us_ssn", "219-09-9999"),
        ("secret", "sk-proj-abcdefghijklmnop1234"),
    ],
)
def test_every_built_in_detector_takes_an_allow_list(name: str, value: str) -> None:
    assert found(BUILT_IN[name], f"SSN, my number: {value}, please")
    assert not found(with_allowed(name, value), f"SSN, my number: {value}, please")


def test_allowed_values_of_which_there_are_too_many_count() -> None:
    detector = with_allowed("email", "a@b.example")
    assert not found(detector, "a@b.example " * 4_000)
    assert found(detector, "a@b.example " * 6_000)


def test_a_detector_of_ones_own_takes_one_too() -> None:
    detector = allowing(EMPLOYEE, AllowList(("E000000",)))
    assert not found(detector, "E000000")
    assert found(detector, "E000000 E000001")
