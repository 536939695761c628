"""Whoever watches over an exchange may end it, and whoever waits for it is told why."""

import asyncio

import msgspec
import pytest

from gateway.core.endpoint import Proxy
from gateway.core.errors import FailureKind
from gateway.ports import UpstreamRequest, UpstreamResponse
from tests.http.client.test_upstream_breakage import _free_port
from tests.http.client.upstream_stage import Peer, Stage, answers_always, with_length


def watched(stage: Stage) -> tuple[UpstreamRequest, list[UpstreamResponse]]:
    """A request, and where its answer is put as soon as there is one to come."""
    seen: list[UpstreamResponse] = []
    return msgspec.structs.replace(stage.request(), goes_out=seen.append), seen


async def broken_off(task: "asyncio.Task[object]", stage: Stage, seen: list[UpstreamResponse]) -> None:
    while not (seen and seen[0].is_awaited and stage.server.peers and stage.server.peers[0].requests):
        await asyncio.sleep(0.001)
    seen[0].break_off(FailureKind.SILENT, "nobody there")
    failure = await stage.fails(FailureKind.SILENT, task)
    assert failure.detail == f"nobody there, 127.0.0.1:{stage.server.port}"
    assert not failure.stale
    await stage.gone()


async def takes_the_request(peer: Peer) -> None:
    await peer.request()


async def test_while_it_waits_for_the_head(stage: Stage) -> None:
    stage.server.plays(takes_the_request)
    request, seen = watched(stage)
    await broken_off(asyncio.create_task(stage.upstream.send(request)), stage, seen)


async def test_while_it_waits_for_more_of_the_body(stage: Stage) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")

    stage.server.plays(script)
    request, seen = watched(stage)
    response = await stage.upstream.send(request)
    assert seen == [response]
    assert await response.next_chunk() == b"half"
    assert not response.is_awaited
    await broken_off(asyncio.create_task(response.next_chunk()), stage, seen)
    await stage.fails(FailureKind.SILENT, response.next_chunk())


async def test_what_is_complete_cannot_be_broken_off(stage: Stage) -> None:
    stage.server.plays(answers_always(with_length(b"whole")))
    response = await stage.send()
    while stage.upstream.counts() != (0, 1, 0):
        await asyncio.sleep(0.001)
    response.break_off(FailureKind.SILENT, "too late")
    assert await response.read(10) == b"whole"
    assert await stage.ask() == (200, b"whole")
    assert len(stage.server.peers) == 1


# --- nobody listens ---


async def test_where_nobody_listens_the_failure_says_so(stage: Stage) -> None:
    stage.names["two.test"] = ["127.0.0.9", "127.0.0.1"]
    for host in ("127.0.0.1", "two.test"):
        endpoint = stage.endpoint(host=host, port=_free_port())
        assert (await stage.fails(FailureKind.CONNECT, stage.send(endpoint))).refused


@pytest.mark.parametrize("how", ["no such name", "the proxy"])
async def test_a_name_or_a_proxy_that_fails_says_nothing_of_the_server(stage: Stage, how: str) -> None:
    proxy = Proxy(scheme="http", host="127.0.0.1", port=_free_port())
    changes = {"host": "nowhere.test"} if how == "no such name" else {"proxy": proxy}
    failure = await stage.fails(FailureKind.CONNECT, stage.send(stage.endpoint(**changes)))
    assert not failure.refused
