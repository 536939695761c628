"""The wire format of Redis (RESP2): commands as bytes, replies from bytes. No I/O.

A reply is bytes, int, None, a list of replies, or a ServerError (a value here, not raised).
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

Reply: TypeAlias = "bytes | int | list[Reply] | ServerError | None"

MAX_LINE_BYTES: Final = 64 * 1024
MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
MAX_DEPTH: Final = 16  # of lists in lists; ours have three


class ServerError(Exception):
    """The server refused a command. `code` is the first word: NOSCRIPT, MOVED, READONLY, ..."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


class RespError(Exception):
    """What arrived is not RESP2; nothing that follows can be understood."""


def command(*arguments: bytes) -> bytes:
    """One command, ready to be written."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts.extend(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments)
    return b"".join(parts)


class _Incomplete(Exception):
    pass


class ReplyReader:
    """Cuts replies out of bytes as they come, however they are cut."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Sequence[Reply]:
        """The replies that are complete with `data`. Raises RespError."""
        buffer = self._buffer + data if self._buffer else data
        replies: list[Reply] = []
        at = 0
        try:
            while at < len(buffer):
                reply, at = _reply(buffer, at)
                replies.append(reply)
        except _Incomplete:
            pass
        except ValueError as exc:
            raise RespError("a length that is no number") from exc
        self._buffer = buffer[at:]
        return replies


def _reply(buffer: bytes, at: int, depth: int = 0) -> tuple[Reply, int]:
    end = buffer.find(b"\r\n", at)
    if end < 0:
        if len(buffer) - at > MAX_LINE_BYTES:
            raise RespError("a line without end")
        raise _Incomplete
    kind, line, after = buffer[at], buffer[at + 1 : end], end + 2
    if kind == 36:  # $
        return _bulk(buffer, int(line), after)
    if kind == 58:  # :
        return int(line), after
    if kind == 43:  # +
        return line, after
    if kind == 45:  # -
        return ServerError(line.decode("utf-8", "replace")), after
    if kind != 42:  # *
        raise RespError("a reply of an unknown kind")
    if depth == MAX_DEPTH:
        raise RespError("a reply nested too deeply")
    count = int(line)
    if count < 0:
        return None, after
    items: list[Reply] = []
    for _ in range(count):
        item, after = _reply(buffer, after, depth + 1)
        items.append(item)
    return items, after


def _bulk(buffer: bytes, length: int, start: int) -> tuple[bytes | None, int]:
    if length < 0:
        return None, start
    if length > MAX_REPLY_BYTES:
        raise RespError("a reply beyond any bound")
    end = start + length
    if len(buffer) < end + 2:
        raise _Incomplete
    return buffer[start:end], end + 2
