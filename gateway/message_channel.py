"""Messages between two processes over a stream socket: msgpack, each with its length before it.

The end of the stream means that the other process has gone, however that came.
"""

import asyncio
import struct
from typing import Any, Generic, TypeVar

import msgspec

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode

Received = TypeVar("Received")


class MessageChannel(Generic[Received]):
    """One end. `receive` is called by one task only."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: "msgspec.msgpack.Decoder[Received]",
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    async def receive(self) -> Received | None:
        """The next message; None once the other end has gone."""
        try:
            head = await self._reader.readexactly(_LENGTH.size)
            return self._decoder.decode(await self._reader.readexactly(*_LENGTH.unpack(head)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def send(self, message: Any) -> None:
        """Queue a message. One that the other end does not live to read is lost."""
        if not self._writer.is_closing():
            payload = _encode(message)
            self._writer.write(_LENGTH.pack(len(payload)) + payload)

    async def close(self) -> None:
        """Send what is queued and hang up."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
