"""From a URL of the file, and what it says beside it, to the endpoint that the client for upstreams knows."""

from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.catalogue import Tls
from gateway.config.proxies import proxy_of
from gateway.config.urls import ProxyAddress
from gateway.core.endpoint import Endpoint, TlsFiles


def endpoint_at(url: str, tls: Tls, proxy: ProxyAddress | None) -> Endpoint:
    """The server at `url`, which the schema has checked. The port left out is the scheme's."""
    parts = urlsplit(url)
    return Endpoint(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=parts.port or (443 if parts.scheme == "https" else 80),
        tls=TlsFiles(
            ca_file=_text(tls.ca_file), cert_file=_text(tls.cert_file), key_file=_text(tls.key_file)
        ),
        proxy=None if proxy is None else proxy_of(proxy.get_secret_value()),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
