"""Fetches images by their address, for upstreams that must not fetch what a prompt tells them to.

Rules:
- Only allowed hosts are asked, also after a redirect.
- A connection goes to exactly the address that was checked: inside the zone's networks, or else public.
- Nothing of the client's request is sent but the path and query that it named.
"""

import asyncio
from collections.abc import Sequence
from urllib.parse import urljoin

from gateway import __version__
from gateway.core.endpoint import Endpoint, Timeouts
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.heads import request_head
from gateway.core.remote_images import (
    ImageAddress,
    ImageRules,
    allowed_address,
    data_url,
    is_public,
)
from gateway.detect.payloads import image_type
from gateway.http.addresses import unwrapped
from gateway.http.client.pool import HttpUpstream
from gateway.http.client.resolver import Lookup, PeerAddress, is_literal, system_lookup
from gateway.ports import UpstreamRequest, UpstreamResponse

MOST_REDIRECTS = 3
# So many images are fetched at once; others wait, within their deadline.
MOST_AT_ONCE = 32
_MOST_CONNECTIONS = 8
_IDLE_SECONDS = 4.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# What stores say of files that they know nothing about.
_UNTOLD_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_HEADERS = (
    (b"accept", b"image/png, image/jpeg, image/gif, image/webp"),
    (b"user-agent", f"tollway/{__version__}".encode()),
)


class ImageNotFetched(Exception):
    """Why an image is not there: for the client, and without the address."""


class ImageFetcher:
    """One client for zones with networks, and one that knows public addresses only."""

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        async def public_lookup(host: str, port: int) -> Sequence[PeerAddress]:
            found = await lookup(host, port)
            if not all(is_public(address.ip) for address in found):
                raise OSError("it has an address that is not public")
            return found

        self._inside = HttpUpstream(lookup)
        self._public = HttpUpstream(public_lookup)
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)

    async def fetch(self, url: str, rules: ImageRules, max_bytes: int) -> str:
        """The image at `url` as a `data:` URL, of at most `max_bytes`. The caller bounds the time.

        Raises ImageNotFetched.
        """
        async with self._slots:
            try:
                return await self._follow(url, rules, max_bytes)
            except UpstreamFailure as failure:
                raise ImageNotFetched(_reason(failure, max_bytes)) from failure

    async def close(self) -> None:
        await self._inside.close()
        await self._public.close()

    async def _follow(self, url: str, rules: ImageRules, max_bytes: int) -> str:
        for _ in range(MOST_REDIRECTS + 1):
            address = allowed_address(url, rules.hosts)
            if address is None:
                raise ImageNotFetched("it leads to a host that is not in privacy.images.hosts")
            response = await self._ask(address, rules)
            try:
                location = _location(response)
                if location is None:
                    return await _image(response, max_bytes)
            finally:
                response.abort()
            url = urljoin(url, location)
        raise ImageNotFetched(f"it redirects more than {MOST_REDIRECTS} times")

    async def _ask(self, address: ImageAddress, rules: ImageRules) -> UpstreamResponse:
        # A literal is looked up nowhere.
        if rules.networks is None and is_literal(address.host) and not is_public(unwrapped(address.host)):
            raise ImageNotFetched("its address is not public")
        seconds = rules.deadline_seconds
        endpoint = Endpoint(
            scheme=address.scheme,
            host=address.host,
            port=address.port,
            networks=rules.networks,
            timeouts=Timeouts(
                connect_seconds=seconds,
                first_byte_seconds=seconds,
                between_bytes_seconds=seconds,
                total_seconds=seconds,
            ),
            max_connections=_MOST_CONNECTIONS,
            idle_seconds=_IDLE_SECONDS,
        )
        try:
            head = request_head(endpoint, b"GET", address.target.encode("ascii"), _HEADERS)
        except ValueError as exc:
            raise ImageNotFetched("its address cannot be asked for") from exc
        client = self._public if rules.networks is None else self._inside
        return await client.send(UpstreamRequest(head=head, body=b""))


def _header(response: UpstreamResponse, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key == name), "")


def _location(response: UpstreamResponse) -> str | None:
    """Where a redirect leads; None for an image. Raises ImageNotFetched for any other status."""
    if response.status in _REDIRECTS:
        return _header(response, b"location")
    if response.status != 200:
        raise ImageNotFetched(f"its host answered {response.status}")
    return None


async def _image(response: UpstreamResponse, max_bytes: int) -> str:
    said = _header(response, b"content-type").partition(";")[0].strip().lower()
    if not said.startswith("image/") and said not in _UNTOLD_TYPES:
        raise ImageNotFetched("it is no image")
    length = _header(response, b"content-length")
    if length.isdecimal() and int(length) > max_bytes:
        raise ImageNotFetched(_too_large(max_bytes))
    content = await response.read(max_bytes)
    kind = image_type(content)
    if kind is None:
        raise ImageNotFetched("it is no PNG, JPEG, GIF or WebP")
    return data_url(content, kind)


def _too_large(max_bytes: int) -> str:
    return f"it has more than the {max_bytes:,} bytes that are left for images"


def _reason(failure: UpstreamFailure, max_bytes: int) -> str:
    """Names no address: a client must not learn what stands where in the network."""
    match failure.kind:
        case FailureKind.BODY:
            return _too_large(max_bytes)
        case FailureKind.ZONE:
            return "its address is outside of the zone of privacy.images"
        case _:
            return f"its host cannot be asked ({failure.kind})"
