"""The process that `benchmarks.instructions` counts: a gateway, its clients and its upstream, in memory.

Only the event loop is other than in service. Connections to upstreams and from clients have no sockets: their
transports hand bytes over in the next turn of the loop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from benchmarks import stream_upstream, wire
from gateway.app import Gateway
from gateway.garbage import collect_seldom
from gateway.http.server import listening, shedding
from gateway.metrics.access_log import RequestLines
from gateway.metrics.log_output import LogOutput
from gateway.policy.rollout.config_file import ConfigFile

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS = 32
CHUNKS = 100
ADDRESS = ("127.0.0.1", 19999)
CONFIG = Path(__file__).parent / "tollway.yaml"


class MemoryTransport(asyncio.Transport):
    """One side of a connection that has no socket. Takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self._closing = False

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ADDRESS if name in ("peername", "sockname") else default


class AnsweringUpstream(MemoryTransport):
    """An upstream with one whole answer for whatever arrives, or a stream, an event in each turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop, events: tuple[bytes, ...]) -> None:
        super().__init__()
        self._loop = loop
        self._events = events
        self.protocol: asyncio.Protocol

    def write(self, data: Any) -> None:
        self._next(0, data)

    def _next(self, number: int, _data: Any = None) -> None:
        if number < len(self._events):
            self._loop.call_soon(self._send, number)

    def _send(self, number: int) -> None:
        self.protocol.data_received(self._events[number])
        # Two turns between events, as between two reads of a socket that is not always full.
        self._loop.call_soon(self._next, number + 1)


class Client(MemoryTransport):
    """A client that sends its next request when it has read the answer."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load
        self.protocol: asyncio.Protocol

    def write(self, data: Any) -> None:
        if self._load.ends(bytes(data)):
            self._load.answered(self)


class Load:
    """A number of requests over all clients, each of which has one under way."""

    def __init__(self, loop: CountedLoop, *, stream: bool) -> None:
        self._loop = loop
        self._stream = stream
        self._request = wire.http_post(8080, wire.chat_request(stream=stream, max_tokens=CHUNKS))
        self._left = self._open = 0
        self._done = loop.create_future()
        self._clients = [self._connected() for _ in range(CONNECTIONS)]

    def ends(self, data: bytes) -> bool:
        """Whether `data` ends an answer. Raises AssertionError for one that was refused."""
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            raise AssertionError(data)
        return data.endswith(b"0\r\n\r\n") if self._stream else True

    async def run(self, requests: int) -> None:
        self._left, self._open = requests - CONNECTIONS, CONNECTIONS
        self._done = self._loop.create_future()
        for client in self._clients:
            self._ask(client)
        await self._done

    def answered(self, client: Client) -> None:
        if self._left > 0:
            self._left -= 1
            self._ask(client)
            return
        self._open -= 1
        if self._open == 0:
            self._done.set_result(None)

    def _ask(self, client: Client) -> None:
        self._loop.call_soon(client.protocol.data_received, self._request)

    def _connected(self) -> Client:
        client = Client(self)
        client.protocol = self._loop.data_protocol()
        client.protocol.connection_made(client)
        return client


class CountedLoop(uvloop.Loop):  # type: ignore[misc]  # has no types
    """Connects to no upstream but the one in memory, and knows what makes connections of the data port."""

    events: tuple[bytes, ...] = ()
    data_protocol: Callable[[], asyncio.Protocol]

    async def create_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        protocol, upstream = protocol_factory(), AnsweringUpstream(self, self.events)
        upstream.protocol = protocol
        protocol.connection_made(upstream)
        return upstream, protocol


def upstream_events(
    *, stream: bool = False, continuous_usage: bool = False, details: bool = False
) -> tuple[bytes, ...]:
    """What the upstream writes, turn by turn."""
    if not stream:
        body = wire.chat_answer(wire.DETAILS if details else None)
        return (stream_upstream.PLAIN % (len(body), body),)
    source = stream_upstream
    middle = (source.MIDDLE,) * (CHUNKS - 1)
    if continuous_usage:
        middle = tuple(source.middle_with_usage(number) for number in range(1, CHUNKS))
    return (source.HEAD + source.FIRST, *middle, source.LAST, source.usage(CHUNKS), source.DONE + source.END)


def switch_counting(on: bool) -> None:
    """Ask valgrind, which runs this process, to count from now on, or to stop."""
    word = "on" if on else "off"
    subprocess.run(["callgrind_control", "-i", word, str(os.getpid())], check=True, capture_output=True)


async def count(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountedLoop)
    loop.events = upstream_events(
        stream=options.stream, continuous_usage=options.continuous_usage, details=options.details
    )
    config = options.folder / CONFIG.name
    text = CONFIG.read_text().replace("server:\n", f"server:\n  access_log: {options.access_log}\n", 1)
    # Under valgrind all takes fifty times as long: to be late is no overload there.
    text = text.replace("  data:\n", "  data:\n    shed_after_seconds: 3600\n", 1)
    if options.continuous_usage:
        text = text.replace("provider: vllm\n", "provider: vllm\n    continuous_usage: true\n")
    config.write_text(text)
    found = ConfigFile(config, os.environ).read()
    assert found.built is not None, found.problems
    lines = RequestLines(LogOutput(os.open(os.devnull, os.O_WRONLY)), {}, None)
    gateway = Gateway(found.built, request_lines=lines)
    # And what looks at a clock a few times a second would do so fifty times as often for each request.
    shedding.LOOK_SECONDS = listening.TICK_SECONDS = 3600.0
    await gateway.start()
    collect_seldom()
    loop.data_protocol = gateway._data.new_connection
    load = Load(loop, stream=options.stream)
    await load.run(options.warm)
    await gateway.flush()
    switch_counting(True)
    await load.run(options.counted)
    await gateway.flush()
    switch_counting(False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--warm", type=int, required=True)
    parser.add_argument("--counted", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--continuous-usage", action="store_true")
    parser.add_argument("--details", action="store_true")
    parser.add_argument("--access-log", required=True)
    with asyncio.Runner(loop_factory=CountedLoop) as runner:
        runner.run(count(parser.parse_args()))
        os._exit(0)  # what is open has no other side that could close it


if __name__ == "__main__":
    main()
