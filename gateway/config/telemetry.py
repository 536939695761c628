"""Schema of `telemetry`: what goes to collectors, and the values that its exporter takes."""

import socket
import uuid
from decimal import Decimal
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import structs
from pydantic import Field

from gateway import __version__
from gateway.config.catalogue import Tls
from gateway.config.endpoints import endpoint_at
from gateway.config.kinds import (
    AllowBlank,
    AnyHeaderName,
    Count,
    HeaderValue,
    Name,
    Probability,
    Seconds,
    Section,
    Text,
)
from gateway.config.proxies import ProxyEnvironment
from gateway.config.urls import CollectorUrl, ProxyUrl
from gateway.core.endpoint import Timeouts
from gateway.core.heads import request_head
from gateway.metrics.tracing.settings import TraceSettings

# Most servers keep a connection for longer than that.
_IDLE_SECONDS = 15.0


class Traces(Section):
    endpoint: CollectorUrl = Field(
        description="URL that takes OTLP over HTTP as protobuf, path included: "
        "`http://collector:4318/v1/traces`"
    )
    headers: Annotated[dict[AnyHeaderName, HeaderValue], AllowBlank] = Field(
        default={}, description='headers of each request to it, such as `authorization: "${OTLP_TOKEN}"`'
    )
    sample_ratio: Probability = Field(
        default=Decimal(1),
        description="share of the traces that begin here and are recorded; a request with a `traceparent` is "
        "recorded if its caller records it",
    )
    service_name: Text = Field(default="tollway", description="`service.name` of the spans")
    resource: Annotated[dict[Name, Text], AllowBlank] = Field(
        default={},
        description="further attributes of the service, such as `deployment.environment.name: production`",
    )
    timeout_seconds: Seconds = Field(
        default=10.0, description="for one request to the collector, from its beginning to its end, seconds"
    )
    interval_seconds: Seconds = Field(
        default=2.0, description="how long a span may wait before it is sent, seconds"
    )
    queue_spans: Count = Field(
        default=4096,
        description="most spans of a worker that may wait for the collector, with about 4 KB each; further "
        "ones are dropped and counted",
    )
    tls: Tls = Field(default=Tls(), description="private CA and client certificate")
    proxy: ProxyUrl | None = Field(
        default=None,
        description="forward proxy that tunnels to it by CONNECT; left out: as `server.proxy_from_env` says",
    )


class Telemetry(Section):
    traces: Traces | None = Field(
        default=None, description="spans of requests, sent to a collector by OTLP; left out: there are none"
    )


def trace_settings(given: Traces, proxies: ProxyEnvironment) -> TraceSettings:
    """What the exporter takes. Each call names another instance of the service."""
    seconds = given.timeout_seconds
    endpoint = endpoint_at(given.endpoint, given.tls, given.proxy)
    endpoint = structs.replace(
        endpoint,
        timeouts=Timeouts(connect_seconds=seconds, total_seconds=seconds),
        idle_seconds=_IDLE_SECONDS,
        proxy=proxies.proxy_for(endpoint),
    )
    target = urlsplit(given.endpoint).path.encode("ascii")
    return TraceSettings(
        head=request_head(endpoint, b"POST", target, _headers(given)),
        sample_ratio=float(given.sample_ratio),
        resource={
            "service.name": given.service_name,
            "service.version": __version__,
            "service.instance.id": str(uuid.uuid4()),
            "host.name": socket.gethostname(),
            **given.resource,
        },
        interval_seconds=given.interval_seconds,
        queue_spans=given.queue_spans,
    )


def _headers(given: Traces) -> list[tuple[bytes, bytes]]:
    headers = {
        "content-type": "application/x-protobuf",
        "content-encoding": "gzip",
        "user-agent": f"tollway/{__version__}",
        **{name: value.get_secret_value() for name, value in given.headers.items()},
    }
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
