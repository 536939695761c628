"""A server with small handlers on loopback, and clients that write and read bare bytes."""

import asyncio
import contextlib
import gc
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from gateway.core.envelope import envelope
from gateway.core.errors import GatewayError
from gateway.core.heads import header_lines
from gateway.http.flow_control import WriteCoalescer
from gateway.http.server.body_bytes import BodyBytes
from gateway.http.server.connection import ServerConnection
from gateway.http.server.exchange import Exchange
from gateway.http.server.limits import ServerLimits
from gateway.http.server.listening import Listening, listen
from gateway.http.server.port_state import PortState
from gateway.http.server.shedding import LoadShedder

PATIENCE_SECONDS = 60.0  # a hang fails the test; nothing is measured against it
BODY_LIMIT = 1024 * 1024
MOST_BODY_BYTES = 256 * BODY_LIMIT
KEY = "app"
JSON = header_lines([(b"content-type", b"application/json")])
PLAIN = header_lines([(b"content-type", b"text/plain")])

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*")
_FIELD = re.compile(rb"([a-z0-9-]+): ([\x20-\x7e\x80-\xff]*)")


class Answer:
    """One response, read strictly: anything malformed raises AssertionError."""

    def __init__(self, status: int, fields: list[tuple[str, str]], body: bytes, is_framed: bool) -> None:
        self.status = status
        self.fields = fields
        self.body = body
        self.is_framed = is_framed

    def field(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key == name]
        assert len(values) < 2, f"{name} comes twice"
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        return self.field("connection") == "close"

    def error(self) -> dict[str, Any]:
        """OpenAI's envelope."""
        assert self.field("content-type") == "application/json"
        decoded = orjson.loads(self.body)
        assert decoded.keys() == {"error"}
        error: dict[str, Any] = decoded["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error


class Client:
    """One connection. Every wait has a bound."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def send_in_pieces(self, data: bytes, size: int = 1) -> None:
        """Each piece in a segment of its own, as far as the network allows."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(0)

    async def push(self, data: bytes, seconds: float) -> int:
        """Send until nothing goes for `seconds`; how many bytes went."""
        sent, view = 0, memoryview(data)
        quiet = 0.0
        while sent < len(view) and quiet < seconds:
            try:
                sent += self.socket.send(view[sent : sent + 65536])
                quiet = 0.0
            except BlockingIOError:
                await asyncio.sleep(0.01)
                quiet += 0.01
        return sent

    async def receive(self) -> bytes:
        """What comes next; b"" at the end. Raises ConnectionError on a reset."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.get_running_loop().sock_recv(self.socket, 65536)

    async def rest(self) -> bytes:
        """Everything up to the end."""
        while data := await self.receive():
            self.buffer += data
        rest, self.buffer = self.buffer, b""
        return rest

    async def is_closed(self) -> bool:
        """True when the server closes without another byte."""
        return self.buffer == b"" and await self.receive() == b""

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self.buffer += await self._more()
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.buffer += await self._more()
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    async def _more(self) -> bytes:
        data = await self.receive()
        if not data:
            raise EOFError(self.buffer)
        return data

    async def head(self) -> Answer:
        """The next response's head only."""
        status_line, *lines = (await self._until(b"\r\n\r\n")).split(b"\r\n")
        matched = _STATUS_LINE.fullmatch(status_line)
        assert matched, status_line
        fields = []
        for line in lines:
            field = _FIELD.fullmatch(line)
            assert field, line
            fields.append((field[1].decode(), field[2].decode("latin-1")))
        return Answer(int(matched[1]), fields, b"", is_framed=True)

    async def piece(self) -> bytes:
        """As `chunk`, but what follows the last one, trailers and the empty line, is still to be read."""
        size = int(await self._until(b"\r\n"), 16)
        return (await self._exactly(size + 2))[:size] if size else b""

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" for the last."""
        size = int(await self._until(b"\r\n"), 16)
        data = await self._exactly(size)
        assert await self._exactly(2) == b"\r\n"
        return data

    async def answer(self, method: str = "GET") -> Answer:
        """The next whole response. Raises EOFError when it ends early."""
        answer = await self.head()
        length, coding = answer.field("content-length"), answer.field("transfer-encoding")
        if method == "HEAD" or answer.status in {100, 204, 304}:
            assert coding is None
            assert length is None or method == "HEAD"
            return answer
        if length is not None:
            assert coding is None
            answer.body = await self._exactly(int(length))
        elif coding is not None:
            assert coding == "chunked"
            pieces = []
            while piece := await self.chunk():
                pieces.append(piece)
            answer.body = b"".join(pieces)
        else:
            assert answer.closes
            answer.is_framed = False
            answer.body = await self.rest()
        return answer

    async def only_answer(self) -> Answer:
        """The next response, after which the server closes."""
        answer = await self.answer()
        assert answer.closes
        assert await self.rest() == b""
        return answer

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


class Handlers:
    """What the server does, by the first part of the path. `served` lists every request that got here."""

    def __init__(self) -> None:
        self.served: list[tuple[str, str]] = []
        self.seen: list[Exchange] = []
        self.cancelled = 0
        self.sent_bytes = 0
        self.sent_now: list[bool] = []
        self.raised: list[type[BaseException]] = []
        self.go = asyncio.Event()
        self.waiting = asyncio.Event()
        self.unsent_bytes: Callable[[], int] = lambda: 0

    async def handle(self, exchange: Exchange) -> None:
        self.served.append((exchange.method, exchange.path))
        action: Callable[[Exchange], Awaitable[None]] = getattr(
            self, "do_" + exchange.path.partition("/")[2].partition("/")[0].replace("-", "_"), self.do_nothing
        )
        try:
            await action(exchange)
        except GatewayError as error:
            await exchange.answer(error.status, JSON, envelope(error))
        except asyncio.CancelledError:
            self.cancelled += 1
            if not exchange.disconnected:
                raise

    async def do_nothing(self, exchange: Exchange) -> None:
        await exchange.answer(200, PLAIN, exchange.path.encode("latin-1"))

    async def do_echo(self, exchange: Exchange) -> None:
        try:
            body = await exchange.body(BODY_LIMIT, KEY)
        except BaseException as exc:
            self.raised.append(type(exc))
            raise
        await exchange.answer(200, PLAIN, body)

    async def do_unasked(self, exchange: Exchange) -> None:
        """Answers without a look at the body."""
        await exchange.answer(401, PLAIN, b"no")

    async def do_late_echo(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        self.waiting.set()
        await self.go.wait()
        self.seen.clear()
        await self.do_echo(exchange)

    async def do_header(self, exchange: Exchange) -> None:
        name = exchange.path.split("/")[2].encode()
        await exchange.answer(200, PLAIN, exchange.headers.get(name) or b"(none)")

    async def do_size(self, exchange: Exchange) -> None:
        await exchange.answer(200, PLAIN, b"x" * int(exchange.path.split("/")[2]))

    async def do_status(self, exchange: Exchange) -> None:
        await exchange.answer(int(exchange.path.split("/")[2]), PLAIN, b"")

    async def do_stream(self, exchange: Exchange) -> None:
        """/stream/<number of chunks>/<bytes of each>"""
        _, _, count, size = exchange.path.split("/")
        exchange.watch()
        await exchange.start(200, PLAIN)
        for number in range(int(count)):
            await exchange.send(b"%c" % (97 + number % 26) * int(size))
            self.sent_bytes += int(size)
        await exchange.end()

    async def do_now(self, exchange: Exchange) -> None:
        """/now/<number of chunks>/<bytes of each>: as a stream, waiting only where `send_now` says so."""
        _, _, count, size = exchange.path.split("/")
        exchange.watch()
        await exchange.start(200, PLAIN)
        for number in range(int(count)):
            chunk = b"%c" % (97 + number % 26) * int(size)
            self.sent_now.append(exchange.send_now(chunk))
            if not self.sent_now[-1]:
                await exchange.send(chunk)
            self.sent_bytes += int(size)
        await exchange.end()

    async def do_start_now(self, exchange: Exchange) -> None:
        """/start-now/<first data>: head and data at once, the rest when `go` is set."""
        exchange.watch()
        exchange.start_now(200, PLAIN, exchange.path.split("/")[2].encode())
        self.waiting.set()
        await self.go.wait()
        await exchange.send(b"rest")
        await exchange.end()

    async def do_unread(self, exchange: Exchange) -> None:
        """Ends as soon as the client is behind."""
        await exchange.start(200, PLAIN)
        while not self.unsent_bytes():
            await exchange.send(b"x" * 1000)
            await asyncio.sleep(0)
        await exchange.end()

    async def do_slow_stream(self, exchange: Exchange) -> None:
        """/slow-stream/<number of chunks>: one, then the others when `go` is set."""
        exchange.watch()
        await exchange.start(200, PLAIN)
        await exchange.send(b"0,")
        self.waiting.set()
        await self.go.wait()
        for number in range(1, int(exchange.path.split("/")[2])):
            await asyncio.sleep(0.001)
            await exchange.send(b"%d," % number)
        await exchange.end()

    async def do_kept_head(self, exchange: Exchange) -> None:
        """A stream that has begun, and has nothing to say until `go` is set."""
        exchange.watch()
        await exchange.start(200, PLAIN)
        self.waiting.set()
        await self.go.wait()
        await exchange.send(b"late")
        await exchange.end()

    async def do_never(self, exchange: Exchange) -> None:
        await exchange.body(BODY_LIMIT, KEY)
        exchange.watch()
        self.waiting.set()
        await asyncio.Event().wait()

    async def do_unwatched(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        self.waiting.set()
        await self.go.wait()
        await exchange.answer(200, PLAIN, b"late")

    async def do_raise(self, exchange: Exchange) -> None:
        raise RuntimeError("the prompt")

    async def do_return(self, exchange: Exchange) -> None:
        return

    async def do_half(self, exchange: Exchange) -> None:
        await exchange.start(200, PLAIN)
        await exchange.send(b"half")

    async def do_half_raise(self, exchange: Exchange) -> None:
        await self.do_half(exchange)
        raise RuntimeError("the prompt")

    async def do_headless(self, exchange: Exchange) -> None:
        await exchange.start(200, PLAIN)

    async def do_misuse(self, exchange: Exchange) -> None:
        """/misuse/<how>: call the sink in an order that it does not have, then answer in peace."""
        how = exchange.path.split("/")[2]
        try:
            await getattr(self, "misuse_" + how)(exchange)
        except (RuntimeError, ValueError) as exc:
            self.raised.append(type(exc))
        if not exchange.started:
            await exchange.answer(200, PLAIN, b"fine")

    async def misuse_twice(self, exchange: Exchange) -> None:
        await exchange.answer(200, PLAIN, b"first")
        await exchange.answer(200, PLAIN, b"second")

    async def misuse_start(self, exchange: Exchange) -> None:
        await exchange.answer(200, PLAIN, b"first")
        await exchange.start(200, PLAIN)

    async def misuse_send(self, exchange: Exchange) -> None:
        await exchange.send(b"x")

    async def misuse_end(self, exchange: Exchange) -> None:
        await exchange.end()

    async def misuse_late(self, exchange: Exchange) -> None:
        await exchange.answer(200, PLAIN, b"first")
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")

    async def do_trailers(self, exchange: Exchange) -> None:
        """/trailers/<how many bytes before them>"""
        await exchange.start(200, PLAIN, b"x-sum")
        await exchange.send(b"x" * int(exchange.path.split("/")[2]))
        await exchange.end(header_lines([(b"x-sum", b"7")]))

    async def do_empty_chunks(self, exchange: Exchange) -> None:
        await exchange.start(200, PLAIN)
        for piece in (b"", b"one", b"", b"two", b""):
            await exchange.send(piece)
        await exchange.end()

    async def do_inject(self, exchange: Exchange) -> None:
        value = await exchange.body(BODY_LIMIT, KEY)
        fields = [(b"x-safe", b"1"), (b"x-given", value)]
        try:
            if exchange.path.endswith("stream"):
                await exchange.start(200, header_lines(fields))
                await exchange.end()
            else:
                await exchange.answer(200, header_lines(fields), b"")
        except ValueError as exc:
            self.raised.append(type(exc))
            await exchange.answer(500, PLAIN, b"refused")


def living() -> list[object]:
    return [thing for thing in gc.get_objects() if isinstance(thing, Exchange | ServerConnection)]


class Stage:
    """One server. `forget` between tests; `settled` when nothing of them may be left."""

    def __init__(
        self,
        limits: ServerLimits,
        drain_seconds: float = 1.0,
        shedder: LoadShedder | None = None,
        most_connections: int = 1_000,
    ) -> None:
        class Limited(ServerConnection):
            __slots__ = ()

        Limited.limits = limits
        self.handlers = Handlers()
        self.body_bytes = BodyBytes(MOST_BODY_BYTES, MOST_BODY_BYTES)
        self.listener = listen("127.0.0.1", 0)
        self.state = PortState("test", most_connections)
        self.listening = Listening(
            self,
            self.listener,
            self.state,
            drain_seconds=drain_seconds,
            coalescer=WriteCoalescer(),
            body_bytes=self.body_bytes,
            shedder=shedder,
            connection=Limited,
        )
        self.port = self.listening.port
        self.complaints: list[dict[str, Any]] = []
        self._earlier: list[object] = []

    async def handle(self, exchange: Exchange) -> None:
        await self.handlers.handle(exchange)

    async def start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.complaints.append(context))
        await self.listening.start()

    def forget(self) -> None:
        """A test begins."""
        self.handlers = Handlers()
        self._earlier = living()

    async def stop(self) -> None:
        await self.listening.stop()

    @contextlib.asynccontextmanager
    async def client(self, receive_buffer_bytes: int | None = None) -> AsyncIterator[Client]:
        sock = socket.socket()
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        with contextlib.closing(sock):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
            yield Client(sock)

    async def exchange(self, data: bytes, method: str = "GET") -> Answer:
        async with self.client() as client:
            await client.send(data)
            return await client.answer(method)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await asyncio.sleep(0.002)

    async def settled(self) -> None:
        """No connection, task or exchange is left, without a garbage collector; nobody complained."""
        await self.until(lambda: not self.state.connections and not self.state.tasks)
        await asyncio.sleep(0)
        left = [thing for thing in living() if thing not in self._earlier]
        assert left == []
        assert self.complaints == []
        assert self.handlers.seen == []


def get(path: str, *fields: str, version: str = "1.1", method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(path: str, body: bytes, *fields: str, version: str = "1.1") -> bytes:
    return get(path, f"Content-Length: {len(body)}", *fields, method="POST", version=version) + body


def chunked(path: str, *chunks: bytes, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    head = get(path, "Transfer-Encoding: chunked", method="POST")
    pieces = [b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks]
    return head + b"".join(pieces) + b"0\r\n" + trailers + b"\r\n"
