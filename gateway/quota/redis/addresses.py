"""Which servers a `state` URL names, and how to reach them.

redis://[user[:password]@]host[:port][/database]     rediss:// the same over TLS
unix:///path[?db=N]
redis+sentinel://host[:port][,host[:port]...]/service[/database]     rediss+sentinel://
redis+cluster://host[:port][,host[:port]...]                         rediss+cluster://
"""

import ssl
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

REDIS_PORT = 6379
SENTINEL_PORT = 26379

Endpoint = tuple[str, int]


class RedisTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed URL. Exactly one of `path` and `endpoints` is set; `service` names a Sentinel's master."""

    endpoints: tuple[Endpoint, ...] = ()
    path: str | None = None
    service: str | None = None
    cluster: bool = False
    tls: bool = False
    user: str | None = None
    password: str | None = None
    database: int = 0

    def __repr__(self) -> str:
        return f"RedisTarget({self.shown})"

    @property
    def shown(self) -> str:
        """Where it points, without credentials."""
        return self.path or ",".join(f"{host}:{port}" for host, port in self.endpoints)

    def tls_context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.tls else None


def parse_target(url: str) -> RedisTarget:
    """Raises ValueError for what is no such URL."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in {"redis", "rediss", "unix"} or kind not in {"", "sentinel", "cluster"}:
        raise ValueError("not a Redis URL")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    account = RedisTarget(user=unquote(user) or None, password=unquote(password) or None)
    if scheme == "unix":
        database = parse_qs(parts.query).get("db", ["0"])[0]
        return msgspec.structs.replace(account, path=unquote(parts.path), database=int(database))
    path = [part for part in parts.path.split("/") if part]
    service = None
    if kind == "sentinel":
        if not path:
            raise ValueError("a Sentinel URL must name its service: redis+sentinel://host:26379/mymaster")
        service = unquote(path.pop(0))
    port = SENTINEL_PORT if service else REDIS_PORT
    return msgspec.structs.replace(
        account,
        endpoints=tuple(_endpoint(host, port) for host in hosts.split(",")),
        service=service,
        cluster=kind == "cluster",
        tls=scheme == "rediss",
        database=int(path[0]) if path else 0,
    )


def _endpoint(text: str, port: int) -> Endpoint:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a Redis URL must name a host")
    return parts.hostname, parts.port or port
