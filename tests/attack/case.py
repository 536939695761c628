"""What an attack tries, and what it is tried on."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from gateway.simulators.running import Simulator
from tests.attack.lying_upstream import LyingUpstream
from tests.http.server.server_stage import Client

Json = dict[str, Any]

MOST_WAITS, MOST_WAIT_SECONDS = 4, 65.0


class Own(NamedTuple):
    """What only a gateway that the attack has started lets it see: both sides."""

    external: Simulator
    liar: LyingUpstream
    provider_key: str


class Victim(NamedTuple):
    """A running gateway, with a key whose requests may go out. `own` is None for somebody else's.

    `admin_url` and `admin_token` are None where they are not known: then what needs them is not tried.
    """

    http: httpx.AsyncClient
    data_url: str
    key: str
    model: str
    admin_url: str | None = None
    admin_token: str | None = None
    own: Own | None = None

    async def post(
        self, body: Json | bytes, *headers: tuple[str, str], key: str | None = None
    ) -> httpx.Response:
        """One chat request. Headers may come more than once."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        named = [
            ("authorization", f"Bearer {key or self.key}"),
            ("content-type", "application/json"),
            *headers,
        ]
        return await self.http.post(f"{self.data_url}/v1/chat/completions", headers=named, **content)

    async def post_in_turn(self, body: Json) -> httpx.Response:
        """As `post`; where a limit asks to wait, it waits: so many refusals in a row may set off one."""
        for _ in range(MOST_WAITS):
            answer = await self.post(body)
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            await asyncio.sleep(min(float(answer.headers.get("retry-after", 1)), MOST_WAIT_SECONDS))
        return answer

    async def connect(self, url: str | None = None) -> Client:
        """A connection whose every byte the attack decides on."""
        parts = urlsplit(url or self.data_url)
        plug = socket.socket()
        plug.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plug, (parts.hostname, parts.port or 80))
        return Client(plug)

    def chat(self, text: str = "Tell me about ships.", **more: Any) -> Json:
        return {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


class Failed(Exception):
    """It did not hold. The text says what happened instead."""


class Case(NamedTuple):
    """`run` returns when it held. Raises Failed, or what else went wrong."""

    section: str
    name: str
    run: Callable[[Victim], Awaitable[None]]
    needs_admin: bool = False
    needs_own: bool = False

    def is_possible(self, victim: Victim) -> bool:
        return not (self.needs_admin and victim.admin_url is None) and not (
            self.needs_own and victim.own is None
        )


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)
