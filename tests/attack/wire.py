"""Against the ports themselves: smuggling, bounds of heads, slow clients, floods of connections."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from tests.attack.case import Case, Client, Failed, Victim, expect
from tests.http.server.test_server_smuggling import CHUNKS, HEADS

HELD_SECONDS = 45.0  # of server time-outs (30 s), and how often they are looked at
ANSWER_SECONDS = 5.0  # so long for what may come behind an answer
MANY = 400
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


async def _answers(client: Client, sent: bytes) -> bytes:
    with suppress(OSError):
        await client.send(sent)
    got = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            while data := await client.receive():
                got += data
    client.close()
    return got


def _refused_once(sent: bytes, url_of: Callable[[Victim], str | None]) -> Callable[[Victim], Awaitable[None]]:
    async def run(victim: Victim) -> None:
        got = await _answers(await victim.connect(url_of(victim)), sent)
        statuses = _STATUS_LINE.findall(got)
        expect(len(statuses) == 1, f"{len(statuses)} answers: {statuses}")
        expect(statuses[0].startswith(b"4"), f"answered with {statuses[0]!r}")

    return run


def _admin(victim: Victim) -> str | None:
    return victim.admin_url


def _smuggling() -> Iterator[Case]:
    chunked = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    inputs = {**HEADS, **{f"chunks: {name}": chunked + body for name, body in CHUNKS.items()}}
    for name, sent in inputs.items():
        yield Case("smuggling, malformed heads", name, _refused_once(sent, lambda victim: victim.data_url))
        yield Case(
            "smuggling, malformed heads", f"admin port: {name}", _refused_once(sent, _admin), needs_admin=True
        )


def _large_heads() -> Iterator[Case]:
    head = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n"
    for name, sent in {
        "a header of 1 MB": head + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n",
        "20,000 headers": head + b"x: y\r\n" * 20_000 + b"\r\n",
        "a target of 1 MB": b"GET /" + b"y" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    }.items():
        yield Case("bounds of the ports", name, _refused_once(sent, lambda victim: victim.data_url))
        yield Case(
            "bounds of the ports", f"admin port: {name}", _refused_once(sent, _admin), needs_admin=True
        )


def _slow(sent: bytes, url_of: Callable[[Victim], str | None]) -> Callable[[Victim], Awaitable[None]]:
    async def closed(client: Client) -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(HELD_SECONDS):
                while await client.receive():
                    pass
            return True
        return False

    async def run(victim: Victim) -> None:
        clients = [await victim.connect(url_of(victim)) for _ in range(MANY)]
        try:
            for client in clients:
                with suppress(OSError):
                    await client.send(sent)
            await _answers_others(victim)
            open_ones = MANY - sum(await asyncio.gather(*map(closed, clients)))
            expect(not open_ones, f"{open_ones} of {MANY} are open after {HELD_SECONDS:.0f} seconds")
        finally:
            for client in clients:
                client.close()

    return run


async def _answers_others(victim: Victim) -> None:
    answer = await victim.post(victim.chat())
    expect(answer.status_code == 200, f"others get {answer.status_code} meanwhile")


def _slow_clients() -> Iterator[Case]:
    half_head = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nx: "
    half_body = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
    half_login = b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
    yield Case("slow clients", f"{MANY} half heads", _slow(half_head, lambda victim: victim.data_url))
    yield Case("slow clients", f"{MANY} half bodies", _slow(half_body, lambda victim: victim.data_url))
    yield Case("slow clients", f"admin port: {MANY} half heads", _slow(half_head, _admin), needs_admin=True)
    yield Case("slow clients", f"admin port: {MANY} half bodies", _slow(half_login, _admin), needs_admin=True)


_PATHS = ("/metrics", "/admin/v1/keys", "/admin/v1/reload", "/admin/v1/requests/x", "/docs", "/openapi.json")
_DISGUISES = ("{0}", "/{0}", "/.{0}", "/v1/..{0}", "{0}/", "/v1/models;{0}", "/v1{0}", "/%2e%2e{0}", "{0}%00")


def _admin_paths() -> Iterator[Case]:
    for path in _PATHS:
        for disguise in _DISGUISES:
            tried = disguise.format(path)
            yield Case("admin port", f"data port: {tried}", _not_served(tried, is_data=True))
            yield Case(
                "admin port", f"no token: {tried}", _not_served(tried, is_data=False), needs_admin=True
            )
    for header in ("Bearer", "Bearer x", "Basic eDp4", "bearer", "Bearer admin-token-for-tests-012345678"):
        yield Case("admin port", f"token {header!r}", _wrong_token(header), needs_admin=True)
    yield Case("admin port", "a client's key as its token", _client_key_as_token, needs_admin=True)
    yield Case("admin port", "its token as a client's key", _token_as_client_key, needs_admin=True)


def _not_served(path: str, *, is_data: bool) -> Callable[[Victim], Awaitable[None]]:
    async def run(victim: Victim) -> None:
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        if is_data:
            request += f"Authorization: Bearer {victim.admin_token or victim.key}\r\n"
        url = victim.data_url if is_data else victim.admin_url
        got = await _answers(await victim.connect(url), request.encode() + b"\r\n")
        expect(got[9:10] in (b"3", b"4"), f"answered with {got[:60]!r}")
        expect(b"tollway_" not in got.partition(b"\r\n\r\n")[2], "metrics were shown")

    return run


def _wrong_token(header: str) -> Callable[[Victim], Awaitable[None]]:
    async def run(victim: Victim) -> None:
        answer = await victim.http.get(f"{victim.admin_url}/metrics", headers={"authorization": header})
        expect(answer.status_code in (401, 403, 429), f"answered with {answer.status_code}")

    return run


async def _client_key_as_token(victim: Victim) -> None:
    await _wrong_token(f"Bearer {victim.key}")(victim)


async def _token_as_client_key(victim: Victim) -> None:
    answer = await victim.post(victim.chat(), key=victim.admin_token)
    expect(answer.status_code in (401, 429), f"answered with {answer.status_code}")


async def _connections_of_one_port(victim: Victim) -> None:
    """Many connections to the admin port, and the data port goes on."""
    clients = []
    try:
        with suppress(OSError):
            clients += [await victim.connect(victim.admin_url) for _ in range(900)]
        await _answers_others(victim)
    except Failed as failed:
        raise Failed(f"with {len(clients)} connections to the admin port {failed}") from failed
    finally:
        for client in clients:
            client.close()


CASES = [
    *_smuggling(),
    *_large_heads(),
    *_admin_paths(),
    Case("admin port", "900 connections to it", _connections_of_one_port, needs_admin=True),
    *_slow_clients(),
]
