"""A whole gateway with simulated upstreams in one event loop, and what tests want to know about it.

    async with running(tmp_path, {"features": {"search": {"budgets": [...]}}}) as harness:
        await harness.client().chat.completions.create(model="gpt-4o", ...)
        [row] = await harness.rows()

On leaving, no task may be left over, no exception unseen, and the gateway must not have logged an error.
"""

import asyncio
import base64
import copy
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import openai
import orjson
import structlog.testing
import yaml
from sqlalchemy import create_engine, select

from gateway.app import Gateway
from gateway.assembly.graph import ledger_writer_settings
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.ledger.tables import usage_record
from gateway.metrics.access_log import RequestLines
from gateway.policy.rollout.config_file import ConfigFile
from gateway.simulators.attempts import SeenAttempt
from gateway.simulators.knobs import Knobs
from gateway.simulators.running import Simulator, openai_simulator, vllm_simulator
from tests.ledger.writer_service import writer_service

Json = dict[str, Any]

ADMIN_TOKEN = "admin-token-for-tests-0123456789"
APP_KEY = "key-of-the-app-0123456789"
NARROW_KEY = "key-for-gpt-4o-only-0123456789"

SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
CARD = "4111 1111 1111 1111"
PNG_URL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)

PATIENCE_SECONDS = 60.0  # a hang fails the test; nothing is measured against it
CONFIG = "tollway.yaml"
PRICES = PriceCatalogue()

STANDARD: Json = yaml.safe_load("""
server:
  data: {port: 0}
  admin: {port: 0, token: "${ADMIN_TOKEN}"}
  drain_seconds: 1
  watch: false
ledger: "${LEDGER}"
zones:
  local: {cidrs: [127.0.0.0/8]}
  external: {}
privacy:
  classes: [public, internal, confidential, restricted]
  default: internal
  zones:
    public: [local, external]
    internal: [local, external]
    confidential: [local]
    restricted: [local]
  media: {image: internal}
  detect:
    - {find: [email, credit_card, iban, jp_my_number, us_ssn, secret], raise_to: confidential}
deployments:
  gpt-4o:
    provider: openai
    model: gpt-4o-2024-11-20
    base_url: "${EXTERNAL}/v1"
    api_key: sk-simulated-account-key
    zone: external
    accepts: [text, image]
    supports: [tools, json_schema, logprobs]
    context_tokens: 128000
    max_output_tokens: 16384
    price: {input: 2.50, cached_input: 1.25, output: 10.00}
  scout:
    provider: vllm
    model: meta-llama/Llama-4-Scout-17B-16E-Instruct
    zone: local
    accepts: [text, image]
    supports: [tools, json_schema]
    context_tokens: 131072
    max_output_tokens: 8192
    replicas: {urls: ["${REPLICA_1}/v1", "${REPLICA_2}/v1"]}
    price: {input: 0.30, output: 1.20}
  embedder:
    provider: openai
    model: text-embedding-3-small
    base_url: "${EXTERNAL}/v1"
    api_key: sk-simulated-account-key
    zone: external
    serves: [embeddings]
    context_tokens: 8191
    price: {input: 0.02}
models:
  gpt-4o: {use: [gpt-4o]}
  scout: {use: [scout]}
  auto: {use: [scout, gpt-4o]}
  embed: {use: [embedder]}
teams:
  product: {}
features:
  search: {team: product}
  triage: {team: product}
keys:
  app: {secret: "${APP_KEY}", feature: search, features: [triage]}
  narrow: {secret: "${NARROW_KEY}", feature: search, models: [gpt-4o]}
""")


