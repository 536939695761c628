"""Images come from allowed hosts only, at addresses that were checked, and only when they are images."""

import asyncio
import base64
import socket
from collections.abc import Coroutine, Sequence
from ipaddress import ip_network
from typing import Any

import pytest

from gateway.core.remote_images import ImageRules
from gateway.http.client.resolver import PeerAddress
from gateway.privacy.images import ImageFetcher, ImageNotFetched
from tests.core.builders import run
from tests.privacy.image_host import PNG, Answer, ImageHost, image_host

LOOPBACK = (ip_network("127.0.0.0/8"),)
MIB = 1024 * 1024
# Which address each name has.
NAMES = {
    "img.example.com": ["127.0.0.1"],
    "other.example.com": ["127.0.0.1"],
    "public.example.com": ["93.184.216.34"],
    "inside.example.com": ["10.0.0.7"],
    "both.example.com": ["93.184.216.34", "127.0.0.1"],
    "metadata.example.com": ["169.254.169.254"],
    "mapped.example.com": ["::ffff:127.0.0.1"],
}


def answers(port: int) -> dict[str, Answer]:
    here = f"http://img.example.com:{port}"
    return {
        "/a.png": Answer(),
        "/stored": Answer(content_type="application/octet-stream"),
        "/page": Answer(content_type="text/html", body=b"<html>"),
        "/liar.png": Answer(body=b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "/large.png": Answer(body=PNG + b"0" * 2000),
        "/endless.png": Answer(body=PNG + b"0" * 2000, says_length=False),
        "/moved": Answer(302, location="/a.png"),
        "/moved/away": Answer(302, location=f"http://other.example.com:{port}/a.png"),
        "/moved/to/metadata": Answer(302, location="http://169.254.169.254/latest/meta-data"),
        "/moved/to/file": Answer(302, location="file:///etc/passwd"),
        "/moved/nowhere": Answer(302),
        "/moved/in/circles": Answer(301, location=f"{here}/moved/in/circles"),
        "/broken": Answer(500),
        "/slow": Answer(waits=True),
    }


def rules(port: int, *, inside: bool = True, hosts: Sequence[str] = ("img.example.com",)) -> ImageRules:
    return ImageRules(
        zone="local",
        networks=LOOPBACK if inside else None,
        hosts=frozenset(f"{host}:{port}" for host in hosts),
        max_bytes=MIB,
        max_images=3,
        deadline_seconds=20.0,
    )


async def lookup(host: str, port: int) -> Sequence[PeerAddress]:
    return [
        PeerAddress(socket.AF_INET6, (ip, port, 0, 0))
        if ":" in ip
        else PeerAddress(socket.AF_INET, (ip, port))
        for ip in NAMES[host]
    ]


def fetched(
    path: str, max_bytes: int = MIB, host: str = "img.example.com", **how: Any
) -> tuple[str, ImageHost]:
    async def scenario() -> tuple[str, ImageHost]:
        fetcher = ImageFetcher(lookup)
        try:
            async with image_host(answers) as server:
                how.setdefault("hosts", [host])
                url = f"http://{host}:{server.port}{path}"
                return await fetcher.fetch(url, rules(server.port, **how), max_bytes), server
        finally:
            await fetcher.close()

    return run(scenario())


@pytest.mark.parametrize("path", ["/a.png", "/a.png?size=2", "/stored", "/moved"])
def test_an_image_comes_as_content(path: str) -> None:
    url, server = fetched(path)
    assert url == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert server.asked[0] == f"GET {path} HTTP/1.1"


def test_nothing_of_the_client_is_told_to_the_host() -> None:
    _, server = fetched("/a.png")
    names = {line.partition(":")[0] for line in server.heads[0].strip().split("\r\n")}
    assert names == {"host", "accept", "accept-encoding", "user-agent"}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/page", "no image"),
        ("/liar.png", "no PNG, JPEG, GIF or WebP"),
        ("/gone", "answered 404"),
        ("/broken", "answered 500"),
        ("/moved/away", "not in privacy.images.hosts"),
        ("/moved/to/metadata", "not in privacy.images.hosts"),
        ("/moved/to/file", "not in privacy.images.hosts"),
        ("/moved/nowhere", "redirects more than 3 times"),
        ("/moved/in/circles", "redirects more than 3 times"),
    ],
)
def test_what_is_no_image_of_an_allowed_host_is_not_taken(path: str, why: str) -> None:
    with pytest.raises(ImageNotFetched, match=why):
        fetched(path)


@pytest.mark.parametrize("path", ["/large.png", "/endless.png"])
def test_an_image_that_is_too_large_is_not_read_to_its_end(path: str) -> None:
    with pytest.raises(ImageNotFetched, match="more than the 1,000 bytes"):
        fetched(path, 1000)
    assert fetched("/a.png", 1000)


@pytest.mark.parametrize(
    "host",
    [
        "img.example.com",
        "inside.example.com",
        "both.example.com",
        "metadata.example.com",
        "mapped.example.com",
    ],
)
def test_a_host_with_an_address_that_is_not_public_is_not_asked(host: str) -> None:
    with pytest.raises(ImageNotFetched, match="cannot be asked"):
        fetched("/a.png", host=host, inside=False)


def test_nor_is_such_an_address_itself() -> None:
    with pytest.raises(ImageNotFetched, match="not public"):
        fetched("/a.png", host="127.0.0.1", inside=False)
    assert fetched("/a.png", host="127.0.0.1")[1].asked == ["GET /a.png HTTP/1.1"]


@pytest.mark.parametrize("host", ["public.example.com", "inside.example.com"])
def test_an_address_outside_of_the_zone_s_networks_is_not_asked(host: str) -> None:
    with pytest.raises(ImageNotFetched, match="outside of the zone"):
        fetched("/a.png", host=host)


def test_a_name_that_changes_its_address_is_asked_where_it_was_checked() -> None:
    """Of two look-ups the second one would lead elsewhere."""
    seen: list[str] = []

    async def scenario() -> None:
        async def rebinding(host: str, port: int) -> Sequence[PeerAddress]:
            seen.append(host)
            ip = "127.0.0.1" if len(seen) == 1 else "10.0.0.7"
            return [PeerAddress(socket.AF_INET, (ip, port))]

        fetcher = ImageFetcher(rebinding)
        async with image_host(answers) as server:
            url = f"http://img.example.com:{server.port}/a.png"
            assert await fetcher.fetch(url, rules(server.port), MIB)
            assert server.asked == ["GET /a.png HTTP/1.1"]
        await fetcher.close()

    run(scenario())
    assert seen == ["img.example.com"]


def test_a_host_that_does_not_answer_is_left_when_the_caller_s_time_is_up() -> None:
    async def scenario() -> None:
        fetcher = ImageFetcher(lookup)
        async with image_host(answers) as server:
            url = f"http://img.example.com:{server.port}/slow"
            fetching: Coroutine[Any, Any, str] = fetcher.fetch(url, rules(server.port), MIB)
            task = asyncio.create_task(fetching)
            while not server.asked:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await fetcher.close()

    run(scenario())
