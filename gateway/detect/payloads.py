"""Payloads: what a content part holds beside text, as far as it is what the part says that it is.

A payload is the string that the part's type has a place for: strict base64 of a format of that kind, by its
bytes. SVG and all other text in base64 is text. What is neither is unreadable: nobody knows what it is.
"""

import base64
import codecs
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

IMAGE, AUDIO, VIDEO, FILE = "image", "audio", "video", "file"


class Place(NamedTuple):
    """Where parts of one type have their payload: member `outer`, or member `inner` of the object there."""

    kind: str
    outer: str
    inner: str


PLACES: Final[Mapping[str, Place]] = {
    "image_url": Place(IMAGE, "image_url", "url"),
    "input_image": Place(IMAGE, "image_url", "url"),
    "input_audio": Place(AUDIO, "input_audio", "data"),
    "audio_url": Place(AUDIO, "audio_url", "url"),
    "video_url": Place(VIDEO, "video_url", "url"),
    "input_video": Place(VIDEO, "input_video", "url"),
    "file": Place(FILE, "file", "file_data"),
    "input_file": Place(FILE, "file_data", "file_data"),
}
# Their base64 may stand without `data:` before it.
_BARE: Final = frozenset({"data", "file_data"})

# Parameters are text of the client's, but for those that browsers add.
_CODED: Final = re.compile(
    r"data:([a-z]+/[a-z0-9.+\-]+)?(?:;charset=utf-8|;codecs=opus|;codecs=pcm)?;base64,", re.IGNORECASE
)
# As it is, or percent-encoded, which detectors read.
_PLAIN: Final = re.compile(
    r"data:(?:text/[a-z.+\-]+|image/svg\+xml)?(?:;(?:charset=)?utf-?8)?,", re.IGNORECASE
)
_MOST_HEAD: Final = 256
# Readers of URLs skip blanks before them, and some within.
_BLANKS: Final = r"[\s\x00-\x20]*"
_FORGIVEN: Final = re.compile("".join(_BLANKS + letter for letter in "data:"), re.IGNORECASE)
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.\-]{0,15}://", re.IGNORECASE)
_UNTOLD: Final = ("", "application/octet-stream")

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# A slice bounds how long one call keeps other threads waiting.
_SLICE: Final = 1 << 20
# Characters of base64 that are enough to tell text from every format.
_BEGINNING: Final = 4_096
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0e-\x1f]")
_PRINTABLE: Final = bytes(range(0x20, 0x7F)) + b"\t\n\r"
# Text that begins with the letters of a format has this share of printable bytes, and no picture has.
_SHARE_OF_TEXT: Final = 0.9
_BYTE_ORDER_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_PICTURES: Final = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"})
_MATROSKA: Final = b"\x1a\x45\xdf\xa3"


class Read(NamedTuple):
    """What stands at a place: `text` to look through, and whether something in it cannot be read."""

    text: tuple[str, ...] = ()
    unreadable: bool = False


def payload_of(part: Mapping[str, Any], place: Place) -> str | None:
    """The string at `place` of `part`: an address, or content."""
    value = part.get(place.outer)
    if type(value) is dict:
        value = value.get(place.inner)
    elif place.inner in _BARE and place.outer != place.inner:
        return None
    return value if type(value) is str else None


