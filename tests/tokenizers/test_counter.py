"""Prompts that are counted: by whom, of what they are shown, and what happens where nobody can."""

from collections.abc import Mapping, Sequence

import orjson
import pytest

from gateway.core.call import Call
from gateway.core.catalog import Api, Deployment
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.masking import Masked
from gateway.core.screening import StandIn
from gateway.ports import Headers, UpstreamRequest
from gateway.tokenizers.counter import MOST_COUNTED_BYTES, PAUSE_SECONDS, PromptCounter
from tests.core.builders import ToldClock, candidates_of, chat, deployment, local, parsed, run

PATIENCE_SECONDS = 60.0


class Response:
    peer = "127.0.0.1:9101"
    headers: Headers = ()

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = body

    async def read(self, limit_bytes: int) -> bytes:
        return self._body

    def abort(self) -> None: ...


class Upstream:
    """Answers every question with the same body, or fails."""

    def __init__(self, answer: bytes | Exception = b'{"count": 321}', status: int = 200) -> None:
        self._answer, self._status = answer, status
        self.asked: list[UpstreamRequest] = []

    async def send(self, request: UpstreamRequest) -> Response:
        self.asked.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        return Response(self._status, self._answer)

    @property
    def bodies(self) -> list[bytes]:
        return [request.body for request in self.asked]


def counts(
    upstream: Upstream,
    *use: Deployment,
    call: Call | None = None,
    stand_in: StandIn | None = None,
    clock: ToldClock | None = None,
) -> Mapping[str, int]:
    counter = PromptCounter(upstream, clock or ToldClock(), PATIENCE_SECONDS)  # type: ignore[arg-type]  # a part of it
    return run(counter.count(call or parsed(chat("word " * 900)), stand_in, candidates_of(*use)))


def test_a_server_is_asked_what_its_template_makes_of_the_prompt() -> None:
    upstream = Upstream()
    item = local(headers=((b"authorization", b"Bearer x"),))
    tools = [{"type": "function", "function": {"name": "f"}}]
    call = parsed(chat("hello", tools=tools, temperature=0.5, max_tokens=4))
    assert counts(upstream, item, call=call) == {"llama": 321}
    (asked,) = upstream.asked
    assert b"POST /tokenize HTTP/1.1" in asked.head.block
    assert b"authorization: Bearer x" in asked.head.block
    assert orjson.loads(asked.body) == {
        "model": item.model,
        "messages": [{"role": "user", "content": "hello"}],
        "tools": tools,
    }


def test_openais_prompts_are_counted_here_and_leave_for_nobody() -> None:
    upstream = Upstream()
    (tokens,) = counts(upstream, deployment()).values()
    assert 900 <= tokens <= 960
    assert upstream.asked == []


def test_whoever_would_get_a_stand_in_counts_the_stand_in() -> None:
    masked = Masked(
        rest=b'{"messages":[{"role":"user","content":"MASKED"}]}', body={}, originals={}, nested=False
    )
    upstream, stand_in = Upstream(), StandIn(masked, frozenset({"home"}), "confidential")
    counts(upstream, local("away"), local("home", zone="home"), stand_in=stand_in)
    assert [b"MASKED" in body for body in upstream.bodies] == [True, False]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (UpstreamFailure(FailureKind.CONNECT, "refused"), 200),
        (b'{"detail":"Not Found"}', 404),
        (b"<html>", 200),
        (b'{"count": "many"}', 200),
        (b"[]", 200),
    ],
)
def test_who_cannot_tell_is_not_asked_again_for_a_minute(answer: bytes | Exception, status: int) -> None:
    clock, upstream = ToldClock(), Upstream(answer, status)
    counter = PromptCounter(upstream, clock, PATIENCE_SECONDS)  # type: ignore[arg-type]  # a part of it
    call, candidates = parsed(chat("word " * 900)), candidates_of(local())
    assert run(counter.count(call, None, candidates)) == {}
    assert run(counter.count(call, None, candidates)) == {}
    assert len(upstream.asked) == 1
    clock.forward(PAUSE_SECONDS)
    assert run(counter.count(call, None, candidates)) == {}
    assert len(upstream.asked) == 2


def test_tokens_that_are_listed_are_counted() -> None:
    assert counts(Upstream(b'{"tokens": [1, 2, 3]}'), local()) == {"llama": 3}


NOT_COUNTED: Sequence[Call] = (
    parsed(chat("x" * (MOST_COUNTED_BYTES + 1))),
    parsed({"model": "m", "prompt": ["a", "b"]}, Api.COMPLETIONS),
    parsed({"model": "m", "input": "a"}, Api.EMBEDDINGS),
    parsed(chat([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90}}])),
)


@pytest.mark.parametrize("call", NOT_COUNTED)
def test_what_no_tokenizer_could_count_in_time_is_not_counted(call: Call) -> None:
    upstream = Upstream()
    assert counts(upstream, local(), deployment(), call=call) == {}
    assert upstream.asked == []


def test_nobody_is_asked_while_its_replicas_are_down() -> None:
    upstream, (candidate,) = Upstream(), candidates_of(local())
    candidate.replica_set.replicas[0].is_up = False
    counter = PromptCounter(upstream, ToldClock(), PATIENCE_SECONDS)  # type: ignore[arg-type]  # a part of it
    assert run(counter.count(parsed(chat("word " * 900)), None, [candidate])) == {}
    assert upstream.asked == []
