"""What a prompt holds beside text: the kinds of its content parts, and how large they are."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.catalog import Modality
from gateway.core.errors import InvalidRequest
from gateway.detect.payloads import PLACES

TEXT_ONLY = frozenset({Modality.TEXT})

# Members of a content part that may be an address themselves; in others it is the `url` inside.
_ADDRESSES = frozenset({"image_url", "audio_url", "video_url", "file_url", "url"})

_TEXTS = ("text", "input_text", "output_text", "refusal")
_PART_MODALITIES = {
    **dict.fromkeys(_TEXTS, Modality.TEXT),
    **{kind: Modality(place.kind) for kind, place in PLACES.items()},
}


class Media(msgspec.Struct, frozen=True, gc=False):
    """Binary parts of a prompt: how many, and how many bytes of JSON they take.

    `file_bytes` are those of files, of video, and of audio that is named by its address: nothing about them
    bounds how many tokens they unfold to. `is_remote`: some part is an address that the upstream would fetch.
    """

    images_low: int = 0
    images_high: int = 0
    audio_bytes: int = 0
    file_bytes: int = 0
    bytes: int = 0
    is_remote: bool = False


NO_MEDIA = Media()


def media_of(parts: list[tuple[str, Any]], wants_audio: bool) -> tuple[frozenset[Modality], Media]:
    """The modalities and media of content `parts`, each with its place in the body.

    Raises InvalidRequest for a part of an unknown kind.
    """
    found = {Modality.TEXT}
    if wants_audio:
        found.add(Modality.AUDIO)
    low = high = audio_bytes = file_bytes = total = 0
    is_remote = False
    for where, part in parts:
        kind = part.get("type")
        modality = _PART_MODALITIES.get(kind) if isinstance(kind, str) else None
        if modality is None:
            # An unknown kind could carry anything past the privacy rules, so it is refused, not forwarded.
            raise InvalidRequest(
                f"Invalid value for '{where}.type'. Supported: {', '.join(sorted(_PART_MODALITIES))}.",
                param=f"{where}.type",
                code="invalid_value",
            )
        is_remote = is_remote or _is_remote(part)
        if modality is Modality.TEXT:
            continue
        found.add(modality)
        size = _payload_bytes(part)
        total += size
        if modality is Modality.IMAGE:
            is_low = _detail(part) == "low"
            low, high = low + is_low, high + (not is_low)
        elif kind == "input_audio":
            audio_bytes += size
        else:
            file_bytes += size
    return frozenset(found), Media(low, high, audio_bytes, file_bytes, total, is_remote)


def _is_remote(part: Mapping[str, Any]) -> bool:
    """True when content is named by an address instead of being there; whatever is no `data:` URL is one."""
    for name, value in part.items():
        address = value.get("url") if isinstance(value, dict) else value if name in _ADDRESSES else None
        if isinstance(address, str) and address[:5].lower() != "data:":
            return True
        if isinstance(value, dict) and isinstance(value.get("file_url"), str):
            return True
    return False


def _payload_bytes(part: Mapping[str, Any]) -> int:
    """Length of the longest string of a binary part: its base64 data, its URL, or the id of a file."""
    longest = 0
    for value in part.values():
        inner = value.values() if isinstance(value, dict) else (value,)
        for text in inner:
            if isinstance(text, str):
                longest = max(longest, len(text))
    return longest


def _detail(part: Mapping[str, Any]) -> str | None:
    image = part.get("image_url")
    return image.get("detail") if isinstance(image, dict) else part.get("detail")
