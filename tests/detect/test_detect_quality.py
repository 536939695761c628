"""How much is found of what is there, and how much that is not: `python -m tests.detect.test_detect_quality`.

The tables of docs/privacy.md are its output.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from gateway.detect import DETECTOR_NAMES, Detectors
from tests.detect.detection_corpus import (
    FALSE_FRIENDS,
    OF_EACH,
    Sample,
    false_friends,
    true_cards,
    true_individual_numbers,
)
from tests.detect.document_corpus import SENSITIVE, documents

ALL = Detectors(DETECTOR_NAMES)
TRUE = {"credit_card": true_cards, "jp_my_number": true_individual_numbers}
PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"

# Sixteen digits that a card could have, alone: no rule tells them from a card, and a card must not leave.
MOST_OF_SIXTEEN = 0.05
MOST_OF_OTHERS = 0.01
# Documents in which a detector finds what is not there.
MOST_OF_DOCUMENTS = 0.01

Scanned = tuple[Sample, frozenset[str]]


@cache
def scanned_documents() -> tuple[Scanned, ...]:
    return tuple((sample, ALL.scan(sample.pieces)) for sample in documents())


@cache
def scanned_numbers() -> tuple[Scanned, ...]:
    return tuple((sample, ALL.scan(sample.pieces)) for sample in numbers())


def numbers() -> Iterator[Sample]:
    yield from true_cards()
    yield from true_individual_numbers()
    yield from false_friends()


def missed(samples: Iterable[Sample], detector: str) -> list[Sample]:
    return [sample for sample in samples if detector not in ALL.scan(sample.pieces)]


@pytest.mark.parametrize("detector", TRUE)
def test_every_number_that_is_written_as_one_or_named_is_found(detector: str) -> None:
    assert missed(TRUE[detector](), detector) == []


@pytest.mark.parametrize("kind", FALSE_FRIENDS)
def test_hardly_anything_that_only_looks_like_one_is_found(kind: str) -> None:
    found = [sample for sample, names in scanned_numbers() if sample.kind == kind and names]
    most = MOST_OF_SIXTEEN if kind == "numbers of 16 digits" else MOST_OF_OTHERS
    assert len(found) <= most * OF_EACH, found[:5]


@pytest.mark.parametrize("detector", DETECTOR_NAMES)
def test_hardly_any_document_is_found_that_holds_no_such_value(detector: str) -> None:
    without = [(sample, names) for sample, names in scanned_documents() if detector not in sample.holds]
    wrong = [sample for sample, names in without if detector in names]
    assert len(wrong) <= MOST_OF_DOCUMENTS * len(without), wrong[:5]


def test_the_documents_are_many_and_each_detector_has_some() -> None:
    samples = [sample for sample, _ in scanned_documents()]
    assert len(samples) >= 5_000
    assert (
        {detector for sample in samples for detector in sample.holds} == set(SENSITIVE) == set(DETECTOR_NAMES)
    )
    assert len({sample.pieces for sample in samples}) > 0.9 * len(samples)


def test_the_page_says_what_is_measured() -> None:
    page = PAGE.read_text()
    for table in tables():
        assert table in page


def tables() -> tuple[str, str, str]:
    """What the page shows: the numbers, what is found of false friends, and the documents."""
    friends = Counter(dict.fromkeys(FALSE_FRIENDS, 0))
    for sample, names in scanned_numbers():
        if sample.kind in friends:
            friends[sample.kind] += bool(names)
    shown = ", ".join(f"{kind} {count}" for kind, count in friends.items() if count)
    none = ", ".join(kind for kind, count in friends.items() if not count)
    return (
        _table(scanned_numbers(), TRUE),
        f"Found of {OF_EACH} each: {shown}. None: {none}.",
        _table(scanned_documents(), DETECTOR_NAMES),
    )


def _table(scanned: tuple[Scanned, ...], detectors: Iterable[str]) -> str:
    lines = [
        "| detector | texts with one | recall | texts without | found of these | precision |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for detector in detectors:
        there = [detector in names for sample, names in scanned if detector in sample.holds]
        apart = [detector in names for sample, names in scanned if detector not in sample.holds]
        hits, wrong = sum(there), sum(apart)
        lines.append(
            f"| `{detector}` | {len(there):,} | {hits / len(there):.1%} | {len(apart):,} | {wrong} | "
            f"{hits / (hits + wrong):.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n\n".join(tables()))