def chat(text: str = "Tell me about ships.", model: str = "gpt-4o", **more: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def config_text(changes: Mapping[str, Any] = {}) -> str:
    """STANDARD with `changes` merged in; None takes a key out."""
    return yaml.safe_dump(merged(STANDARD, changes), sort_keys=False)


def merged(base: Any, changes: Any) -> Any:
    """`base` with the sections of `changes` merged in; None takes a key out, lists are put whole."""
    if not isinstance(base, dict) or not isinstance(changes, Mapping):
        return changes
    result = copy.deepcopy(base)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def config_file(folder: Path, text: str, environ: Mapping[str, str]) -> ConfigFile:
    path = folder / CONFIG
    path.write_text(text)
    return ConfigFile(path, environ, PRICES)


def read_rows(ledger: Path) -> list[Json]:
    """The ledger's rows in the order of their dispatch."""
    engine = create_engine(f"sqlite:///{ledger}")
    try:
        with engine.connect() as connection:
            order = usage_record.c.at, usage_record.c.attempt_id
            return [dict(row) for row in connection.execute(select(usage_record).order_by(*order)).mappings()]
    finally:
        engine.dispose()


class Metrics:
    """One scrape. Values are decimals, since money must agree to the nano-dollar."""

    _LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
    _LABEL = re.compile(r'(\w+)="([^"]*)"')

    def __init__(self, text: str) -> None:
        found = (self._LINE.match(line) for line in text.splitlines() if not line.startswith("#"))
        self._series = [
            (match[1], dict(self._LABEL.findall(match[2] or "")), Decimal(match[3]))
            for match in found
            if match
        ]

    def sum(self, name: str, /, **labels: str) -> Decimal:
        """All series of the family `tollway_<name>` that have these labels, added up."""
        values = [
            value
            for family, found, value in self._series
            if family == f"tollway_{name}" and labels.items() <= found.items()
        ]
        return sum(values, Decimal(0))

    def nano(self, name: str, /, **labels: str) -> int:
        """As `sum`, of a family in USD, in nano-USD; each series by itself is exact."""
        return int((self.sum(name, **labels) * 10**9).to_integral_value())


class Harness:
    """A running gateway between its clients and its simulators."""

    def __init__(
        self,
        gateway: Gateway,
        ledger: Path,
        external: Simulator,
        replicas: Sequence[Simulator],
        config: Path,
    ) -> None:
        self.gateway = gateway
        self.config = config
        self.ledger = ledger
        self.external = external
        self.replicas = list(replicas)
        self.http = httpx.AsyncClient(
            base_url=gateway.data_url,
            timeout=PATIENCE_SECONDS,
            headers={"authorization": f"Bearer {APP_KEY}"},
            limits=httpx.Limits(max_connections=1000, max_keepalive_connections=1000),
        )
        self._clients: list[openai.AsyncOpenAI] = []
        self._at_rest = asyncio.all_tasks()
        self._stopped = False

    @property
    def simulators(self) -> list[Simulator]:
        return [self.external, *self.replicas]

    def client(self, key: str = APP_KEY, **options: Any) -> openai.AsyncOpenAI:
        """The official client. It does not retry unless told to."""
        settings = {"max_retries": 0, "timeout": PATIENCE_SECONDS} | options
        client = openai.AsyncOpenAI(base_url=f"{self.gateway.data_url}/v1", api_key=key, **settings)
        self._clients.append(client)
        return client

    async def post(
        self, body: Json | bytes, path: str = "/v1/chat/completions", **headers: str
    ) -> httpx.Response:
        """One request with the app's key; header names are written with underscores."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, content=content, headers=named)

    async def raw(self, **options: Any) -> "RawClient":
        return await RawClient.connect(self.gateway.data_url, **options)

    def attempts(self, contains: str | None = None) -> list[SeenAttempt]:
        """What all simulators saw."""
        return [attempt for simulator in self.simulators for attempt in simulator.attempts(contains)]

    async def arrived(self, count: int = 1) -> None:
        """Return once the simulators have seen so many attempts."""
        await until(lambda: len(self.attempts()) >= count)

    async def settled(self) -> None:
        """Return once no request is under way, neither in the gateway nor in a simulator."""
        await until(lambda: not self._is_busy())

    def _is_busy(self) -> bool:
        return bool(
            asyncio.all_tasks() - self._at_rest - {asyncio.current_task()}
            or self.in_flight()
            or any(attempt.is_running for attempt in self.attempts())
        )

    def in_flight(self) -> int:
        pools = self.gateway.pipeline.rulebook.routes.fleet.replica_sets
        return sum(pool.in_flight for pool in pools.values())

    async def rows(self) -> list[Json]:
        await self.gateway.flush()
        return read_rows(self.ledger)

    def stored_rows(self) -> list[Json]:
        """What the ledger holds now, flushed or not."""
        return read_rows(self.ledger)

    async def metrics(self) -> Metrics:
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        response = await self.http.get(f"{self.gateway.admin_url}/metrics", headers=headers)
        assert response.status_code == 200
        return Metrics(response.text)

    async def admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        return await self.http.request(method, f"{self.gateway.admin_url}{path}", headers=headers, json=body)

    async def reload(self, changes: Mapping[str, Any] | str) -> httpx.Response:
        """Put `changes` to STANDARD, or a whole text, into the file and ask for a reload."""
        self.config.write_text(changes if isinstance(changes, str) else config_text(changes))
        return await self.admin("POST", "/admin/v1/reload")

    async def held_nano(self) -> int:
        return (await self.metrics()).nano("budget_held_usd")

    async def stop(self) -> None:
        """Stop the gateway before the test ends."""
        if not self._stopped:
            self._stopped = True
            await self.gateway.stop()

    async def close_clients(self) -> None:
        await self.http.aclose()
        for client in self._clients:
            await client.close()


class RawClient:
    """One connection whose every byte the test decides on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.received = b""

    @classmethod
    async def connect(cls, url: str, *, receive_buffer_bytes: int | None = None) -> Self:
        parts = urlsplit(url)
        plug = socket.socket()
        plug.setblocking(False)
        if receive_buffer_bytes is not None:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await asyncio.get_running_loop().sock_connect(plug, (parts.hostname, parts.port))
        return cls(*await asyncio.open_connection(sock=plug))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def request(self, body: Json | bytes, key: str = APP_KEY) -> None:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        await self.send(head.encode() + content)

    async def read_until(self, marker: bytes, count: int = 1) -> bytes:
        """Everything so far, once `marker` stands in it `count` times."""
        return await self.read_while(lambda received: received.count(marker) < count)

    async def read_while(self, wants_more: Callable[[bytes], bool]) -> bytes:
        """Everything so far, once that is enough."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while wants_more(self.received):
                chunk = await self._reader.read(65536)
                assert chunk, f"closed too early: {self.received[-300:]!r}"
                self.received += chunk
        return self.received

    async def read_to_end(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while chunk := await self._reader.read(65536):
                self.received += chunk
        return self.received

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self._writer.write_eof()

    def hang_up(self) -> None:
        self._writer.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hang_up()


class Streamed:
    """A whole event stream as it came over the wire."""

    def __init__(self, content: bytes) -> None:
        self.events = [event for event in content.split(b"\n\n") if event]
        self.is_done = bool(self.events) and self.events[-1] == b"data: [DONE]"

    @property
    def chunks(self) -> list[Json]:
        return [
            orjson.loads(event.removeprefix(b"data: ")) for event in self.events if event != b"data: [DONE]"
        ]

    @property
    def errors(self) -> list[Json]:
        """Error events; what is no JSON is none."""
        bodies = (
            event.removeprefix(b"data: ") for event in self.events if event.startswith(b'data: {"error"')
        )
        return [orjson.loads(body)["error"] for body in bodies]

    @property
    def text(self) -> str:
        deltas = (choice.get("delta", {}) for chunk in self.chunks for choice in chunk.get("choices", ()))
        return "".join(delta.get("content") or "" for delta in deltas)


async def until(holds: Callable[[], bool]) -> None:
    """Return once `holds` does. What is asked for here happens in the same loop, but tells nobody."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def simulators(
    external: Knobs | None = None, replicas: Sequence[Knobs] = (Knobs(), Knobs())
) -> AsyncIterator[tuple[Simulator, list[Simulator]]]:
    """GPT-4o and the replicas of Scout."""
    async with AsyncExitStack() as stack:
        hosted = await stack.enter_async_context(openai_simulator(external))
        yield hosted, [await stack.enter_async_context(vllm_simulator(knobs)) for knobs in replicas]


