"""Keeps one connection to the server that holds the counters, wherever that server is just now.

Deadlines are short: a slow store must not become a slow gateway. After a few replies that did not come in
time the connection is given up, and a breaker keeps requests from waiting for the next one.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from gateway.core.breaker import Breaker
from gateway.quota.redis.addresses import Endpoint, RedisTarget
from gateway.quota.redis.connection import RedisConnection, StoreRefused, StoreUnavailable, connect
from gateway.quota.redis.layout import KEYS
from gateway.quota.redis.resp import Reply, ServerError, command
from gateway.quota.redis.scripts import CALLS, Scripts

_log = structlog.get_logger("tollway.redis")

# Shorter than rebuild.QUARANTINE_SECONDS: whoever lives has come back by then.
LONGEST_PAUSE_SECONDS = 0.5
# The first run of a library compiles it, so setting up may take longer than a request may wait.
SETUP_SECONDS = 2.0

# The server will not do it, but another one, or the same one later or set up anew, will.
_ELSEWHERE = frozenset({"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOSCRIPT", "ASK"})


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: to connect and log in, for one reply, and between two tries to connect at first."""

    connect_seconds: float = 1.0
    # By configuration `state_timeout_seconds`. One slow reply of a busy machine is no outage: with 0.05 s,
    # 2 of 3,200 requests were refused there.
    reply_seconds: float = 0.5
    retry_seconds: float = 0.05


