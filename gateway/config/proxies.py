"""Forward proxies: out of a URL, and out of the environment where `server.proxy_from_env` is on.

Rules for the environment:
- `https_proxy` is for https upstreams, `http_proxy` for http ones; a lower-case name goes before its
  upper-case twin, and an empty value means none. Nothing here runs as a CGI script, so `HTTP_PROXY` cannot
  come from a request's header.
- `NO_PROXY` lists what is reached directly: `*`, host names (each with all names below it), addresses and
  networks (for upstreams that are written as addresses), each with a `:port` if only that port is meant.
- A zone with networks is reached directly, because the address behind a proxy cannot be checked. So is
  loopback, because a proxy's own is never what is meant.
- What an environment holds enters no message.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec
from msgspec import structs
from pydantic_core import PydanticCustomError

from gateway.config.urls import proxy_url
from gateway.core import catalog
from gateway.core.endpoint import Endpoint, IpNetwork, Proxy

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PORT: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*):(?P<port>[0-9]{1,5})")


class UnusableProxy(Exception):
    """A variable of the environment that cannot be used. The message names it and does not quote it."""


class DirectRule(msgspec.Struct, frozen=True):
    """One entry of NO_PROXY: a network, or a name without its leading dot (empty: any host)."""

    name: str = ""
    network: IpNetwork | None = None
    port: int | None = None

    def covers(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        address = _address(host)
        if self.network is not None:
            return address is not None and address in self.network
        return not self.name or host == self.name or (address is None and host.endswith("." + self.name))


class ProxyEnvironment(msgspec.Struct, frozen=True):
    """The proxies for http and for https upstreams, and what is reached without them."""

    http: Proxy | None = None
    https: Proxy | None = None
    direct: tuple[DirectRule, ...] = ()

    def proxy_for(self, endpoint: Endpoint) -> Proxy | None:
        """The proxy that `endpoint` is to be reached through; its own `proxy` wins."""
        found = self.https if endpoint.scheme == "https" else self.http
        if endpoint.proxy is not None or found is None or endpoint.networks is not None:
            return endpoint.proxy
        host = endpoint.host.lower().rstrip(".")
        if _is_loopback(host) or any(rule.covers(host, endpoint.port) for rule in self.direct):
            return None
        return found

    def applied(self, deployment: catalog.Deployment) -> catalog.Deployment:
        """`deployment` with these proxies before its replicas."""
        replicas = tuple(
            structs.replace(
                replica,
                endpoint=structs.replace(replica.endpoint, proxy=self.proxy_for(replica.endpoint)),
            )
            for replica in deployment.replicas
        )
        return structs.replace(deployment, replicas=replicas)


def proxy_of(url: str) -> Proxy:
    """The proxy that a checked URL names. The port left out is the scheme's."""
    parts = urlsplit(url)
    user, password = parts.username, parts.password
    credentials = None if user is None else unquote_to_bytes(user) + b":" + unquote_to_bytes(password or "")
    return Proxy(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=parts.port or (443 if parts.scheme == "https" else 80),
        credentials=credentials,
    )


def proxies_of(environ: Mapping[str, str]) -> ProxyEnvironment:
    """What the environment says about proxies. Raises UnusableProxy."""
    return ProxyEnvironment(
        http=_proxy_in(environ, "HTTP_PROXY"),
        https=_proxy_in(environ, "HTTPS_PROXY"),
        direct=_direct_rules(_value(environ, "NO_PROXY")),
    )


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.lower(), environ.get(name, "")).strip()


def _proxy_in(environ: Mapping[str, str], name: str) -> Proxy | None:
    value = _value(environ, name)
    if not value:
        return None
    url = value if "://" in value else f"http://{value}"
    try:
        return proxy_of(proxy_url(url))
    except PydanticCustomError as error:
        raise UnusableProxy(f"{name} of the environment {error.message()}") from None


def _direct_rules(text: str) -> tuple[DirectRule, ...]:
    entries = re.split(r"[,\s]+", text.lower())
    return tuple(_direct_rule(entry, number) for number, entry in enumerate(entries, 1) if entry)


def _direct_rule(entry: str, number: int) -> DirectRule:
    port = None
    if matched := _PORT.fullmatch(entry):
        entry, port = matched["host"], int(matched["port"])
    if entry == "*":
        return DirectRule(port=port)
    bare = entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry
    try:
        network = _unmapped(ipaddress.ip_network(bare, strict=False))
    except ValueError:
        name = entry.removeprefix("*.").removeprefix(".").rstrip(".")
        if not _NAME.fullmatch(name):
            raise UnusableProxy(
                f"NO_PROXY of the environment: entry {number} must be *, a host name, an address or a network"
            ) from None
        return DirectRule(name=name, port=port)
    return DirectRule(network=network, port=port)


def _address(host: str) -> IpAddress | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _unmapped(network: IpNetwork) -> IpNetwork:
    """A single IPv4-mapped address as the IPv4 address that it is, since hosts are read so too."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return ipaddress.ip_network(mapped) if mapped is not None and network.num_addresses == 1 else network


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address is not None else host == "localhost" or host.endswith(".localhost")
