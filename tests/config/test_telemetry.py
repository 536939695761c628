"""What the exporter of spans is given, from what the file says."""

from typing import Any

import pytest

from gateway.config.proxies import ProxyEnvironment, proxies_of
from gateway.config.telemetry import Traces, trace_settings
from gateway.metrics.tracing.settings import TraceSettings

URL = "https://otel.example.com/otlp/v1/traces"


NO_PROXIES = ProxyEnvironment()


def built(proxies: ProxyEnvironment = NO_PROXIES, **given: Any) -> TraceSettings:
    return trace_settings(Traces.model_validate({"endpoint": URL, **given}), proxies)


def test_the_endpoint_is_asked_as_it_is_written() -> None:
    head = built().head
    assert (head.endpoint.host, head.endpoint.port, head.endpoint.scheme) == (
        "otel.example.com",
        443,
        "https",
    )
    assert head.block.startswith(b"POST /otlp/v1/traces HTTP/1.1\r\nhost: otel.example.com\r\n")


def test_its_time_out_bounds_the_whole_request() -> None:
    timeouts = built(timeout_seconds="3").head.endpoint.timeouts
    assert (timeouts.connect_seconds, timeouts.total_seconds) == (3.0, 3.0)


def test_its_files_and_its_proxy_are_those_of_the_file() -> None:
    endpoint = built(tls={"ca_file": "ca.pem"}, proxy="http://user:word@proxy:3128").head.endpoint
    assert endpoint.tls.ca_file == "ca.pem"
    assert endpoint.proxy is not None
    assert (endpoint.proxy.authority, endpoint.proxy.credentials) == ("proxy:3128", b"user:word")


@pytest.mark.parametrize(("no_proxy", "proxied"), [("", True), ("example.com", False)])
def test_the_environment_s_proxy_holds_for_it_as_for_deployments(no_proxy: str, proxied: bool) -> None:
    proxies = proxies_of({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy})
    assert (built(proxies).head.endpoint.proxy is not None) is proxied


def test_a_header_is_sent_and_never_shown() -> None:
    traces = Traces.model_validate({"endpoint": URL, "headers": {"Authorization": "Bearer hunter2"}})
    head = trace_settings(traces, NO_PROXIES).head
    assert b"\r\nauthorization: Bearer hunter2\r\n" in head.block
    assert "hunter2" not in repr(traces) + repr(head)


def test_each_process_is_an_instance_of_its_own() -> None:
    first, second = built(), built()
    assert first.resource["service.name"] == second.resource["service.name"] == "tollway"
    assert first.resource["service.instance.id"] != second.resource["service.instance.id"]
