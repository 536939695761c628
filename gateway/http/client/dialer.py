"""A new connection: resolve, check the zone, TCP to exactly the checked address, TLS to the name.

With a proxy it is the proxy that is resolved and connected to, by TLS if its URL says so. A tunnel to the
upstream follows, and inside of it TLS with the upstream as ever: the proxy sees no more than ciphertext.
"""

import asyncio
import ssl
from collections.abc import Sequence

from gateway.core.endpoint import Endpoint, TlsFiles
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.addresses import unwrapped
from gateway.http.client.connection import Connection, ConnectionOwner
from gateway.http.client.resolver import PeerAddress, Resolver
from gateway.http.client.tls import TlsContexts
from gateway.http.client.tunnel import open_tunnel

# A proxy's certificate is checked against the system's authorities. The deployment's own files are for its
# upstream: its client certificate must not be shown to a proxy.
_PROXY_TLS = TlsFiles()


class Dialer:
    """Opens connections for a pool. The caller bounds the time; cancelling closes the socket at once."""

    def __init__(self, resolver: Resolver, contexts: TlsContexts) -> None:
        self._resolver = resolver
        self._contexts = contexts

    async def dial(self, pool: ConnectionOwner, deadline: float) -> Connection:
        """A connection of `pool`, whose slot the caller holds. Raises UpstreamFailure: CONNECT or ZONE.

        Addresses are tried in order; each gets an even share of the time that is left until `deadline`.
        """
        addresses = await self._addresses(pool.endpoint)
        loop = asyncio.get_running_loop()
        failures = []
        is_refused = pool.endpoint.proxy is None  # else it is the proxy that refuses
        for index, address in enumerate(addresses):
            left = len(addresses) - index
            share = (deadline - loop.time()) / left
            try:
                # The last one has no bound of its own: then it is the caller's deadline that ends it.
                async with asyncio.timeout(share if left > 1 else None):
                    return await self._open(pool, address)
            except TimeoutError:
                is_refused = False
                failures.append(f"{address.label}: no answer in {share:.3g} s")
            except UpstreamFailure as failure:
                is_refused &= failure.refused
                failures.append(failure.detail)
                if failure.kind is FailureKind.ZONE:
                    raise
        proxy = pool.endpoint.proxy
        through = "" if proxy is None else f"through the proxy {proxy.authority}: "
        raise UpstreamFailure(FailureKind.CONNECT, through + "; ".join(failures), refused=is_refused)

    async def _addresses(self, endpoint: Endpoint) -> Sequence[PeerAddress]:
        proxy = endpoint.proxy
        if proxy is None:
            return await self._resolver.addresses(endpoint)
        return await self._resolver.lookup(proxy.host, proxy.port, None)

    async def _open(self, pool: ConnectionOwner, address: PeerAddress) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(pool, address.label, loop)
        try:
            # The host is a literal, so the loop asks no resolver again.
            host, port = address.sockaddr[:2]
            await loop.create_connection(lambda: connection, host, port, family=address.family)
            pool.connections.add(connection)
            _check_peer(connection.transport, address)
            await self._reach(connection, pool.endpoint)
        except BaseException as error:
            if connection.connected:
                connection.close()
            pool.connections.discard(connection)  # a transport lost in a TLS handshake is never reported
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                detail = f"{address.label}: {error.strerror or error}"
                raise UpstreamFailure(FailureKind.CONNECT, detail, refused=True) from error
            raise
        connection.holds_slot = True
        return connection

    async def _reach(self, connection: Connection, endpoint: Endpoint) -> None:
        """From a TCP connection, to the proxy if there is one, to where the request can be written."""
        proxy, seconds = endpoint.proxy, endpoint.timeouts.connect_seconds
        if proxy is not None:
            if proxy.scheme == "https":
                await self._start_tls(connection, proxy.host, _PROXY_TLS, seconds)
            await open_tunnel(connection.transport, endpoint, proxy)
            connection.transport.set_protocol(connection)
            connection.transport.resume_reading()
        if endpoint.scheme == "https":
            await self._start_tls(connection, endpoint.host, endpoint.tls, seconds)

    async def _start_tls(self, connection: Connection, host: str, files: TlsFiles, seconds: float) -> None:
        context = self._contexts.context(files)
        try:
            secured = await asyncio.get_running_loop().start_tls(
                connection.transport,
                connection,
                context,
                server_hostname=host,
                ssl_handshake_timeout=seconds + 1,  # ours is first
            )
        except ssl.SSLCertVerificationError as error:
            detail = f"certificate of {host} refused: {error.verify_message}"
            raise UpstreamFailure(FailureKind.CONNECT, detail) from error
        except (ssl.SSLError, OSError) as error:
            raise UpstreamFailure(FailureKind.CONNECT, f"TLS with {host} failed: {error}") from error
        if secured is None:
            raise UpstreamFailure(FailureKind.CONNECT, f"{host} closed during the TLS handshake")
        connection.connection_made(secured)


def _check_peer(transport: asyncio.Transport, address: PeerAddress) -> None:
    """Raises UpstreamFailure(ZONE): 0.0.0.0 and the like are not where a connection to them ends."""
    peer = transport.get_extra_info("peername")
    if peer is None:
        raise UpstreamFailure(FailureKind.CONNECT, f"{address.label}: closed at once")
    if unwrapped(peer[0]) != address.ip:
        raise UpstreamFailure(FailureKind.ZONE, f"asked for {address.ip}, reached {peer[0]}")
