"""What passes between the gateway and the process that reads large bodies, over a socket that both block on.

Each message is its two lengths, a msgpack value, and bytes that belong to it: the body on the way there, what
goes upstream on the way back. They are never a part of the value, which would copy them once more.
"""

import socket
import struct
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Api
from gateway.core.screening import Classified
from gateway.core.text_kinds import TextSize
from gateway.dialects.table import ServerDialect

_LENGTHS = struct.Struct("<IQ")


class ReadingRules(msgspec.Struct, frozen=True, eq=False):
    """What of one version of the configuration reading depends on.

    `screenings` is a ScreeningSource as JSON. `tokenizers` are those of models that take token ids, by model
    and endpoint. `image_hosts` are those that are asked for images; None: none is fetched.
    """

    screenings: bytes
    tokenizers: Mapping[str, Mapping[Api, str]]
    max_messages: int
    max_values: int
    image_hosts: frozenset[str] | None
    max_images: int


class BodyQuestion(msgspec.Struct, frozen=True, tag=True):
    """How to read one body: for `api` and the model in its address, as a request of `feature`.

    `floor` is the class that it has at least. `images` are those that were fetched for it, by their address;
    None: nobody has asked yet for the images that it names.
    """

    api: Api
    addressed: str | None
    feature: str
    floor: str
    images: Mapping[str, str] | None = None


class AdaptQuestion(msgspec.Struct, frozen=True, tag=True):
    """How to write a body that was read before: as `dialect` has its `members`, see `adapted`."""

    members: frozenset[str]
    dialect: ServerDialect


class BodyRefused(msgspec.Struct, frozen=True):
    """What is wrong with a body, as in InvalidRequest."""

    message: str
    param: str | None
    code: str


class BodyFacts(msgspec.Struct, frozen=True):
    """What is known of a body. The `rest` of `call` comes beside it, and `size` is that of its text.

    With `wanted`, the places and addresses of images to fetch, `classified` counts no images. `text` is what
    the second stage of the search reads, where it could change anything.
    """

    call: Call
    size: TextSize | None
    classified: Classified
    text: str | None
    wanted: tuple[tuple[str, str], ...]


class BodyDefect(msgspec.Struct, frozen=True):
    """Reading failed by a defect of ours: the kind of the error, and lines of code."""

    kind: str
    frames: tuple[str, ...]


class Said(msgspec.Struct, frozen=True):
    """To the process: what to do with a body, and `rules` where they are other than those before."""

    question: BodyQuestion | AdaptQuestion
    rules: ReadingRules | None = None


class Told(msgspec.Struct, frozen=True):
    """By the process: one of four. `changed` are the members of which a body was adapted."""

    changed: tuple[str, ...] | None = None
    facts: BodyFacts | None = None
    refused: BodyRefused | None = None
    defect: BodyDefect | None = None


class LargeBody(msgspec.Struct, frozen=True, eq=False):
    """In place of a body's value, which nobody has here: all that is wanted of it until it is classified.

    `classified`, `text` and `wanted` are those of BodyFacts. `again` reads the body with images in place of
    some of their addresses: none, where they may not be asked for.
    """

    classified: Classified
    text: str | None
    wanted: tuple[tuple[str, str], ...]
    again: Callable[[Mapping[str, str]], Awaitable[tuple[Call, "LargeBody"]]]


encode = msgspec.msgpack.Encoder().encode
decode_said = msgspec.msgpack.Decoder(Said).decode
decode_told = msgspec.msgpack.Decoder(Told).decode


def send(channel: socket.socket, value: msgspec.Struct, content: bytes | bytearray) -> None:
    """Raises OSError."""
    head = encode(value)
    channel.sendall(_LENGTHS.pack(len(head), len(content)) + head)
    channel.sendall(content)


def receive(channel: socket.socket) -> tuple[bytes, bytes] | None:
    """A value, encoded, and what belongs to it; None once the other end has gone. Raises OSError."""
    lengths = _exactly(channel, _LENGTHS.size)
    if lengths is None:
        return None
    head_bytes, content_bytes = _LENGTHS.unpack(lengths)
    head = _exactly(channel, head_bytes)
    content = _exactly(channel, content_bytes)
    return None if head is None or content is None else (head, content)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    """So many bytes in one call, which holds no interpreter's lock while it waits and copies."""
    found = channel.recv(size, socket.MSG_WAITALL) if size else b""
    while 0 < len(found) < size:  # a signal came in between
        more = channel.recv(size - len(found), socket.MSG_WAITALL)
        if not more:
            return None
        found += more
    return found if len(found) == size else None
