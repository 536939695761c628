"""Which addresses of images are asked, and what a request looks like with the images in it."""

from ipaddress import ip_address
from typing import Any

import orjson
import pytest

from gateway.core.catalog import Modality
from gateway.core.remote_images import (
    ImageAddress,
    ImageRules,
    allowed_address,
    data_url,
    is_public,
    remote_images,
    with_images,
)
from tests.core.builders import chat, parsed_with_body

RULES = ImageRules(
    zone="external",
    networks=None,
    hosts=frozenset(
        {"img.example.com:443", "img.example.com:80", "*.cdn.example.com:443", "store.example.com:8443"}
    ),
    max_bytes=1000,
    max_images=3,
    deadline_seconds=1.0,
)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://img.example.com/a.png", ImageAddress("https", "img.example.com", 443, "/a.png")),
        ("HTTP://IMG.example.com:80", ImageAddress("http", "img.example.com", 80, "/")),
        ("https://img.example.com/a?b=c&d#e", ImageAddress("https", "img.example.com", 443, "/a?b=c&d")),
        ("https://eu.west.cdn.example.com/x", ImageAddress("https", "eu.west.cdn.example.com", 443, "/x")),
        ("https://store.example.com:8443/x", ImageAddress("https", "store.example.com", 8443, "/x")),
    ],
)
def test_an_address_of_a_listed_host_is_asked(url: str, address: ImageAddress) -> None:
    assert allowed_address(url, RULES.hosts) == address


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "https://img.example.com.evil.example/a.png",
        "https://evil-img.example.com/",
        "https://cdn.example.com/x",
        "http://eu.cdn.example.com/x",
        "https://img.example.com:8443/",
        "https://store.example.com/",
        "https://user@img.example.com/",
        "https://img.example.com@evil.example/",
        "https://evil.example\\@img.example.com/",
        "https://img.example.com/a b",
        "https://img.example.com/\r\nHost: x",
        "https://img.example.com/é",
        "https://img.example.com:99999/",
        "https://[img.example.com/",
        "ftp://img.example.com/",
        "file:///etc/passwd",
        "https://img.example.com./",
        "//img.example.com/",
        "https://img.example.com/" + "a" * 9_000,
        "",
    ],
)
def test_no_other_address_is(url: str) -> None:
    assert allowed_address(url, RULES.hosts) is None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "64:ff9b::a00:1",
        "2002:a00:1::1",
    ],
)
def test_addresses_at_home_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


def test_addresses_of_the_internet_are_public() -> None:
    assert is_public(ip_address("93.184.216.34"))
    assert is_public(ip_address("2606:4700::1111"))


URL = "https://img.example.com/a.png"


def test_a_request_with_its_images_is_measured_like_one_that_came_so() -> None:
    def body(url: str) -> Any:
        return chat(
            [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
                {"type": "image_url", "image_url": url},
            ]
        )

    call, value = parsed_with_body(body(URL))
    assert call.media.is_remote
    assert list(remote_images(value)) == [
        ("messages[0].content[1]", URL),
        ("messages[0].content[2]", URL),
    ]
    image = data_url(b"\x89PNG\r\n\x1a\n" * 100, "image/png")
    inlined, changed = with_images(call, value, {URL: image})
    expected, expected_body = parsed_with_body(body(image))
    assert (inlined.media, inlined.rest, inlined.text_bytes) == (
        expected.media,
        expected.rest,
        expected.text_bytes,
    )
    assert changed == expected_body == orjson.loads(inlined.rest)
    assert not inlined.media.is_remote
    assert inlined.modalities == {Modality.TEXT, Modality.IMAGE}
    assert value == parsed_with_body(body(URL))[1], "the client's own body is left alone"


def test_what_is_no_image_or_no_address_is_left() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "x", "image_url": {"url": URL}},
        {"type": "video_url", "video_url": {"url": URL}},
        {"type": "image_url", "image_url": 7},
    ]
    assert list(remote_images(parsed_with_body(chat(parts))[1])) == []
