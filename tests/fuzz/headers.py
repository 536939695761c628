"""Headers by which a client steers the gateway, from the head of a request to what is sent on."""

from collections.abc import Sequence
from contextlib import suppress
from zoneinfo import ZoneInfo

from gateway.core.control_headers import tags_in, wants_cost_event
from gateway.core.errors import GatewayError, InvalidRequest
from gateway.core.heads import one_line
from gateway.core.tenancy import Tenancy
from gateway.core.trace_context import child_lines, parent_in
from gateway.http.server.limits import ServerLimits
from gateway.proxy.auth import Authenticator
from tests.fuzz.target import Target
from tests.http.server.test_request_parser import Reading

TOKENS = (
    *(b"x-tollway-tags: ", b"x-tollway-cost-event: ", b"x-tollway-privacy: ", b"x-tollway-feature: "),
    *(b"x-tollway-session: ", b"authorization: Bearer ", b"api-key: ", b"traceparent: ", b"tracestate: "),
    *(
        b"idempotency-key: ",
        b"\r\n",
        b"\n",
        b"\r",
        b",",
        b"=",
        b" ",
        b"\t",
        b"\xff",
        b"\xc3\xa9",
        b"true",
        b"a=b",
    ),
    *(
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"-",
        b"0" * 32,
        b"f" * 16,
        b"\xe2\x80\xa8",
    ),
)
TENANCY = Tenancy(keys={}, pepper=b"pepper", time_zone=ZoneInfo("UTC"))


def check(data: bytes, _cuts: Sequence[int]) -> None:
    """Only the errors for clients. Tags survive being written again, and no header can add a line to ours."""
    reading = Reading([b"GET / HTTP/1.1\r\nhost: a\r\n" + data + b"\r\n\r\n"], ServerLimits())
    for exchange in reading.taken:
        _check(exchange.headers)


def _check(headers: dict[bytes, bytes]) -> None:
    try:
        tags = tags_in(headers.get(b"x-tollway-tags", b""))
        assert tags_in(",".join(f"{name}={value}" for name, value in tags.items()).encode()) == tags
    except InvalidRequest as error:
        assert error.status == 400
    try:
        wants_cost_event(headers)
    except InvalidRequest as error:
        assert error.status == 400
    try:
        Authenticator(TENANCY).authenticate(headers, 0.0)
    except GatewayError as error:
        assert error.status in (400, 401, 403)
    parent = parent_in(headers)
    assert parent is None or parent_in({b"traceparent": parent.header()}) == parent
    for digest_key in (None, b"of a key"):
        lines = bytes(child_lines(headers, "request", "attempt", digest_key))
        names = [line.partition(b": ")[0] for line in lines.split(b"\r\n") if line]
        assert names in ([], [b"traceparent"], [b"traceparent", b"tracestate"])
        assert b"\n" not in lines.replace(b"\r\n", b"")
    for value in headers.values():
        with suppress(ValueError):
            assert len(one_line(value).splitlines()) < 2


CONTROL_HEADERS = Target("control_headers", check, TOKENS, (4_000, 60, 0))
