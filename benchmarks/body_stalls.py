"""How long one large body keeps the event loop from everybody else, and how much memory it leaves behind.

    python -m benchmarks.body_stalls

A gateway runs in a process of its own, with a clock in its event loop that should tick every 2 ms. The
longest gap between two ticks while a body is received, read, classified and sent on is its stall. On a busy
machine the gap alone says little, so the longest one by processor time is told beside it: of the loop's
thread, and of the whole process, in which another thread may have held the interpreter's lock.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import structlog
import uvloop

from gateway.app import Gateway
from gateway.garbage import collect_seldom
from gateway.policy.rollout.config_file import ConfigFile

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK_SECONDS = 0.002
MIB = 1024 * 1024
KEY = "key-of-the-benchmark-0123456789"
ANSWER = orjson.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
)
CONFIG = """
server: {data: {port: 0}, admin: {port: 0}, watch: false}
ledger: "sqlite:///%(folder)s/ledger.db"
zones: {local: {cidrs: [127.0.0.0/8]}}
privacy:
  zones: {public: [local], internal: [local], confidential: [local], restricted: [local]}
  media: {image: internal}
  detect:
    - {find: [email, credit_card, iban, jp_my_number, us_ssn, secret], raise_to: confidential}
deployments:
  m:
    provider: vllm
    model: m
    base_url: "http://127.0.0.1:%(port)d/v1"
    zone: local
    accepts: [text, image]
    context_tokens: 100000000
    max_output_tokens: 8192
    price: {input: 0.30, output: 1.20}
models: {m: {use: [m]}}
teams: {t: {}}
features: {f: {team: t}}
keys: {k: {secret: "%(key)s", feature: f}}
"""


class LoopClock:
    """Ticks in the event loop, and keeps the longest gap since it was last asked."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = _clocks()
        self._longest = (0.0, 0.0, 0.0)
        self._tick()

    def _tick(self) -> None:
        now = _clocks()
        gaps = [after - before for after, before in zip(now, self._last, strict=True)]
        self._longest = tuple(map(max, self._longest, gaps))
        self._last = now
        self._loop.call_later(TICK_SECONDS, self._tick)

    def take(self) -> dict[str, float]:
        """Milliseconds and MiB since the last call."""
        found = {
            "stall_ms": round(self._longest[0] * 1000, 1),
            "cpu_ms": round(self._longest[1] * 1000, 1),
            "process_ms": round(self._longest[2] * 1000, 1),
            "rss_mib": round(_rss_mib(), 1),
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
        self._longest = (0.0, 0.0, 0.0)
        return found


def _clocks() -> tuple[float, ...]:
    """Seconds: of the wall, of this thread's processor time, and of the process's."""
    return time.monotonic(), time.thread_time(), time.process_time()


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


async def _serve(folder: Path, port: int) -> None:
    # What is printed is for the process that asks.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    path = folder / "tollway.yaml"
    path.write_text(CONFIG % {"folder": folder, "port": port, "key": KEY})
    found = ConfigFile(path, {}).read()
    if found.built is None:
        raise SystemExit("\n".join(map(str, found.problems)))
    gateway = Gateway(found.built, None)
    await gateway.start()
    collect_seldom()
    clock, stop = LoopClock(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer() -> None:
        for _ in sys.stdin:
            print(json.dumps(clock.take()), flush=True)
        loop.call_soon_threadsafe(stop.set)

    print(gateway.data_url, flush=True)
    threading.Thread(target=answer, daemon=True).start()
    await stop.wait()
    await gateway.stop()


async def _upstream() -> None:
    """Answers whatever it is sent, once it has all of it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = [line.lower().partition(b": ") for line in head.split(b"\r\n")]
                left = sum(int(value) for name, _, value in fields if name == b"content-length")
                while left > 0:
                    left -= len(await reader.read(min(left, MIB)))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(ANSWER), ANSWER)
                )

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


def bodies() -> Iterator[tuple[str, bytes]]:
    """Each kind by its name."""

    def chat(content: Any) -> bytes:
        return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": content}]})

    prose = "The quick brown fox jumps over the lazy dog, and nobody minds. "
    yield "small", chat("hello")
    yield "prompt of 100 KB", chat(prose * (100_000 // len(prose)))
    yield "prompt of 2 MB", chat(prose * (2_000_000 // len(prose)))
    yield "prompt of 20 MB", chat(prose * (20_000_000 // len(prose)))
    yield "Japanese of 20 MB", chat("吾輩は猫である。名前はまだ無い。" * (20_000_000 // 48))
    yield "full-width of 20 MB", chat("\uff41\uff42\uff43 " * (20_000_000 // 10))
    image = base64.b64encode(os.urandom(3_000_000)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    yield "image of 4 MB", chat([{"type": "text", "text": "what is it?"}, part])
    image = base64.b64encode(os.urandom(42_000_000)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    yield "image of 56 MB", chat([{"type": "text", "text": "what is it?"}, part])
    turns = [{"role": ("user", "assistant")[at % 2], "content": prose * 4} for at in range(2_000)]
    yield "2,000 messages", orjson.dumps({"model": "m", "messages": turns})
    for size in (1, 4, 16, 57):
        filling = b"[]," * (size * 1_000_000 // 3)
        yield (
            f"brackets of {size} MB",
            b'{"model":"m","messages":[{"role":"user","content":"x"}],"stop":[' + filling + b"[]]}",
        )
    yield "brackets of 50 MB in a string", chat("[]," * (50_000_000 // 3))


def _started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "benchmarks.body_stalls", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout is None:
        raise RuntimeError("no output")
    return process, process.stdout.readline().strip()


def _told(process: subprocess.Popen[str]) -> dict[str, float]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    process.stdin.write("\n")
    process.stdin.flush()
    found: dict[str, float] = json.loads(process.stdout.readline())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--upstream", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(_serve(Path(arguments.serve[0]), int(arguments.serve[1])))
    elif arguments.upstream:
        uvloop.run(_upstream())
    else:
        with tempfile.TemporaryDirectory(prefix="tollway-stalls-") as folder:
            _measure(folder, arguments.only)


def _measure(folder: str, only: str) -> None:
    upstream, port = _started("--upstream")
    gateway, url = _started("--serve", folder, port)
    host = url.removeprefix("http://")
    print("| body | MiB | status | seconds | longest stall, ms | thread, ms | process, ms | RSS, MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, body in bodies():
        if only not in name:
            continue
        for _ in range(2):  # the first one also starts and compiles things
            time.sleep(0.2)
            _told(gateway)
            began = time.monotonic()
            connection = http.client.HTTPConnection(host, timeout=120)
            headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            answer.read()
            seconds = time.monotonic() - began
            connection.close()
            time.sleep(0.3)
            told = _told(gateway)
        print(
            f"| {name} | {len(body) / MIB:.1f} | {answer.status} | {seconds:.2f} | {told['stall_ms']} | "
            f"{told['cpu_ms']} | {told['process_ms']} | {told['rss_mib']} |",
            flush=True,
        )
    for process in (gateway, upstream):
        if process.stdin is not None:
            process.stdin.close()
        process.wait(timeout=60)


if __name__ == "__main__":
    main()