@asynccontextmanager
async def gateway_over(
    external: Simulator,
    replicas: Sequence[Simulator],
    folder: Path,
    changes: Mapping[str, Any] = {},
    *,
    writer_process: bool = False,
    request_lines: RequestLines | None = None,
) -> AsyncIterator[Harness]:
    """A gateway in front of simulators that run already. Its ledger stays in `folder`.

    `writer_process`: the ledger is written by a process, as in service. Starting one takes a second.
    `request_lines`: where the access log goes; else there is none.
    """
    ledger = folder / "ledger.db"
    environ = {
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "APP_KEY": APP_KEY,
        "NARROW_KEY": NARROW_KEY,
        "LEDGER": f"sqlite:///{ledger}",
        "EXTERNAL": external.url,
        **{f"REPLICA_{number}": replica.url for number, replica in enumerate(replicas, 1)},
    }
    file = config_file(folder, config_text(changes), environ)
    found = file.read()
    assert found.built is not None, [str(problem) for problem in found.problems]
    async with AsyncExitStack() as stack:
        writer_path = None
        if not writer_process:
            settings = ledger_writer_settings(found.built.settings)
            _, writer_path = await stack.enter_async_context(writer_service(settings))
        gateway = Gateway(found.built, file, writer_path=writer_path, request_lines=request_lines)
        await gateway.start()
        harness = Harness(gateway, ledger, external, replicas, file.path)
        try:
            yield harness
        finally:
            await harness.close_clients()
            await harness.stop()


