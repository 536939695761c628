"""Where bytes go: the address of one upstream and what must hold for a connection to it."""

from ipaddress import IPv4Network, IPv6Network

import msgspec

IpNetwork = IPv4Network | IPv6Network


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one exchange, in seconds.

    A stream is bounded by `first_byte_seconds` and `between_bytes_seconds`, an answer in one piece by
    `total_seconds` alone, from send() to the last byte of the body.
    """

    connect_seconds: float = 5.0
    first_byte_seconds: float = 120.0
    between_bytes_seconds: float = 300.0
    total_seconds: float = 600.0


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files: a private CA, and a client certificate with its key. Verification is always on."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """A forward proxy that opens tunnels by CONNECT. `scheme` is https for TLS to the proxy itself.

    `credentials` is `user:password` of its URL, percent-decoded. It is never shown.
    """

    scheme: str
    host: str
    port: int
    credentials: bytes | None = None

    @property
    def authority(self) -> str:
        """`host:port`, for messages and for people."""
        return host_and_port(self.host, self.port)

    def __repr__(self) -> str:
        hidden = "" if self.credentials is None else "...@"
        return f"Proxy({self.scheme}://{hidden}{self.authority})"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """One upstream server. Hashable (at the price of a field read): it is the key of its connection pool.

    `networks`: the resolved address must lie in one of them before a connection is made; None allows any.
    `proxy`: what it is reached through. The address behind a proxy cannot be checked, so with `networks` too
    nothing is ever sent.
    """

    scheme: str
    host: str
    port: int
    networks: tuple[IpNetwork, ...] | None = None
    tls: TlsFiles = TlsFiles()
    timeouts: Timeouts = Timeouts()
    max_connections: int = 1024
    idle_seconds: float = 60.0
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """Value of the Host header: the port is left out where it is the scheme's own."""
        default = 443 if self.scheme == "https" else 80
        return bracketed(self.host) if self.port == default else host_and_port(self.host, self.port)


def host_and_port(host: str, port: int) -> str:
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """`host` as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
