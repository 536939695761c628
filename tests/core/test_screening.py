"""What raises the class of a request, and that nothing lowers it."""

import msgspec
import pytest

from gateway.core.call import Call
from gateway.core.catalog import Api, Modality
from gateway.core.causes import Detected, MediaContent, TokenIds, Unreadable
from gateway.core.parse import Body, parse_call
from gateway.core.screening import Raise, Screening, Screenings, raise_reasons, screen
from gateway.detect import Detectors
from tests.core.builders import CLASSES, chat, parsed_with_body

SCREENING = Screening(
    classes=CLASSES,
    detectors=Detectors(("email", "secret")),
    raise_to={"email": "confidential", "secret": "restricted"},
)
MAIL = "write to bob@example.com"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRgAAAABXQVZF", "format": "wav"}}


def said(*parts: object) -> tuple[Call, Body]:
    return parsed_with_body(chat(list(parts)))


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_a_find_raises_the_class_to_what_its_detector_says() -> None:
    classified = screen(*said(text(MAIL)), SCREENING, "internal")
    assert classified.privacy == "confidential"
    assert classified.raised_by == (Raise(Detected("email"), "confidential"),)


def test_of_several_the_most_sensitive_class_counts_and_is_what_is_named() -> None:
    both = said(text(MAIL), text("password=abcdefgh12345678"))
    assert screen(*both, SCREENING, "public").raised_by == (Raise(Detected("secret"), "restricted"),)


@pytest.mark.parametrize("floor", ["confidential", "restricted"])
def test_nothing_lowers_a_floor(floor: str) -> None:
    classified = screen(*said(text(MAIL)), SCREENING, floor)
    assert (classified.privacy, classified.raised_by) == (floor, ())


@pytest.mark.parametrize(("part", "modality"), [(IMAGE, "image"), (SOUND, "audio")])
def test_content_that_no_detector_reads_counts_as_the_most_sensitive_class(
    part: object, modality: str
) -> None:
    classified = screen(*said(text("look"), part), SCREENING, "public")
    assert classified.privacy == "restricted"
    assert classified.raised_by == (Raise(MediaContent(Modality(modality)), "restricted"),)


def test_unless_it_is_said_what_it_counts_as() -> None:
    loosened = Screening(classes=CLASSES, media={Modality.IMAGE: "internal"})
    assert screen(*said(IMAGE), loosened, "public").privacy == "internal"
    assert screen(*said(IMAGE), loosened, "confidential").privacy == "confidential"
    assert screen(*said(IMAGE, SOUND), loosened, "public").privacy == "restricted"


def test_token_ids_count_as_the_most_sensitive_class() -> None:
    call = parse_call(Api.COMPLETIONS, b'{"model":"m","prompt":[1,2,3]}', 10)
    assert screen(*call, SCREENING, "public").raised_by == (Raise(TokenIds(), "restricted"),)


def test_unless_it_is_said_what_token_ids_count_as() -> None:
    call = parse_call(Api.EMBEDDINGS, b'{"model":"m","input":[[1,2,3]]}', 10)
    loosened = msgspec.structs.replace(SCREENING, token_ids="internal")
    assert screen(*call, loosened, "public").privacy == "internal"
    mixed = parse_call(Api.EMBEDDINGS, b'{"model":"m","input":[[1],"write to bob@example.com"]}', 10)
    assert screen(*mixed, loosened, "public").privacy == "confidential"


def test_embeddings_in_place_of_text_count_as_the_most_sensitive_class() -> None:
    call = parse_call(Api.COMPLETIONS, b'{"model":"m","prompt":"x","prompt_embeds":"AAAA"}', 10)
    loosened = msgspec.structs.replace(SCREENING, token_ids="internal")
    assert screen(*call, loosened, "public").raised_by == (Raise(Unreadable(), "restricted"),)


def test_a_payload_outside_of_a_media_part_counts_as_the_most_sensitive_class() -> None:
    stray = {"type": "text", "text": "hi", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert screen(*said(stray), SCREENING, "public").raised_by == (Raise(Unreadable(), "restricted"),)


def test_a_feature_has_its_own_screening_or_that_of_all() -> None:
    own = Screening(classes=CLASSES)
    screenings = Screenings(SCREENING, {"search": own})
    assert screenings.of("search") is own
    assert screenings.of("anything") is SCREENING


def test_the_client_is_told_what_raised_the_class_and_what_to_set() -> None:
    image = raise_reasons(screen(*said(IMAGE), SCREENING, "internal"), "charts")
    assert "image content counts as 'restricted'" in image
    assert "features.charts.media.image or privacy.media.image" in image
    assert "the detector email found something" in raise_reasons(
        screen(*said(text(MAIL)), SCREENING, "public"), "charts"
    )
    assert raise_reasons(screen(*said(text("hello")), SCREENING, "public"), "charts") == ""
