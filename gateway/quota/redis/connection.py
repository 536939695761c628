"""One connection to one server. All commands of a loop tick go out in one write; replies come in order.

redis-py's asyncio client costs several times what the server needs for an admission (docs/decisions/0017),
and cannot join the commands of independent tasks, so bytes are written here directly.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import cast

from gateway.quota.redis.addresses import Endpoint, RedisTarget
from gateway.quota.redis.resp import Reply, ReplyReader, RespError, ServerError, command

# Beyond this the server is not keeping up, and more waiting commands would only wait longer.
MAX_WAITING = 20_000


class StoreUnavailable(Exception):
    """The server gave no answer; whether it did what was asked is not known unless `never_sent`."""

    def __init__(self, detail: str, *, never_sent: bool = False) -> None:
        super().__init__(detail)
        self.never_sent = never_sent


class StoreRefused(StoreUnavailable):
    """The server answers, and will not do it: other data stands under the keys, or it has no memory left."""


class RedisConnection(asyncio.Protocol):
    """An open connection. Make one with `connect`."""

    def __init__(self, reply_seconds: float) -> None:
        self._reply_seconds = reply_seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._out: list[bytes] = []
        # Each with the loop time by which its reply is due; one timer watches the oldest.
        self._waiting: deque[tuple[float, asyncio.Future[Reply]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()

    # --- commands ---

    def send(self, packed: bytes, *, more_seconds: float = 0.0) -> "asyncio.Future[Reply]":
        """Send a packed command with this tick's others.

        The future fails with StoreUnavailable or ServerError. The reply may take
        `more_seconds` longer than usual.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self.lost.done() or len(self._waiting) >= MAX_WAITING:
            future.set_exception(StoreUnavailable("not connected", never_sent=True))
            return future
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        due = self._loop.time() + self._reply_seconds + more_seconds
        self._waiting.append((due, future))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._overdue)
        return future

    async def call(self, *arguments: bytes) -> Reply:
        """Send one command and wait for its reply. Raises as the future of `send` does."""
        return await self.send(command(*arguments))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._fail("closed")

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.lost.done():
            self._transport.write(b"".join(out))

    def _overdue(self) -> None:
        self._timer = None
        now = self._loop.time()
        # Answered ones leave the queue as replies arrive; a late reply must still meet its own future,
        # so overdue ones stay in it with a future that is done.
        for due, future in self._waiting:
            if due > now:
                self._timer = self._loop.call_at(due, self._overdue)
                return
            if not future.done():
                future.set_exception(StoreUnavailable("no reply in time"))

    def _fail(self, detail: str) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            if not future.done():
                future.set_exception(StoreUnavailable(detail))

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._reader.feed(data)
        except RespError as exc:
            self._fail(str(exc))
            self.close()
            return
        for reply in replies:
            if not self._waiting:
                self.close()
                return
            _, future = self._waiting.popleft()
            if future.done():
                continue
            if isinstance(reply, ServerError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was lost")


async def connect(
    target: RedisTarget, endpoint: Endpoint | None, *, connect_seconds: float, reply_seconds: float
) -> RedisConnection:
    """Connect and log in. Raises StoreUnavailable, or ServerError for credentials that are refused."""
    loop = asyncio.get_running_loop()
    context = target.tls_context()
    try:
        async with asyncio.timeout(connect_seconds):
            if endpoint is None:
                _, connection = await loop.create_unix_connection(
                    lambda: RedisConnection(reply_seconds), target.path
                )
            else:
                _, connection = await loop.create_connection(
                    lambda: RedisConnection(reply_seconds), endpoint[0], endpoint[1], ssl=context
                )
            await _log_in(connection, target)
    except (OSError, TimeoutError) as exc:
        raise StoreUnavailable(f"cannot connect to {target.shown}: {_reason(exc)}", never_sent=True) from exc
    return connection


def _reason(error: OSError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted ({error.verify_message})"
        case TimeoutError():
            return "no answer in time"
        case _:
            return error.strerror or str(error) or type(error).__name__


async def _log_in(connection: RedisConnection, target: RedisTarget) -> None:
    steps: list[Sequence[bytes]] = []
    if target.password is not None:
        user = [] if target.user is None else [target.user.encode()]
        steps.append([b"AUTH", *user, target.password.encode()])
    if target.database and not target.cluster:
        steps.append([b"SELECT", b"%d" % target.database])
    try:
        for step in steps:
            await connection.call(*step)
    except BaseException:
        connection.close()
        raise
