"""What a content part holds beside text: when it is a payload, when it is text, and when nobody knows."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.detect.payloads import PLACES, image_type, is_base64
from gateway.detect.text import find_text

CARD = "4111111111111111"
TEXT = f"My card is {CARD}."
# Raw digits are valid base64, so a scan of the payload would find the card.
DIGITS = CARD * 4
BEGINNINGS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff",
    "image/webp": b"RIFF\x1a\x00\x00\x00WEBPVP8L",
    "image/bmp": b"BM\x46\x00\x00\x00\x00\x00\x00\x00",
    "image/tiff": b"II*\x00",
    "image/avif": b"\x00\x00\x00\x1cftypavif",
    "audio/wav": b"RIFF\x28\x00\x00\x00WAVEfmt ",
    "audio/mpeg": b"ID3\x04\x00",
    "audio/mp3": b"\xff\xfb\x90\x00",
    "audio/aac": b"\xff\xf1\x50\x80",
    "audio/flac": b"fLaC\x00\x00\x00\x22",
    "audio/ogg": b"OggS\x00\x02",
    "audio/mp4": b"\x00\x00\x00\x18ftypM4A ",
    "audio/webm": b"\x1a\x45\xdf\xa3",
    "video/mp4": b"\x00\x00\x00\x18ftypmp42",
    "video/webm": b"\x1a\x45\xdf\xa3",
    "video/x-msvideo": b"RIFF\x28\x00\x00\x00AVI LIST",
    "application/pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
}
PARTS_BY_KIND = {"image": "image_url", "audio": "audio_url", "video": "video_url", "application": "file"}


def coded(content: str | bytes) -> str:
    return base64.b64encode(content.encode() if isinstance(content, str) else content).decode()


def part(kind: str, written: Any) -> dict[str, Any]:
    """A part of type `kind` with `written` at its place."""
    place = PLACES[kind]
    holder = written if place.outer == place.inner else {place.inner: written}
    return {"type": kind, place.outer: holder}


def found(*parts: dict[str, Any], **more: Any) -> tuple[tuple[str, ...], bool]:
    """The text that is read in a message of `parts`, and whether something in it is unreadable."""
    text = find_text({"messages": [{"role": "user", "content": list(parts)}], **more})
    return text.pieces, text.unreadable


def binary(said: str, begins: bytes) -> str:
    """A `data:` URL of content that begins like this and goes on with the digits of a card."""
    return f"data:{said};base64,{coded(begins + bytes(-len(begins) % 3))}{'A' * 256}{DIGITS}"


@pytest.mark.parametrize(("said", "begins"), BEGINNINGS.items(), ids=BEGINNINGS)
def test_a_payload_of_its_part_s_kind_is_left_out(said: str, begins: bytes) -> None:
    kind = PARTS_BY_KIND[said.partition("/")[0]]
    for url in (binary(said, begins), f"DATA{binary(said, begins)[4:]}"):
        assert found(part(kind, url)) == ((said,), False)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize(("said", "begins"), BEGINNINGS.items(), ids=BEGINNINGS)
def test_a_payload_of_another_kind_is_unreadable_but_in_a_file(kind: str, said: str, begins: bytes) -> None:
    sort = said.partition("/")[0]
    if PLACES[kind].kind not in {sort, "file"}:
        assert found(part(kind, binary(said, begins)))[1]
    if PLACES[kind].kind == "file":
        assert not found(part(kind, binary(said, begins)))[1]


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("said", ["text/plain", "image/svg+xml", "image/png", "audio/wav", "application/pdf"])
def test_text_in_base64_is_text_whatever_it_is_called(kind: str, said: str) -> None:
    for raw in (
        TEXT.encode(),
        f"GIF89a {TEXT}".encode(),
        f"<svg>{TEXT}</svg>".encode(),
        TEXT.encode("utf-16"),
    ):
        pieces, _ = found(part(kind, f"data:{said};base64,{coded(raw)}"))
        assert CARD in "".join(pieces)


def test_a_long_text_is_read_to_its_end() -> None:
    pieces, unreadable = found(part("image_url", f"data:image/png;base64,{coded('x' * 100_000 + TEXT)}"))
    assert CARD in "".join(pieces)
    assert not unreadable
    broken = coded(b"x" * 100_000 + b"\xff")
    assert found(part("image_url", f"data:image/png;base64,{broken}"))[1]
    assert not found(part("file", f"data:application/pdf;base64,{broken}"))[1]


@pytest.mark.parametrize(
    "written",
    [
        f"data:image/png;base64,{TEXT}",
        f"data:image/png;base64,iVBORw0KGgo={TEXT}",
        "data:image/png;base64,iVBORw0K\nGgo=",
        "data:image/png;base64,iVBORw0KGgo",
        "data:image/png;base64,iVBO_w0KGgo=",
        "data:image/png;base64,iVBORw0KGgo= ",
        "data:image/png;base64,ｉVBORw0KGgo=",
        f"data:image/png;note={CARD};base64,iVBORw0KGgo=",
        "data:image/png;base64;x,iVBORw0KGgo=",
        "data:image/png,iVBORw0KGgo=",
        "data:image/png;base%36%34,iVBORw0KGgo=",
        " data:image/png;base64,iVBORw0KGgo=",
        "da\tta:image/png;base64,iVBORw0KGgo=",
        "iVBORw0KGgo=",
        "base64,iVBORw0KGgo=",
        f"data:{'x' * 300}/png;base64,iVBORw0KGgo=",
        "data:image/png;base64,AAAA",
        "data:audio/wav;base64,iVBORw0KGgo=",
    ],
)
def test_whatever_only_resembles_a_payload_is_unreadable_and_read(written: str) -> None:
    pieces, unreadable = found(part("image_url", written))
    assert unreadable
    if CARD in written:
        assert CARD in "".join(pieces)


@pytest.mark.parametrize(
    "written",
    [
        f"https://example.com/{CARD}.png",
        f"data:text/plain,{TEXT}",
        f"data:,{TEXT}",
        f"data:image/svg+xml;utf8,<svg>{TEXT}</svg>",
        f"data:image/svg+xml;charset=utf-8,<svg>{TEXT}</svg>",
        "",
    ],
)
def test_addresses_and_plain_text_are_text(written: str) -> None:
    assert found(part("image_url", written)) == ((written,), False)


@pytest.mark.parametrize("kind", ["input_audio", "file", "input_file"])
def test_some_places_take_base64_by_itself(kind: str) -> None:
    assert found(part(kind, coded(b"RIFF\x00\x00\x00\x00WAVE") + 64 * DIGITS)) == ((), False)
    assert CARD in "".join(found(part(kind, coded(TEXT)))[0])
    assert found(part(kind, TEXT))[1]
    pieces, unreadable = found(part(kind, CARD))
    assert unreadable or CARD in "".join(pieces), "too short for a file"
    if kind != "input_file":
        assert found({"type": kind, PLACES[kind].outer: CARD}) == ((CARD,), False), "not where it stands"


PNG_URL = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"image_url": PNG_URL}},
        {"metadata": {"a": PNG_URL.replace(":", ":\t")[:4] + PNG_URL[4:]}},
        {"x": [PNG_URL]},
        {"x": {"input_audio": {"data": "AAAA"}}},
        {"file_data": "AAAA"},
        {"prompt": "x", "messages": {"content": [part("image_url", PNG_URL)]}},
        {"messages": [{"messages": [{"content": [part("image_url", PNG_URL)]}]}]},
        {"messages": [{"role": "user", "content": {"content": [part("image_url", PNG_URL)]}}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "image_url": {"url": PNG_URL}}]}]},
        {"messages": [{"role": "user", "content": [part("image_url", PNG_URL) | {"x": {"url": PNG_URL}}]}]},
        {"messages": [{"role": "user", "content": [part("image_url", {"url": PNG_URL})]}]},
        {"messages": [{"role": "user", "tool_calls": [part("image_url", PNG_URL)]}]},
        {"tools": [{"function": {"parameters": {"default": PNG_URL}}}]},
    ],
)
def test_content_anywhere_else_is_unreadable(body: dict[str, Any]) -> None:
    assert find_text(body).unreadable


def test_what_stands_beside_a_payload_is_read() -> None:
    one = {
        "type": "image_url",
        "image_url": {"url": PNG_URL, "detail": CARD, CARD[:-1]: 1},
        "cache": {"a": CARD},
    }
    pieces, unreadable = found(one)
    assert not unreadable
    assert "".join(pieces).count(CARD[:-1]) == 3


def test_the_word_for_it_in_text_is_text() -> None:
    pieces, unreadable = found({"type": "text", "text": PNG_URL}, user="data: none")
    assert (pieces, unreadable) == ((PNG_URL, "data: none"), True)


@given(st.binary(max_size=40), st.integers(0, 60), st.sampled_from(["=", " ", "\n", "-", "_", "%", "é", "A"]))
def test_base64_is_strict(content: bytes, at: int, more: str) -> None:
    written = coded(content)
    assert is_base64(written)
    changed = written[:at] + more + written[at:]
    assert not is_base64(changed)


def test_base64_is_strict_in_every_slice() -> None:
    long = "A" * (3 << 20)
    assert is_base64(long)
    for at in (0, (1 << 20) - 1, 1 << 20, len(long) - 1):
        assert not is_base64(f"{long[:at]}-{long[at + 1 :]}")
        assert not is_base64(f"{long[: at - 3]}={long[at - 2 :]}" if at > 3 else "=AAA")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a..", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"<svg xmlns=", None),
        (b"<html>", None),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"", None),
    ],
)
def test_an_image_is_known_by_its_first_bytes(content: bytes, kind: str | None) -> None:
    assert image_type(content) == kind
