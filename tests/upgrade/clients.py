"""Applications: they ask one request after another, read or leave early, and go where somebody serves."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from tests.upgrade.gateway import Gateway
from tests.upgrade.installation import Json
from tests.upgrade.installer import secret_of
from tests.upgrade.waiting import PATIENCE_SECONDS

_PAUSE_SECONDS = 0.05


def chat(model: str, max_tokens: int, **more: Any) -> Json:
    messages = [{"role": "user", "content": "Tell me about ships, in a few words."}]
    return {"model": model, "messages": messages, "max_tokens": max_tokens, **more}


def sender() -> httpx.AsyncClient:
    """A client as patient as any test, with as many connections as it likes."""
    return httpx.AsyncClient(timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_connections=None))


async def ask(http: httpx.AsyncClient, gateway: Gateway, feature: str, body: Json) -> httpx.Response:
    """One request, and the whole answer."""
    url = f"{gateway.data_url}{_path(body)}"
    return await http.post(url, json=body, headers=_headers(feature))


def _path(body: Json) -> str:
    return "/v1/embeddings" if "input" in body else "/v1/chat/completions"


def _headers(feature: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {secret_of(feature)}", "x-tollway-tags": "ticket=A-1"}


class Mix:
    """What clients ask, in turn: kinds of request that leave different traces."""

    _BODIES: Sequence[tuple[bool, Json]] = (  # whether the client leaves in the middle of the answer
        (False, chat("gpt-4o", 60)),
        (False, chat("gpt-4o", 60, stream=True)),
        (False, chat("scout", 40)),
        (False, chat("auto", 40, stream=True, stream_options={"include_usage": True})),
        (True, chat("gpt-4o", 200, stream=True)),
        (False, {"model": "embed", "input": "ships and tides"}),
        (True, chat("scout", 200, stream=True)),
    )

    def __init__(self) -> None:
        self._number = -1

    def next(self) -> tuple[bool, Json]:
        self._number += 1
        return self._BODIES[self._number % len(self._BODIES)]


class Load:
    """What clients have come to know. A client whose gateway dies goes to another one."""

    def __init__(self, gateways: Sequence[Gateway], feature: str) -> None:
        self._gateways = list(gateways)
        self._feature = feature
        self._mix = Mix()
        self._http = sender()
        self._enough = False
        self.answered: list[str] = []  # ids of requests whose whole answer has arrived
        self.by_gateway: Counter[Gateway] = Counter()
        self.refused: Counter[str] = Counter()  # by the code of the error

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator["Load"]:
        """So many clients, until the block ends; their last answers are awaited."""
        async with self._http, asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(number))
            try:
                yield self
            finally:
                self._enough = True

    async def _client(self, number: int) -> None:
        while not self._enough:
            alive = [gateway for gateway in self._gateways if gateway.is_alive]
            if not alive:
                return
            leaves, body = self._mix.next()
            try:
                await self._exchange(alive[number % len(alive)], body, leaves=leaves)
            except httpx.TransportError:  # the gateway has died, or broke off as its upstream did
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _exchange(self, gateway: Gateway, body: Json, *, leaves: bool) -> None:
        request = self._http.stream(
            "POST", f"{gateway.data_url}{_path(body)}", json=body, headers=_headers(self._feature)
        )
        async with request as answer:
            if leaves and answer.status_code == 200:
                async with aclosing(answer.aiter_raw()) as chunks:
                    await anext(chunks)
                return
            await answer.aread()
        if answer.status_code != 200:
            self.refused[answer.json()["error"]["code"]] += 1
            await asyncio.sleep(_PAUSE_SECONDS)
        elif not body.get("stream") or answer.text.endswith("data: [DONE]\n\n"):
            self.answered.append(answer.headers["x-request-id"])
            self.by_gateway[gateway] += 1
