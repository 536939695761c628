"""Tokens of images and audio, from the headers of the files alone: nothing is decoded, nothing is fetched.

Sources: OpenAI's published tile rules for gpt-4o and gpt-4o-mini; Llama 4's image processor (336-px tiles,
144 tokens a tile, one separator a tile, and a global view of 144 tokens with 3 marks).
"""

import base64
import binascii
import math
import struct
from collections.abc import Mapping
from typing import Any

Size = tuple[int, int]
"""Width and height in pixels."""

UNFETCHED: Size = (1024, 1024)
"""What an http(s) image counts as: a simulator fetches nothing."""

_AUDIO_TOKENS_PER_SECOND = 10
_COMPRESSED_AUDIO_BYTES_PER_SECOND = 16_000  # 128 kbit/s, the usual MP3
_HEADER_CHARS = 65_536  # of base64; nearly every file says its size before this
_LLAMA_TILE = 336
_LLAMA_MAX_TILES = 16
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})


class UnreadableMedia(ValueError):
    """An image or audio part that is no valid base64 or whose header cannot be read."""


def image_size(url: str) -> Size:
    """Pixels of an image URL. Raises UnreadableMedia for data that is no PNG, JPEG, GIF or WebP."""
    if not url.startswith("data:"):
        return UNFETCHED
    encoded = url.partition(",")[2]
    size = _size_in(_decoded(encoded[:_HEADER_CHARS], cut=True))
    if size is None and len(encoded) > _HEADER_CHARS:
        size = _size_in(_decoded(encoded))
    if size is None or 0 in size:
        raise UnreadableMedia("no PNG, JPEG, GIF or WebP header")
    return size


def openai_image_tokens(size: Size, detail: str, model: str) -> int:
    """Low: a base. High and auto: the base and so much a 512-px tile, after fitting into 2048 and 768."""
    base, tile = (2833, 5667) if model.startswith("gpt-4o-mini") else (85, 170)
    if detail == "low":
        return base
    width, height = (float(side) for side in size)
    shrink = min(1.0, 2048 / max(width, height))
    shrink *= min(1.0, 768 / (min(width, height) * shrink))
    # Rounded before the ceiling, or 2048.0000001 pixels would be five tiles.
    across, down = (max(1, math.ceil(round(side * shrink, 3) / 512)) for side in (width, height))
    return base + tile * across * down


def llama4_image_tokens(size: Size, detail: str = "auto", model: str = "") -> int:
    """147 for one tile, else 145 a tile and 147 for the global view, at most 16 tiles."""
    del detail, model  # Llama 4 has one rule
    rows, columns = _llama4_grid(size)
    tiles = rows * columns
    return 147 if tiles == 1 else 145 * tiles + 147


def _llama4_grid(size: Size) -> tuple[int, int]:
    """The canvas that needs the least enlarging, else the least shrinking; of equals the smallest."""
    width, height = size
    grids = [
        (min(columns * _LLAMA_TILE / width, rows * _LLAMA_TILE / height), rows * columns, rows, columns)
        for rows in range(1, _LLAMA_MAX_TILES + 1)
        for columns in range(1, _LLAMA_MAX_TILES // rows + 1)
    ]
    enlarging = [grid for grid in grids if grid[0] >= 1]
    best = min(enlarging) if enlarging else min(grids, key=lambda grid: (-grid[0], grid[1]))
    return best[2], best[3]


def audio_tokens(part: Mapping[str, Any]) -> int:
    """10 tokens a second of an `input_audio` value, rounded up. Raises UnreadableMedia."""
    content = _decoded(str(part.get("data", "")))
    seconds = _wav_seconds(content) if content[:4] == b"RIFF" else None
    if seconds is None:
        seconds = len(content) / _COMPRESSED_AUDIO_BYTES_PER_SECOND
    return math.ceil(round(seconds * _AUDIO_TOKENS_PER_SECOND, 3))


def _wav_seconds(content: bytes) -> float | None:
    bytes_per_second, at = 0, 12
    while at + 8 <= len(content):
        name, length = content[at : at + 4], struct.unpack_from("<I", content, at + 4)[0]
        if name == b"fmt " and at + 20 <= len(content):
            bytes_per_second = struct.unpack_from("<I", content, at + 16)[0]
        if name == b"data" and bytes_per_second:
            # A streamed WAV says 0xFFFFFFFF: what is really there counts.
            return float(min(length, len(content) - at - 8)) / bytes_per_second
        at += 8 + length + length % 2
    return None


def _decoded(encoded: str, *, cut: bool = False) -> bytes:
    if cut:
        encoded = encoded[: len(encoded) - len(encoded) % 4]
    try:
        return base64.b64decode(encoded, validate=False)
    except (binascii.Error, ValueError) as exc:
        raise UnreadableMedia("not valid base64") from exc


def _size_in(head: bytes) -> Size | None:
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        width, height = struct.unpack_from(">II", head, 16)
        return int(width), int(height)
    if head[:4] == b"GIF8" and len(head) >= 10:
        width, height = struct.unpack_from("<HH", head, 6)
        return int(width), int(height)
    if head[:2] == b"\xff\xd8":
        return _jpeg_size(head)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_size(head)
    return None


def _jpeg_size(head: bytes) -> Size | None:
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return int(width), int(height)
        standalone = marker in {0x01, 0xFF} or 0xD0 <= marker <= 0xD8
        at += (1 if marker == 0xFF else 2) if standalone else 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None


def _webp_size(head: bytes) -> Size | None:
    form = head[12:16]
    if form == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if form == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if form == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
