"""The kinds of address that a setting can have: URLs, networks, hosts, and where state and ledger are."""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from gateway.config.kinds import VISIBLE_ASCII, nonempty, refusal


def _split(value: str) -> SplitResult:
    if not VISIBLE_ASCII.fullmatch(value):
        raise refusal("must be a URL in ASCII without spaces")
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises where the port is no number or out of range
    except ValueError:
        raise refusal("is not a URL: look at the host and the port") from None
    return parts


def _http_url(value: str) -> str:
    return _plain_url(value, "https://host/v1", "api_key")


def _collector_url(value: str) -> str:
    url = _plain_url(value, "http://collector:4318/v1/traces", "headers")
    if not urlsplit(url).path:
        raise refusal("must name the path too, which is most often /v1/traces")
    return url


def _plain_url(value: str, example: str, credentials: str) -> str:
    """`value` without a slash at its end. `credentials` is the setting that they belong into."""
    parts = _split(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise refusal(f"must be a URL such as {example}")
    if parts.username is not None or parts.password is not None:
        raise refusal(f"must not carry a user name or password: use {credentials}")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise refusal("must not carry a query or a fragment")
    if parts.port == 0:
        raise refusal("must not name port 0")
    return value.rstrip("/")


def proxy_url(value: str) -> str:
    """`value`, which is the URL of a forward proxy. Raises PydanticCustomError when it is not."""
    parts = _split(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise refusal("must be the URL of a forward proxy such as http://proxy:3128")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise refusal("must be a proxy's URL without path or query")
    if parts.port == 0:
        raise refusal("must not name port 0")
    if ":" in unquote(parts.username or ""):
        raise refusal("must not have a colon in the user name: Basic credentials cannot carry it")
    return value


def _cidr(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise refusal("must be a network such as 10.0.0.0/8 or fd00::/8") from None
    raise refusal("must be a network: its host bits must be zero", f"did you mean {wider}?")


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", value, re.ASCII):
        raise refusal("must be an address or a host name such as 127.0.0.1")
    return value


def _authority(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdecimal() or not 1 <= int(port[:6]) <= 65_535 or not host:
        raise refusal("must be host:port such as llama.svc:8000")
    _host(host)
    return value


def _url_path(value: str) -> str:
    if not value.startswith("/") or not VISIBLE_ASCII.fullmatch(value):
        raise refusal("must be a path such as /health")
    return value


HttpUrl = Annotated[str, BeforeValidator(nonempty), AfterValidator(_http_url)]
CollectorUrl = Annotated[str, BeforeValidator(nonempty), AfterValidator(_collector_url)]
Cidr = Annotated[str, BeforeValidator(nonempty), AfterValidator(_cidr)]
Host = Annotated[str, BeforeValidator(nonempty), AfterValidator(_host)]
Authority = Annotated[str, BeforeValidator(nonempty), AfterValidator(_authority)]
UrlPath = Annotated[str, BeforeValidator(nonempty), AfterValidator(_url_path)]


class Address(SecretStr):
    """A URL that may carry a password. Its repr shows the scheme only."""

    @property
    def scheme(self) -> str:
        """`redis` of `redis://host/0`; for a bare word such as `memory`, the word."""
        return self.get_secret_value().partition(":")[0]

    def _display(self) -> str:
        return f"{self.scheme}:..." if ":" in self.get_secret_value() else self.get_secret_value()


class ProxyAddress(Address):
    """The URL of a forward proxy. A user name without a password can be a token, so it is secret too."""


class WebhookAddress(Address):
    """The URL of a webhook. Who knows its path may post there, so all of it is secret."""

    def _display(self) -> str:
        return f"{self.scheme}:..."


def _address(check: Callable[[str], Any]) -> AfterValidator:
    def verify(value: Address) -> Address:
        check(value.get_secret_value())
        return value

    return AfterValidator(verify)


def _webhook(value: str) -> None:
    parts = _split(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise refusal("must be the URL of a webhook such as https://hooks.example/services/...")
    if parts.username is not None or parts.fragment:
        raise refusal("must not carry a user name, a password or a fragment")
    if parts.port == 0:
        raise refusal("must not name port 0")


_STATE_SCHEMES: Final = frozenset(
    {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
)


def _state(value: str) -> None:
    if value == "memory":
        return
    parts = _split(value)
    if parts.scheme not in _STATE_SCHEMES or not value.startswith(parts.scheme + "://"):
        raise refusal("must be memory, or a URL such as redis://host:6379/0, rediss://... or unix:///path")
    if not (parts.path.strip("/") if parts.scheme == "unix" else parts.hostname):
        raise refusal("must name " + ("a socket: unix:///path" if parts.scheme == "unix" else "a host"))


def _ledger(value: str) -> None:
    if value.startswith("sqlite:///") and len(value) > len("sqlite:///"):
        return
    parts = _split(value)
    if parts.scheme != "postgresql":
        raise refusal("must be sqlite:///path (sqlite:////path when absolute) or postgresql://user@host/db")
    if not parts.path.strip("/"):
        raise refusal("must name a database: postgresql://user@host/db")


StateUrl = Annotated[Address, BeforeValidator(nonempty), _address(_state)]
LedgerUrl = Annotated[Address, BeforeValidator(nonempty), _address(_ledger)]
ProxyUrl = Annotated[ProxyAddress, BeforeValidator(nonempty), _address(proxy_url)]
WebhookUrl = Annotated[WebhookAddress, BeforeValidator(nonempty), _address(_webhook)]
