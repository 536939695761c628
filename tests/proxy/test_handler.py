"""The data port's own answers: nothing of a request that they repeat can end its line."""

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from gateway.core.errors import GatewayError
from gateway.core.refused_request import KnownRequest
from gateway.ports import Inbound
from gateway.proxy.handler import DataPlane
from tests.core.builders import run


class Unanswered:
    """Hears what was refused outside of the pipeline."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def refused(self, error: GatewayError, known: KnownRequest, inbound: Inbound) -> GatewayError:
        assert known.request_id == "r"
        self.codes.append(error.code)
        return error


class Preflight:
    """A preflight request whose asked-for headers are `asked`. `lines` is what it was answered with."""

    method = "OPTIONS"
    started = disconnected = False

    def __init__(self, asked: str, path: str) -> None:
        self.path = path
        self.headers = {b"access-control-request-headers": asked.encode("latin-1")}
        self.answers: list[tuple[int, bytes, bytes]] = []

    async def answer(self, status: int, lines: bytes, body: bytes) -> None:
        self.answers.append((status, lines, body))


def answer_to(
    asked: str, unanswered: Unanswered, path: str = "/v1/chat/completions"
) -> tuple[int, bytes, bytes]:
    exchange: Any = Preflight(asked, path)
    pipeline: Any = SimpleNamespace(unanswered=unanswered)
    run(DataPlane(pipeline, lambda: "r").handle(exchange))
    (found,) = exchange.answers
    return found


def test_a_preflight_is_told_that_it_may_send_what_it_asked_for() -> None:
    unanswered = Unanswered()
    status, lines, _ = answer_to("x-a, \xfc", unanswered)
    assert status == 204
    assert unanswered.codes == []
    assert lines.split(b"\r\n")[1] == b"access-control-allow-headers: x-a, \xfc"


@pytest.mark.parametrize("asked", ["a\r\nset-cookie: b", "a\nb", "a\rb", "\0"])
def test_what_is_repeated_is_one_line_or_a_defect(asked: str) -> None:
    unanswered = Unanswered()
    status, lines, body = answer_to(asked, unanswered)
    assert status == 500
    assert unanswered.codes == ["internal_error"]
    assert lines == b"content-type: application/json\r\nx-request-id: r\r\nx-should-retry: true\r\n"
    assert "request id r" in orjson.loads(body)["error"]["message"]


def test_an_address_that_cannot_be_decoded_is_a_refusal_like_others() -> None:
    unanswered = Unanswered()
    status, _, body = answer_to("x-a", unanswered, "/openai/deployments/%ff/chat/completions")
    assert (status, orjson.loads(body)["error"]["code"]) == (404, "unknown_url")
    assert unanswered.codes == ["unknown_url"]
