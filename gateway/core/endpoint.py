"""Where bytes go: the address of one upstream and what must hold for a connection to it."""

from ipaddress import IPv4Network, IPv6Network

import msgspec

IpNetwork = IPv4Network | IPv6Network


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one exchange, in seconds. `total_seconds` spans from send() to the last byte of the body."""

    connect_seconds: float = 5.0
    first_byte_seconds: float = 120.0
    between_bytes_seconds: float = 60.0
    total_seconds: float = 600.0


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files: a private CA, and a client certificate with its key. Verification is always on."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """One upstream server. Hashable (at the price of a field read): it is the key of its connection pool.

    `networks`: the resolved address must lie in one of them before a connection is made; None allows any.
    `proxy`: URL of a forward proxy; only the aiohttp client speaks through one.
    """

    scheme: str
    host: str
    port: int
    networks: tuple[IpNetwork, ...] | None = None
    tls: TlsFiles = TlsFiles()
    timeouts: Timeouts = Timeouts()
    max_connections: int = 1024
    idle_seconds: float = 60.0
    proxy: str | None = None

    @property
    def authority(self) -> str:
        """Value of the Host header: the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"
