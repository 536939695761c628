"""Images that a prompt names by their address: which may be fetched, and the request with them in it."""

import base64
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson

from gateway.core.call import Call
from gateway.core.endpoint import IpNetwork
from gateway.core.media import media_of

_PRINTABLE = re.compile("[!-~]+").fullmatch
_MOST_URL_CHARACTERS = 8_192
_PORTS = {"http": 80, "https": 443}

# Addresses of IPv6 that lead to one of IPv4, which nobody has looked at.
_TRANSLATED = tuple(map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))


class ImageRules(msgspec.Struct, frozen=True, kw_only=True):
    """Whose images are fetched, and how much of them.

    `hosts` are `host:port`; one that begins with "*." stands for every name below it. They lie in `zone`,
    whose `networks` have to hold their addresses; None: any address that is public. `max_bytes` is for all
    images of a request, and so are `max_images` and `deadline_seconds`.
    """

    zone: str
    networks: tuple[IpNetwork, ...] | None
    hosts: frozenset[str]
    max_bytes: int
    max_images: int
    deadline_seconds: float


class ImageAddress(msgspec.Struct, frozen=True):
    """Where an image is, taken apart. `target` is path and query as sent on the wire."""

    scheme: str
    host: str
    port: int
    target: str


def allowed_address(url: str, hosts: frozenset[str]) -> ImageAddress | None:
    """Where `url` leads; None when it is none of `hosts`, or is not written as a URL has to be."""
    if len(url) > _MOST_URL_CHARACTERS or not _PRINTABLE(url) or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    if scheme not in _PORTS or not host or "@" in parts.netloc:
        return None
    port = port or _PORTS[scheme]
    if not _is_listed(host, port, hosts):
        return None
    return ImageAddress(scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def _is_listed(host: str, port: int, hosts: frozenset[str]) -> bool:
    if f"{host}:{port}" in hosts:
        return True
    labels = host.split(".")
    return any(f"*.{'.'.join(labels[at:])}:{port}" in hosts for at in range(1, len(labels)))


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` is one of the internet's, and of no network at home."""
    if isinstance(address, IPv6Address) and any(address in network for network in _TRANSLATED):
        return False
    return address.is_global and not address.is_multicast


def wanted_images(body: Mapping[str, Any], hosts: frozenset[str], most: int) -> list[tuple[str, str]]:
    """Those of `remote_images` that lie on one of `hosts`: `most` and one more at most."""
    named = (item for item in remote_images(body) if allowed_address(item[1], hosts))
    return list(islice(named, most + 1))


def remote_images(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each image of a chat `body` that is named by an http(s) address: its place, and the address."""
    for where, part in _parts(body):
        url = _url_of(part)
        if url is not None and url[:7].lower() in {"http://", "https:/"}:
            yield where, url


def with_images(
    call: Call, body: Mapping[str, Any], images: Mapping[str, str]
) -> tuple[Call, dict[str, Any]]:
    """`call` and its chat `body` with `images` in place of their addresses: `data:` URLs by address."""
    changed = {**body, "messages": [_message_with(message, images) for message in body["messages"]]}
    _, media = media_of(list(_parts(changed)), wants_audio=False)
    rest = orjson.dumps(changed)
    return msgspec.structs.replace(call, media=media, rest=rest, text_bytes=len(rest) - media.bytes), changed


def _parts(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for index, message in enumerate(body.get("messages") or ()):
        content = message.get("content")
        if isinstance(content, list):
            for number, part in enumerate(content):
                yield f"messages[{index}].content[{number}]", part


def _url_of(part: Mapping[str, Any]) -> str | None:
    if part.get("type") not in {"image_url", "input_image"}:
        return None
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) else None


def _message_with(message: Mapping[str, Any], images: Mapping[str, str]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part_with(part, images) for part in content]}


def _part_with(part: Mapping[str, Any], images: Mapping[str, str]) -> Mapping[str, Any]:
    image = images.get(_url_of(part) or "")
    if image is None:
        return part
    given = part["image_url"]
    return {**part, "image_url": {**given, "url": image} if isinstance(given, dict) else image}


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
