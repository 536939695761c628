"""What a handler does wrong must never look right on the wire; and what it says, comes out as it should."""

import pytest
from structlog.testing import capture_logs

from tests.http.server.server_stage import Stage, get, post


@pytest.mark.parametrize("path", ["/raise", "/return", "/headless"])
async def test_a_handler_without_an_answer_cuts_the_connection(stage: Stage, path: str) -> None:
    async with stage.client() as client:
        with capture_logs() as logs:
            await client.send(get(path) + get("/smuggled"))
            assert await client.rest() == b""
    assert stage.handlers.served == [("GET", path)]
    if path == "/raise":
        [line] = logs
        assert line["event"] == "handler.defect"
        assert line["kind"] == "RuntimeError"
        assert "prompt" not in str(line)


@pytest.mark.parametrize("path", ["/half", "/half-raise"])
async def test_half_an_answer_does_not_look_whole(stage: Stage, path: str) -> None:
    async with stage.client() as client:
        with capture_logs():
            await client.send(get(path))
            with pytest.raises(EOFError):
                await client.answer()


@pytest.mark.parametrize("path", ["/half", "/half-raise"])
async def test_half_an_answer_does_not_look_whole_in_http_1_0(stage: Stage, path: str) -> None:
    """There the end of the connection is the end of the answer, so it has to be a reset."""
    async with stage.client() as client:
        with capture_logs():
            await client.send(get(path, version="1.0"))
            with pytest.raises(ConnectionResetError):
                await client.answer()


@pytest.mark.parametrize("how", ["twice", "start", "late"])
async def test_a_second_answer_never_reaches_the_wire(stage: Stage, how: str) -> None:
    async with stage.client() as client:
        await client.send(get(f"/misuse/{how}") + get("/next"))
        assert (await client.answer()).body == b"first"
        assert (await client.answer()).body == b"/next"
    assert stage.handlers.raised == [RuntimeError]


@pytest.mark.parametrize("how", ["send", "end"])
async def test_data_before_a_head_never_reaches_the_wire(stage: Stage, how: str) -> None:
    assert (await stage.exchange(get(f"/misuse/{how}"))).body == b"fine"
    assert stage.handlers.raised == [RuntimeError]


@pytest.mark.parametrize("path", ["/inject", "/inject/stream"])
@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\rb", b"\0", b"\r\n\r\n<script>", b"a\n\r"])
async def test_a_header_cannot_carry_another(stage: Stage, path: str, value: bytes) -> None:
    answer = await stage.exchange(post(path, value))
    assert answer.status == 500
    assert answer.body == b"refused"
    assert stage.handlers.raised == [ValueError]


@pytest.mark.parametrize("path", ["/inject", "/inject/stream"])
@pytest.mark.parametrize("value", [b"", b"plain", "ü".encode("latin-1"), b"a\tb"])
async def test_other_values_go_as_they_are(stage: Stage, path: str, value: bytes) -> None:
    async with stage.client() as client:
        await client.send(post(path, value))
        received = await client.receive()
    assert b"\r\nx-given: " + value + b"\r\n" in received
    assert stage.handlers.raised == []