class RedisClient:
    """Calls the Lua functions of one org. `run` keeps the connection; whoever made the client owns it."""

    def __init__(self, target: RedisTarget, org: str, scripts: Scripts, timing: Timing) -> None:
        self._target = target
        self._scripts = scripts
        self._timing = timing
        self._connection: RedisConnection | None = None
        self._breaker = Breaker()
        self._redirect: Endpoint | None = None
        self._heads: dict[str, list[bytes]] = {}
        self._keys = [f"tollway:{{{org}}}:{name}".encode() for name in KEYS]
        self.identity = ""
        self.problem: str | None = "not connected yet"
        # Called on each new connection before others may use it.
        self.on_connect: Callable[[], Awaitable[None]] | None = None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @property
    def lost(self) -> "asyncio.Future[None] | None":
        """Applied when the connection is lost; None when there is none."""
        return None if self._connection is None else self._connection.lost

    def send(self, call: str, *arguments: bytes) -> "asyncio.Future[Reply]":
        """Run a function; the reply is its packed bytes. Whoever sees an exception gives it to `failed`."""
        if self._connection is None:
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            future.set_exception(StoreUnavailable(self.problem or "not connected", never_sent=True))
            return future
        return self._connection.send(command(*self._heads[call], *arguments))

    def succeeded(self) -> None:
        """Take note of a reply that came."""
        self._breaker.succeeded()

    def failed(self, error: StoreUnavailable | ServerError) -> StoreUnavailable:
        """Take note of a failure, and say it as a StoreUnavailable."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, ServerError):
            self._redirected(error)
            if error.code in _ELSEWHERE or error.code == "MOVED" or "Function not found" in str(error):
                self.drop(str(error))
                return StoreUnavailable(str(error), never_sent=True)
            _log.error("redis.refused", error=str(error))
            return StoreRefused(str(error))
        if not error.never_sent:
            self._breaker.failed(now)
            if not self._breaker.allows(now):
                self.drop(str(error))
        return error

    def drop(self, reason: str) -> None:
        """Give the connection up; `run` makes another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self.problem = reason

    async def run(self) -> None:
        """Connect, and again whenever the connection is lost, until cancelled."""
        pause = self._timing.retry_seconds
        try:
            while True:
                try:
                    connection = await self._open()
                except (StoreUnavailable, ServerError, TimeoutError, ValueError) as exc:
                    if self.problem != str(exc):
                        _log.warning("redis.unreachable", target=self._target.shown, error=str(exc))
                    self.problem = str(exc) or "no reply in time"
                    # Not all workers at once, when the server comes back.
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                    pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                    continue
                pause = self._timing.retry_seconds
                _log.info("redis.connected", target=self._target.shown)
                await connection.lost
                self.drop("the connection was lost")
        finally:
            self.drop("closed")

    async def _open(self) -> RedisConnection:
        connection = await self._connect()
        try:
            async with asyncio.timeout(SETUP_SECONDS):
                await self._set_up(connection)
                self._connection = connection
                self._breaker.succeeded()
                if self.on_connect is not None:
                    await self.on_connect()
        except BaseException:
            self._connection = None
            connection.close()
            raise
        self.problem = None
        return connection

    async def _connect(self) -> RedisConnection:
        if self._target.service is not None:
            return await self._to(await self._master())
        if self._redirect is not None:
            endpoint, self._redirect = self._redirect, None
            return await self._to(endpoint)
        if self._target.path is not None:
            return await self._to(None)
        failure = StoreUnavailable("no server named", never_sent=True)
        for endpoint in self._target.endpoints:
            try:
                return await self._to(endpoint)
            except StoreUnavailable as exc:
                failure = exc
        raise failure

    async def _to(self, endpoint: Endpoint | None) -> RedisConnection:
        timing = self._timing
        return await connect(
            self._target,
            endpoint,
            connect_seconds=timing.connect_seconds,
            reply_seconds=timing.reply_seconds,
        )

    async def _master(self) -> Endpoint:
        """Ask the Sentinels, in order, which server is the master."""
        service = (self._target.service or "").encode()
        # Sentinels have passwords of their own, which is rare; the URL's belongs to the master.
        sentinel = msgspec.structs.replace(self._target, user=None, password=None, database=0)
        for endpoint in self._target.endpoints:
            try:
                timing = self._timing
                connection = await connect(
                    sentinel,
                    endpoint,
                    connect_seconds=timing.connect_seconds,
                    reply_seconds=timing.connect_seconds,
                )
                try:
                    reply = await connection.call(b"SENTINEL", b"get-master-addr-by-name", service)
                finally:
                    connection.close()
            except (StoreUnavailable, ServerError):
                continue
            match reply:
                case [bytes(host), bytes(port)]:
                    return host.decode(), int(port)
        raise StoreUnavailable("no Sentinel knows the master", never_sent=True)

    async def _set_up(self, connection: RedisConnection) -> None:
        """Load the functions, and learn which server this is."""
        try:
            await _with_time(connection, b"FUNCTION", b"LOAD", self._scripts.source)
            by_name = True
        except ServerError as exc:
            by_name = "already exists" in str(exc)
            if exc.code in {"READONLY", "LOADING", "NOAUTH"}:
                raise
        if not by_name:
            for call in CALLS:
                await _with_time(connection, b"SCRIPT", b"LOAD", self._scripts.evals[call])
        count = b"%d" % len(self._keys)
        for call in CALLS:
            head = [b"FCALL", self._scripts.functions[call]]
            if not by_name:
                head = [b"EVALSHA", self._scripts.digests[call]]
            self._heads[call] = [*head, count, *self._keys]
        self.identity = await _identity(connection)

    def _redirected(self, error: ServerError) -> None:
        """`MOVED slot host:port`: all keys of the org are in one slot, so one node serves them all."""
        if error.code == "MOVED":
            host, _, port = str(error).split()[-1].rpartition(":")
            if host and port.isdecimal():
                self._redirect = (host, int(port))


async def _with_time(connection: RedisConnection, *arguments: bytes) -> Reply:
    return await connection.send(command(*arguments), more_seconds=SETUP_SECONDS)


async def _identity(connection: RedisConnection) -> str:
    """Changes with every restart and every failover, so that counters that may have gone back are noticed."""
    found = {}
    for section in (b"server", b"replication"):
        reply = await _with_time(connection, b"INFO", section)
        for line in (reply if isinstance(reply, bytes) else b"").decode("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            found[name] = value
    if found.get("role", "master") != "master":
        raise StoreUnavailable("this server is a replica", never_sent=True)
    return f"{found.get('run_id', '')}:{found.get('master_replid', '')}"
