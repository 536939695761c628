"""Hostile texts cost a bounded number of tests. Nothing here is timed: work is counted."""

import base64
import gzip
import random
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from gateway.detect import BUILT_IN, DETECTOR_NAMES, Detectors
from gateway.detect import cards as cards_module
from gateway.detect.candidates import MOST_FAILURES, any_passes
from gateway.detect.cards import _ANYWHERE, _COMMON, _candidates, _distinct_runs, _is_in_a_row, _says_enough
from gateway.detect.credentials import MOST_ASSIGNED
from gateway.detect.encoded import MOST_RUNS, MOST_UNPACKED_BYTES
from gateway.detect.ids import _iban_candidates

ALL = Detectors(DETECTOR_NAMES)
SIZE = 300_000

REPEATED = {
    "4": "4",
    "1": "1",
    "digits": "1234567890",
    "spaced": "4 ",
    "failing card": "4111 1111 1111 1112 ",
    "failing cards in a row": "4111111111111112",
    "failing individual number": "123456789012 ",
    "words for a card": "card ",
    "failing card beside a word": "card 4111111111111112, ",
    "failing individual number beside a word": "個人番号123456789012 ",
    "labels": "order: ",
    "labelled groups": "order: 1234-5678-9018 ",
    "no ssn": "000-00-0000 ",
    "at": "a@",
    "at dot": "a@a.",
    "at, a line each": "a@a\n",
    "repository users": "git@a.aa ",
    "dots": "a@" + "a." * 50 + "1 ",
    "jwt": "eyJ.",
    "jwt without end": "eyJ",
    "token": "token=",
    "token and spaces": "token   ",
    "iban head": "GB82",
    "failing iban": "GB82WEST12345698765433 ",
    "separators": " .-",
    "one digit and spaces": "1" + " " * 1_000,
    "pem": "-----BEGIN ",
    "ssn": "ssn ",
    "mixed width": "1１",
    "unseen": "1\u200b",
    "marks": "a\u0300\u0316",
    "escapes": "\\u0031a",
    "backslashes": "\\",
    "backslashes and u": "\\u",
    "percent": "%41a",
    "percent of percent": "%25",
    "entities": "&#49;a",
    "entities of entities": "&amp;",
    "zeros of an entity": "&#" + "0" * 50,
    "ampersands": "&",
    "broken words": "exam-\nple",
    "loose digits": "4,1;",
    "loose digits, then seven": "1," * 500 + "1234567 ",
    "loose groups": "4111,1111,1111,1112;",
    "loose iban": "GB82/WEST/1234/",
    "base64 of nothing": "aGVsbG8gd29ybGQhISE= ",
    "base64 in a row": "aGVsbG8gd29ybGQhISEh",
    "gzip heads": "H4sIAAAAAAAAA0sEAEO+t+gB ",
    "password": "password: ",
    "calls": "token=make_token_of_2(",
    "basic": "basic aGVsbG8gd29ybGQ ",
    "addresses": "a://a:a",
    "blanks": "1\u2800",
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_repeated_text_holds_nothing_and_is_read_to_its_end(name: str) -> None:
    unit = REPEATED[name]
    text = unit * (SIZE // len(unit))
    assert ALL.scan([text]) == frozenset()
    assert ALL.scan([text, text]) == frozenset()
    assert ALL.scan([text + " bob@example.com"]) >= {"email"}


def candidates(text: bytes) -> int:
    """How many there are in both readings, alone and beside a word."""
    runs = _distinct_runs(text)
    return sum(
        len(list(_candidates(runs, common, _says_enough, _is_in_a_row))) for common in (_COMMON, _ANYWHERE)
    )


def test_work_on_a_repeated_number_does_not_grow_with_the_text() -> None:
    for unit in ("4", "1234567890", "4111 1111 1111 1112 ", "4444444444444444 ", "4.4-"):
        small, large = (candidates((unit * (size // len(unit))).encode()) for size in (20_000, 200_000))
        assert large <= small + 200


def test_work_on_distinct_numbers_grows_with_the_text_and_no_faster() -> None:
    source = random.Random(1)
    digits = "".join(source.choices("0123456789", k=80_000)).encode()
    spaced = b" ".join(digits[i : i + 16] for i in range(0, len(digits), 16))
    for text in (digits, spaced):
        half, whole = (candidates(part) for part in (text[: len(text) // 2], text))
        assert whole <= 2.3 * half
        assert len(_distinct_runs(text)) <= 2 * len(text) + 200


def test_iban_heads_grow_with_the_text_and_no_faster() -> None:
    source = random.Random(2)
    text = "".join(
        f"GB{source.randrange(100):02d}WEST{source.randrange(10**14):014d}" for _ in range(2_000)
    ).encode()
    half, whole = (len(list(_iban_candidates(part))) for part in (text[: len(text) // 2], text))
    assert whole <= 2.2 * half


def test_equal_candidates_are_tested_once() -> None:
    tested: list[bytes] = []

    def fails(candidate: bytes) -> bool:
        tested.append(candidate)
        return False

    assert not any_passes([b"a", b"b"] * 10_000, fails)
    assert tested == [b"a", b"b"]


def test_too_many_different_failures_count_as_found() -> None:
    tested: list[bytes] = []

    def fails(candidate: bytes) -> bool:
        tested.append(candidate)
        return False

    assert any_passes((b"%d" % n for n in range(10**9)), fails)
    assert len(tested) == MOST_FAILURES + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda n: f"4{n:014d}",  # the check digit is added below, and is wrong
        lambda n: f"51{n:013d}",
    ],
)
def test_a_text_of_nothing_but_failing_cards_is_given_up_as_found(
    make: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = 0

    def fails(_: bytes) -> bool:
        nonlocal tested
        tested += 1
        return False

    monkeypatch.setattr(cards_module, "_is_card", fails)
    text = " ".join(make(n) + "0" for n in range(20_000))
    assert Detectors(("credit_card",)).scan([text]) == {"credit_card"}
    assert tested == MOST_FAILURES + 1
    tested = 0
    assert Detectors(("credit_card",)).scan([text + " " + "0f" * 16]) == {"credit_card"}
    # Once for the text and once more without its digests.
    assert tested == 2 * (MOST_FAILURES + 1)


def test_private_keys_without_an_end_are_one_value_and_cost_one_search() -> None:
    text = b"-----BEGIN PRIVATE KEY" * 20_000
    assert list(BUILT_IN["secret"].spans(text)) == [(0, len(text))]


def test_a_private_key_after_another_is_found_by_itself() -> None:
    key = b"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"
    text = key + b" and " + key
    assert list(BUILT_IN["secret"].spans(text)) == [(0, len(key)), (len(key) + 5, len(text))]


@pytest.mark.parametrize("name", REPEATED)
def test_where_values_stand_is_found_in_bounded_steps(name: str) -> None:
    """Every detector's spans lie in order within the text, whatever the text."""
    unit = REPEATED[name]
    text = (unit * (20_000 // len(unit))).encode("utf-8", "surrogatepass")
    for detector in BUILT_IN.values():
        spans = list(detector.spans(text))
        assert all(0 <= start < end <= len(text) for start, end in spans)


def calls_of(scan: Callable[[], object]) -> int:
    """How many functions are called meanwhile, those of C as well."""
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(counted)
    try:
        scan()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", REPEATED)
def test_a_text_twice_as_long_takes_twice_the_steps_at_most(name: str) -> None:
    unit = REPEATED[name]
    once, twice = (
        calls_of(lambda size=size: ALL.scan([unit * (size // len(unit))])) for size in (40_000, 80_000)
    )
    assert twice <= 2.2 * once + 200


def test_an_archive_that_unpacks_to_more_than_is_read_counts_as_found() -> None:
    bomb = base64.b64encode(gzip.compress(bytes(MOST_UNPACKED_BYTES + 1))).decode()
    assert ALL.scan([f"see {bomb} here"]) == set(DETECTOR_NAMES)
    small = base64.b64encode(gzip.compress(bytes(MOST_UNPACKED_BYTES // 2))).decode()
    assert ALL.scan([f"see {small} here"]) == set()


def test_a_number_of_an_escape_may_have_any_number_of_zeros() -> None:
    zeros = "0" * 100_000
    assert ALL.scan([f"bob&#{zeros}64;example.com"]) == {"email"}
    assert ALL.scan([f"bob&#x{zeros}40;example.com"]) == {"email"}


def test_more_encoded_runs_than_are_read_count_as_found() -> None:
    runs = [base64.b64encode(f"number {n:09d}".encode()).decode() for n in range(MOST_RUNS + 1)]
    assert ALL.scan([" ".join(runs[:-1])]) == set()
    assert ALL.scan([" ".join(runs)]) == set(DETECTOR_NAMES)


def test_more_assignments_than_are_looked_at_count_as_found() -> None:
    calls = [f"token = make_token_of_{n}(); " for n in range(1_000, 1_001 + MOST_ASSIGNED)]
    assert ALL.scan(["".join(calls[:-1] * 2)]) == set()
    assert ALL.scan(["".join(calls)]) == {"secret"}
