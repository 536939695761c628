"""The admin API that the supervisor passes on: all but health and metrics, which it answers itself.

A worker answers on a Unix socket in a folder that only this user can enter, with its own admin application:
it checks the token once more. What changes a worker goes to all of them; the rest to the first that serves.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import httpx
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from gateway.core.errors import Unavailable

# Each worker has its own policy in force, so each has to take over another one.
EVERY_WORKER = ("/admin/v1/reload",)
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
ANSWER_SECONDS = 60.0
CONNECT_SECONDS = 2.0
RETRY_SECONDS = 1.0
# These belong to one connection.
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"})

Headers = list[tuple[bytes, bytes]]


def proxy_router(
    serving: Callable[[], Sequence[tuple[int, Path]]], changed: Callable[[], Awaitable[None]]
) -> APIRouter:
    """A router for every path. `serving` gives number and socket of the workers that take requests.

    `changed` is called when something went to all of them, before its answer.
    """
    router = APIRouter()

    async def forward(request: Request) -> Response:
        workers = serving()
        if not workers:
            raise Unavailable("No worker is serving now.", retry_after_seconds=RETRY_SECONDS)
        body = await request.body()
        if request.url.path in EVERY_WORKER:
            answer = await _all(workers, request, body)
            await changed()
            return answer
        return await _one(*workers[0], request, body)

    router.add_api_route(
        "/{path:path}", forward, methods=METHODS, include_in_schema=False, response_model=None
    )
    return router


async def _one(number: int, path: Path, request: Request, body: bytes) -> Response:
    """The answer of one worker, passed on as it comes."""
    client = _client(path)
    try:
        answer = await client.send(_same(client, request, body), stream=True)
    except BaseException as exc:
        await client.aclose()
        if isinstance(exc, httpx.HTTPError):
            raise _no_answer(number) from exc
        raise
    response = StreamingResponse(_passing(client, answer), status_code=answer.status_code)
    response.raw_headers = _without_hops(answer.headers.raw)
    return response


async def _passing(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
        await client.aclose()


async def _all(workers: Sequence[tuple[int, Path]], request: Request, body: bytes) -> Response:
    """The first answer, unless a worker refuses: then that one's. Raises Unavailable without an answer."""
    answers = await asyncio.gather(*(_whole(number, path, request, body) for number, path in workers))
    answer = max(answers, key=lambda one: one.is_error)
    response = Response(answer.content, status_code=answer.status_code)
    response.raw_headers = _without_hops(answer.headers.raw)
    return response


async def _whole(number: int, path: Path, request: Request, body: bytes) -> httpx.Response:
    async with _client(path) as client:
        try:
            return await client.send(_same(client, request, body))
        except httpx.HTTPError as exc:
            raise _no_answer(number) from exc


def _client(path: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        # Certificates are read from disk otherwise, for a socket that has none.
        transport=httpx.AsyncHTTPTransport(uds=str(path), verify=False),
        base_url="http://worker",
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
    )


def _same(client: httpx.AsyncClient, request: Request, body: bytes) -> httpx.Request:
    """The request as it came. Its raw path, so that the worker decides on what the client has sent."""
    target: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    url = client.base_url.copy_with(raw_path=target.partition(b"?")[0] + (b"?" + query if query else b""))
    return client.build_request(request.method, url, headers=_without_hops(request.headers.raw), content=body)


def _without_hops(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]


def _no_answer(number: int) -> Unavailable:
    return Unavailable(
        f"Worker {number} did not answer. What it was to do may have been done.",
        retry_after_seconds=RETRY_SECONDS,
    )
