"""Names to addresses, and addresses to zones. A connection is made to an address that was checked here."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

import msgspec

from gateway.core.endpoint import Endpoint, IpNetwork
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.addresses import IpAddress, host_port, inside, unwrapped

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
_CACHE_SECONDS = 3.0
_CACHE_NAMES = 1024


class PeerAddress(msgspec.Struct, frozen=True):
    """One place to connect to: the family and the literal socket address, as getaddrinfo gave them."""

    family: int
    sockaddr: SocketAddress

    @property
    def ip(self) -> IpAddress:
        """The address itself, IPv4-mapped IPv6 unwrapped."""
        return unwrapped(self.sockaddr[0])

    @property
    def label(self) -> str:
        """`ip:port`, for people."""
        host, port = self.sockaddr[:2]
        return host_port(host, port)


Lookup = Callable[[str, int], Awaitable[Sequence[PeerAddress]]]


async def system_lookup(host: str, port: int) -> Sequence[PeerAddress]:
    """Addresses by the system's resolver, in its order of preference. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [PeerAddress(int(family), sockaddr) for family, _, _, _, sockaddr in found]  # type: ignore[arg-type]


class Resolver:
    """Looks names up with a cache of a few seconds; simultaneous lookups of one name share one query."""

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._known: dict[tuple[str, int], tuple[float, Sequence[PeerAddress]]] = {}
        self._queries: dict[tuple[str, int], asyncio.Task[Sequence[PeerAddress]]] = {}

    async def addresses(self, endpoint: Endpoint) -> Sequence[PeerAddress]:
        """Where `endpoint` may be reached; see `lookup`."""
        return await self.lookup(endpoint.host, endpoint.port, endpoint.networks)

    async def lookup(
        self, host: str, port: int, networks: Sequence[IpNetwork] | None
    ) -> Sequence[PeerAddress]:
        """Addresses of `host` that lie inside `networks` (None: all of them), at least one.

        Raises UpstreamFailure: CONNECT when the name does not resolve, ZONE when no address is inside.
        """
        found = _literal(host, port) or await self._resolve(host, port)
        if networks is None:
            return found
        allowed = [address for address in found if inside(address.ip, networks)]
        if not allowed:
            seen = ", ".join(str(address.ip) for address in found)
            raise UpstreamFailure(FailureKind.ZONE, f"{host} is at {seen}, outside its zone")
        return allowed

    async def close(self) -> None:
        """Give up running queries; their callers get UpstreamFailure."""
        queries = list(self._queries.values())
        for query in queries:
            query.cancel()
        await asyncio.gather(*queries, return_exceptions=True)

    async def _resolve(self, host: str, port: int) -> Sequence[PeerAddress]:
        key = (host, port)
        loop = asyncio.get_running_loop()
        expires, found = self._known.get(key, (0.0, ()))
        if found and loop.time() < expires:
            return found
        query = self._queries.get(key)
        if query is None:
            query = self._queries[key] = loop.create_task(self._query(key))
            query.add_done_callback(_retrieved)
        try:
            # Shielded: the query belongs to the resolver, because other callers wait for it too.
            return await asyncio.shield(query)
        except asyncio.CancelledError:
            if query.cancelled():
                raise UpstreamFailure(FailureKind.CONNECT, "the client is closed") from None
            raise

    async def _query(self, key: tuple[str, int]) -> Sequence[PeerAddress]:
        host, port = key
        try:
            found = list(dict.fromkeys(await self._lookup(host, port)))
        except (OSError, UnicodeError) as error:
            raise UpstreamFailure(FailureKind.CONNECT, f"cannot resolve {host}: {error}") from error
        finally:
            del self._queries[key]
        if not found:
            raise UpstreamFailure(FailureKind.CONNECT, f"{host} has no address")
        if len(self._known) >= _CACHE_NAMES:
            self._known.clear()
        self._known[key] = (asyncio.get_running_loop().time() + _CACHE_SECONDS, found)
        return found


def is_literal(host: str) -> bool:
    """True for an address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _literal(host: str, port: int) -> Sequence[PeerAddress]:
    """`host` itself when it is an address; a scoped one is left to getaddrinfo, which knows interfaces."""
    if not is_literal(host) or "%" in host:
        return ()
    if ":" in host:
        return (PeerAddress(socket.AF_INET6, (host, port, 0, 0)),)
    return (PeerAddress(socket.AF_INET, (host, port)),)


def _retrieved(query: "asyncio.Task[Sequence[PeerAddress]]") -> None:
    if not query.cancelled():
        query.exception()  # every caller may have gone; the loop must not report it as lost
