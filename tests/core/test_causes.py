"""What raised a class, as rows keep it: words that are read for years."""

import pytest

from gateway.core.catalog import Modality
from gateway.core.causes import (
    ENTITIES,
    TOKEN_IDS,
    UNMASKED,
    UNREADABLE,
    Cause,
    Detected,
    EntitiesPossible,
    EntityResult,
    MediaContent,
    TokenIds,
    TooLongToMask,
    Unreadable,
    in_words,
    kind_of,
    to_client,
    written,
)

WRITTEN: dict[Cause, tuple[str, str]] = {
    Detected("email"): ("email", "email"),
    MediaContent(Modality.IMAGE): ("image", "image"),
    Unreadable(): ("unreadable input", UNREADABLE),
    TokenIds(): ("token ids", TOKEN_IDS),
    TooLongToMask(): ("mask", UNMASKED),
    EntitiesPossible(EntityResult.LATE): ("named entities (late)", ENTITIES),
    EntitiesPossible(EntityResult.UNAVAILABLE): ("named entities (unavailable)", ENTITIES),
}


@pytest.mark.parametrize("cause", WRITTEN)
def test_a_cause_is_written_in_the_same_words_for_ever(cause: Cause) -> None:
    text, kind = WRITTEN[cause]
    assert written(cause) == text
    assert kind_of(text) == kind


def test_rows_that_say_away_are_about_entities_too() -> None:
    assert kind_of("named entities (away)") == ENTITIES


def test_a_detector_with_a_similar_name_is_itself() -> None:
    assert kind_of("named entities of ours") == "named entities of ours"


def test_an_explanation_says_what_kind_of_cause_it_is() -> None:
    assert in_words(Detected("email")) == "detector email"
    assert in_words(MediaContent(Modality.AUDIO)) == "audio content"
    assert in_words(EntitiesPossible(EntityResult.FOUND)) == "named entities (found)"


@pytest.mark.parametrize("cause", WRITTEN)
def test_the_client_is_told_each_cause_in_a_sentence(cause: Cause) -> None:
    assert len(to_client(cause, "restricted", "charts").split()) >= 5
