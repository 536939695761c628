"""How much is found of what is there, and how much that is not: `python -m tests.detect.test_detect_quality`.

The table of docs/privacy.md is its output.
"""

from collections import Counter
from collections.abc import Iterable
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

ALL = Detectors(DETECTOR_NAMES)
TRUE = {"credit_card": true_cards, "jp_my_number": true_individual_numbers}
PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"

# Sixteen digits that a card could have, alone: no rule tells them from a card, and a card must not leave.
MOST_OF_SIXTEEN = 0.05
MOST_OF_OTHERS = 0.01


def missed(samples: Iterable[Sample], detector: str) -> list[Sample]:
    return [sample for sample in samples if detector not in ALL.scan(sample.pieces)]


@pytest.mark.parametrize("detector", TRUE)
def test_every_number_that_is_written_as_one_or_named_is_found(detector: str) -> None:
    assert missed(TRUE[detector](), detector) == []


@pytest.mark.parametrize("kind", FALSE_FRIENDS)
def test_hardly_anything_that_only_looks_like_one_is_found(kind: str) -> None:
    found = [sample for sample in false_friends() if sample.kind == kind and ALL.scan(sample.pieces)]
    most = MOST_OF_SIXTEEN if kind == "numbers of 16 digits" else MOST_OF_OTHERS
    assert len(found) <= most * OF_EACH, found[:5]


def test_the_page_says_what_is_measured() -> None:
    assert table() in PAGE.read_text()


def table() -> str:
    """The measured precision and recall, and the false finds, as the page shows them."""
    by_detector: Counter[str] = Counter()
    by_kind: Counter[str] = Counter()
    for sample in false_friends():
        names = ALL.scan(sample.pieces)
        by_detector.update(names)
        by_kind[sample.kind] += bool(names)
    lines = [
        "| detector | true ones | recall | false friends | found of these | precision |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for detector, samples in TRUE.items():
        there = list(samples())
        hits = len(there) - len(missed(there, detector))
        wrong = by_detector[detector]
        lines.append(
            f"| `{detector}` | {len(there):,} | {hits / len(there):.1%} | {by_kind_total():,} | {wrong} | "
            f"{hits / (hits + wrong):.1%} |"
        )
    shown = ", ".join(f"{kind} {by_kind[kind]}" for kind in FALSE_FRIENDS if by_kind[kind])
    none = ", ".join(kind for kind in FALSE_FRIENDS if not by_kind[kind])
    return "\n".join([*lines, "", f"Found of {OF_EACH} each: {shown}. None: {none}."])


def by_kind_total() -> int:
    return OF_EACH * len(FALSE_FRIENDS)


if __name__ == "__main__":
    print(table())