def without_payload(part: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """`part` without the string at `place`."""
    rest = dict(part)
    value = rest.pop(place.outer)
    if type(value) is dict:
        rest[place.outer] = {name: other for name, other in value.items() if name != place.inner}
    return rest


def read_payload(written: str, place: Place) -> Read:
    """What `written` says, which stands at `place`. Linear in its length."""
    coded = _CODED.match(written, 0, _MOST_HEAD)
    if coded is not None:
        said = (coded[1] or "").lower()
        read = _read_base64(written[coded.end() :], place.kind, said)
        return read._replace(text=(*read.text, said))
    if place.inner in _BARE and not _is_data_url(written):
        return _read_base64(written, place.kind, "")
    is_text = not written or _ADDRESS.match(written) or _PLAIN.match(written, 0, _MOST_HEAD)
    return Read((written,), unreadable=not is_text)


def holds_content(parent: str | None, key: str | None, written: str) -> bool:
    """Whether the string behind `key` is content in base64, or is taken for it by some reader."""
    if key == "file_data" or (key == "data" and parent == "input_audio"):
        return bool(written)
    return _is_data_url(written) and not _PLAIN.match(written, 0, _MOST_HEAD)


def _is_data_url(written: str) -> bool:
    first = written[:1]
    if "!" <= first <= "~" and first not in "dD":
        return False
    return _FORGIVEN.match(written) is not None


def image_type(content: bytes) -> str | None:
    """The media type of an image by its first bytes, of the four that models read; None for anything else."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content[:6] in {b"GIF87a", b"GIF89a"}:
        return "image/gif"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return None


def is_base64(content: str) -> bool:
    """Whether `content` is base64 as RFC 4648 has it: one alphabet, padded, and nothing between."""
    if len(content) % 4 or not content.isascii():
        return False
    end = len(content) - (2 if content.endswith("==") else content.endswith("="))
    return not any(
        content[at : min(at + _SLICE, end)].encode("ascii").translate(None, _ALPHABET)
        for at in range(0, end, _SLICE)
    )


def _read_base64(content: str, kind: str, said: str) -> Read:
    if not is_base64(content):
        return Read((content,), unreadable=True)
    begins = base64.b64decode(content[:_BEGINNING])
    if _begins_as_text(begins):
        text = _text_of(content)
        if text is not None:
            return Read((text,))
    if kind == FILE or not content:
        # A file may be of any format, and counts as a file. What is too short for one may be a number.
        return Read((content,) if len(content) <= _MOST_HEAD else ())
    agrees = said in _UNTOLD or said.startswith(f"{kind}/")
    return Read(unreadable=not (agrees and _FORMATS[kind](begins)))


def _begins_as_text(begins: bytes) -> bool:
    if begins.startswith(_BYTE_ORDER_MARKS):
        return True
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(begins)
    except UnicodeDecodeError:
        return False
    return not _CONTROLS.search(text)


def _text_of(content: str) -> str | None:
    raw = base64.b64decode(content)
    try:
        return raw.decode("utf-16" if raw.startswith(_BYTE_ORDER_MARKS) else "utf-8")
    except UnicodeDecodeError:
        return None


def _is_image(begins: bytes) -> bool:
    if begins[:4] in {b"GIF8", b"RIFF"}:
        unprintable = len(begins.translate(None, _PRINTABLE))
        return unprintable > (1 - _SHARE_OF_TEXT) * len(begins) and image_type(begins) is not None
    return (
        image_type(begins) is not None
        or begins[:4] in {b"II*\x00", b"MM\x00*"}
        or (begins[:2] == b"BM" and begins[6:10] == b"\x00\x00\x00\x00")
        or (begins[4:8] == b"ftyp" and begins[8:12] in _PICTURES)
    )


def _is_audio(begins: bytes) -> bool:
    is_frame = begins[:1] == b"\xff" and begins[1:2] >= b"\xe0"  # of MPEG audio, or AAC
    return is_frame or begins[:3] == b"ID3" or begins[:4] == b"fLaC" or _is_recording(begins, b"WAVE")


def _is_video(begins: bytes) -> bool:
    return begins[:4] in {b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"} or _is_recording(begins, b"AVI ")


def _is_recording(begins: bytes, riff: bytes) -> bool:
    """Formats that hold sound alone, or pictures as well."""
    return (
        begins[:4] in {b"OggS", _MATROSKA}
        or (begins[:4] == b"RIFF" and begins[8:12] == riff)
        or (begins[4:8] == b"ftyp" and begins[8:12] not in _PICTURES)
    )


_FORMATS: Final = {IMAGE: _is_image, AUDIO: _is_audio, VIDEO: _is_video}
