"""What passes between the gateway and a recogniser, on its standard input and output.

Each frame is four bytes of length, big-endian, and so many bytes of JSON.

    recogniser: {"ready": true}                      once, when it can answer; or {"error": "why it cannot"}
    gateway:    {"id": 7, "text": "..."}
    recogniser: {"id": 7, "found": ["PERSON"]}       in any order; without `found` when there is nothing
"""

import asyncio

import msgspec

MOST_BYTES = 4 * 1024 * 1024
_LENGTH_BYTES = 4


class RecognizeRequest(msgspec.Struct, frozen=True):
    id: int
    text: str


class RecognizeReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A frame of the recogniser."""

    id: int | None = None
    found: tuple[str, ...] = ()
    ready: bool = False
    error: str | None = None


class BadFrame(Exception):
    """What came is no frame. Nothing after it can be told apart either."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(RecognizeReply).decode


def framed(value: msgspec.Struct) -> bytes:
    content = _encode(value)
    return len(content).to_bytes(_LENGTH_BYTES, "big") + content


async def next_reply(reader: asyncio.StreamReader) -> RecognizeReply | None:
    """The next frame; None at the end. Raises BadFrame."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > MOST_BYTES:
            raise BadFrame(f"a frame of {length} bytes")
        return _decode(await reader.readexactly(length))
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise BadFrame("a frame that ends early") from exc
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadFrame("a frame that is not the JSON that was agreed on") from exc