@asynccontextmanager
async def running(
    folder: Path,
    changes: Mapping[str, Any] = {},
    *,
    external: Knobs | None = None,
    replicas: Sequence[Knobs] = (Knobs(), Knobs()),
    writer_process: bool = False,
    request_lines: RequestLines | None = None,
) -> AsyncIterator[Harness]:
    """Simulators and a gateway in front of them, with STANDARD changed by `changes`."""
    async with (
        nothing_left_over(),
        simulators(external, replicas) as (hosted, started),
        gateway_over(
            hosted,
            started,
            folder,
            changes,
            writer_process=writer_process,
            request_lines=request_lines,
        ) as harness,
    ):
        yield harness


@asynccontextmanager
async def nothing_left_over() -> AsyncIterator[None]:
    """What runs inside must end all its tasks, see to its exceptions and log no error."""
    before = asyncio.all_tasks()
    with unseen_exceptions() as unseen, structlog.testing.capture_logs() as logs:
        yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    assert unseen == []
    assert [entry for entry in logs if entry["log_level"] in {"error", "critical"}] == []


@contextmanager
def unseen_exceptions() -> Iterator[list[Json]]:
    """What the event loop would only have logged."""
    loop = asyncio.get_running_loop()
    seen: list[Json] = []
    previous = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: seen.append(context))
    try:
        yield seen
    finally:
        loop.set_exception_handler(previous)


def version(text: str) -> str:
    """The version of a file with this text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def image_parts(text: str) -> list[Json]:
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": PNG_URL}}]


def escaped(text: str) -> str:
    r"""Every character as \uXXXX, for use inside a JSON string."""
    units = text.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def full_width(text: str) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text)


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def unused_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return int(closed.getsockname()[1])


def unused_url() -> str:
    return f"http://127.0.0.1:{unused_port()}"
