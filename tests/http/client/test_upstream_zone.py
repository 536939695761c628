"""A connection goes to an address that was checked, or nowhere."""

import asyncio
import ipaddress
import socket

import msgspec
import pytest

from gateway.core.errors import FailureKind
from gateway.http.addresses import unwrapped
from gateway.http.client.resolver import system_lookup
from gateway.ports import UpstreamResponse
from tests.http.client.upstream_stage import Stage, answers_always, with_length

OK = with_length(b"ok")


def _networks(*cidrs: str) -> tuple[object, ...]:
    return tuple(ipaddress.ip_network(cidr) for cidr in cidrs)


async def test_inside(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    endpoint = stage.endpoint(host="upstream.test", networks=_networks("127.0.0.0/8"))
    response = await stage.send(endpoint)
    assert response.peer == f"127.0.0.1:{stage.server.port}"
    assert await response.read(10) == b"ok"


@pytest.mark.parametrize("networks", [_networks("10.0.0.0/8", "fd00::/8"), ()])
@pytest.mark.parametrize("host", ["upstream.test", "127.0.0.1"])
async def test_outside_is_refused_before_a_byte(
    stage: Stage, host: str, networks: tuple[object, ...]
) -> None:
    endpoint = stage.endpoint(host=host, networks=networks)
    failure = await stage.fails(FailureKind.ZONE, stage.send(endpoint))
    assert "127.0.0.1" in failure.detail
    assert failure.never_sent
    assert stage.server.peers == []


async def test_the_caller_is_told_the_address_before_the_request_is_seen_there(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    told: list[tuple[str, int]] = []
    request = msgspec.structs.replace(
        stage.request(),
        goes_out=lambda response: told.append(
            (response.peer, sum(peer.requests for peer in stage.server.peers))
        ),
    )
    response = await stage.upstream.send(request)
    assert told == [(response.peer, 0)]
    assert await response.read(10) == b"ok"


async def test_nobody_is_told_of_an_address_outside_the_zone(stage: Stage) -> None:
    told: list[UpstreamResponse] = []
    endpoint = stage.endpoint(host="upstream.test", networks=_networks("10.0.0.0/8"))
    request = msgspec.structs.replace(stage.request(endpoint), goes_out=told.append)
    await stage.fails(FailureKind.ZONE, stage.upstream.send(request))
    assert told == []


async def test_only_inside_addresses_are_used(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    stage.names["both.test"] = ["203.0.113.7", "::1", "127.0.0.1"]
    endpoint = stage.endpoint(host="both.test", networks=_networks("127.0.0.0/8"))
    response = await stage.send(endpoint)
    assert response.peer.startswith("127.0.0.1:")
    await response.read(10)


async def test_mapped_addresses_are_unwrapped(stage: Stage) -> None:
    stage.names["mapped.test"] = ["::ffff:127.0.0.1"]
    outside = stage.endpoint(host="mapped.test", networks=_networks("10.0.0.0/8", "::/0"))
    await stage.fails(FailureKind.ZONE, stage.send(outside))
    stage.server.plays(answers_always(OK))
    inside = stage.endpoint(host="mapped.test", networks=_networks("127.0.0.0/8"))
    assert await stage.ask(inside) == (200, b"ok")


async def test_mapped_literals_are_unwrapped(stage: Stage) -> None:
    outside = stage.endpoint(host="::ffff:127.0.0.1", networks=_networks("::/0"))
    await stage.fails(FailureKind.ZONE, stage.send(outside))


async def test_answer_that_changes_between_check_and_connect(stage: Stage) -> None:
    """DNS rebinding: the first answer passes the check, each later one points elsewhere."""
    stage.server.plays(answers_always(OK))
    stage.names["rebind.test"] = ["127.0.0.1"]
    lookup = stage.upstream._resolver._lookup

    async def rebinding(host: str, port: int) -> object:
        found = await lookup(host, port)
        stage.names["rebind.test"] = ["127.0.0.66"]
        return found

    stage.upstream._resolver._lookup = rebinding
    endpoint = stage.endpoint(host="rebind.test", networks=_networks("127.0.0.1/32"))
    response = await stage.send(endpoint)
    assert response.peer == f"127.0.0.1:{stage.server.port}"
    await response.read(10)
    assert stage.lookups == 1


async def test_new_answer_is_checked_for_new_connections(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.http.client.resolver._CACHE_SECONDS", 0)
    stage.server.plays(answers_always(with_length(b"ok", b"connection: close")))
    endpoint = stage.endpoint(host="upstream.test", networks=_networks("127.0.0.1/32"))
    assert await stage.ask(endpoint) == (200, b"ok")
    stage.names["upstream.test"] = ["127.0.0.66"]
    await stage.fails(FailureKind.ZONE, stage.send(endpoint))


async def test_simultaneous_lookups_are_one(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    endpoint = stage.endpoint(host="upstream.test")
    await asyncio.gather(*(stage.ask(endpoint) for _ in range(10)))
    assert stage.lookups == 1


async def test_unspecified_address_is_not_where_it_says(stage: Stage) -> None:
    """Connecting to 0.0.0.0 ends at 127.0.0.1, whatever the zone says about 0.0.0.0."""
    stage.server.plays(answers_always(OK))
    stage.names["zero.test"] = ["0.0.0.0"]
    for host in ("zero.test", "0.0.0.0"):
        endpoint = stage.endpoint(host=host, networks=_networks("0.0.0.0/32"))
        failure = await stage.fails(FailureKind.ZONE, stage.send(endpoint))
        assert "127.0.0.1" in failure.detail
    assert all(peer.requests == 0 for peer in stage.server.peers)


async def test_ipv6(stage: Stage) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    await stage.server.stop()
    try:
        await stage.server.start(host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    stage.server.plays(answers_always(OK))
    response = await stage.send(stage.endpoint(host="::1", networks=_networks("::1/128")))
    assert response.peer == f"[::1]:{stage.server.port}"
    assert await response.read(10) == b"ok"
    await stage.fails(
        FailureKind.ZONE, stage.send(stage.endpoint(host="::1", networks=_networks("127.0.0.0/8")))
    )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:a00:1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_unwrapped(text: str, plain: str) -> None:
    assert str(unwrapped(text)) == plain


async def test_system_resolver(stage: Stage) -> None:
    stage.server.plays(answers_always(OK))
    stage.upstream._resolver._lookup = system_lookup
    assert await stage.ask(stage.endpoint(host="localhost")) == (200, b"ok")
