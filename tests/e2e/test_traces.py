"""Traces at a real collector: which spans a request has, what they say, and whose children they are."""

import asyncio
import importlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.core.trace_context import span_id_of, trace_id_of
from gateway.simulators.knobs import ErrorKind, Knobs
from tests.e2e.harness import APP_KEY, CARD, PATIENCE_SECONDS, Harness, chat, running, until, unused_url
from tests.metrics.collector import CLIENT, SERVER, Collector, SeenSpan, collecting

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
HEADER = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def traces(url: str, **more: Any) -> dict[str, Any]:
    return {"telemetry": {"traces": {"endpoint": url, "interval_seconds": "0.01", **more}}}


@asynccontextmanager
async def traced(
    folder: Path, changes: Mapping[str, Any] = {}, more: Mapping[str, Any] = {}, **knobs: Any
) -> AsyncIterator[tuple[Harness, Collector]]:
    async with (
        collecting() as collector,
        running(folder, {**traces(collector.url, **more), **changes}, **knobs) as harness,
    ):
        yield harness, collector


async def spans_of(collector: Collector, attempts: int = 1) -> tuple[SeenSpan, list[SeenSpan]]:
    """The span of the only request, and those of its attempts in order."""
    await until(lambda: len(collector.spans) >= attempts + 1)
    [request] = collector.of_kind(SERVER)
    found = sorted(collector.of_kind(CLIENT), key=lambda span: span.span.start_time_unix_nano)
    assert len(found) == attempts
    return request, found


# --- what spans say ---


async def test_a_request_and_its_attempt_are_two_spans_of_one_trace(tmp_path: Path) -> None:
    async with traced(tmp_path) as (harness, collector):
        response = await harness.post(chat())
        request, [attempt] = await spans_of(collector)
        request_id = response.headers["x-request-id"]
        assert (request.trace_id, request.span_id) == (
            trace_id_of(request_id).decode(),
            span_id_of(request_id).decode(),
        )
        assert request.parent_id == ""
        assert (attempt.trace_id, attempt.parent_id) == (request.trace_id, request.span_id)
        [seen] = harness.attempts()
        assert seen.headers["traceparent"] == f"00-{attempt.trace_id}-{attempt.span_id}-03"
        assert request.span.start_time_unix_nano <= attempt.span.start_time_unix_nano
        assert attempt.span.end_time_unix_nano <= request.span.end_time_unix_nano


async def test_spans_have_the_names_of_the_conventions_and_the_ledger_s_numbers(tmp_path: Path) -> None:
    async with traced(tmp_path) as (harness, collector):
        response = await harness.post(chat(max_tokens=20))
        request, [attempt] = await spans_of(collector)
        [row] = await harness.rows()
        host, _, port = row["address"].rpartition(":")
        assert attempt.name == "chat gpt-4o-2024-11-20"
        assert attempt.attributes == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o-2024-11-20",
            "gen_ai.request.stream": False,
            "gen_ai.request.max_tokens": 20,
            "gen_ai.response.model": row["reported_model"],
            "gen_ai.response.finish_reasons": [row["finish_reason"]],
            "gen_ai.usage.input_tokens": row["input_tokens"],
            "gen_ai.usage.output_tokens": row["output_tokens"],
            "openai.response.service_tier": row["service_tier"],
            "server.address": "127.0.0.1",
            "server.port": int(port),
            "network.peer.address": host,
            "network.peer.port": int(port),
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "tollway.request_id": row["request_id"],
            "tollway.attempt_id": row["attempt_id"],
            "tollway.upstream_request_id": row["upstream_request_id"],
            "tollway.team": "product",
            "tollway.feature": "search",
            "tollway.key": "app",
            "tollway.model": "gpt-4o",
            "tollway.deployment": "gpt-4o",
            "tollway.replica": row["replica"],
            "tollway.zone": "external",
            "tollway.privacy": "internal",
            "tollway.decision": row["decision"],
            "tollway.outcome": "success",
            "tollway.usage_estimated": False,
            "tollway.cost_usd": row["cost_nano_usd"] / 10**9,
        }
        assert request.name == "POST /v1/chat/completions"
        assert request.attributes == {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "url.scheme": "http",
            "tollway.request_id": response.headers["x-request-id"],
            "tollway.team": "product",
            "tollway.feature": "search",
            "tollway.key": "app",
            "tollway.model": "gpt-4o",
            "tollway.deployment": "gpt-4o",
            "tollway.zone": "external",
            "tollway.privacy": "internal",
            "tollway.decision": row["decision"],
            "tollway.outcome": "success",
            "tollway.attempts": 1,
            "tollway.cost_usd": row["cost_nano_usd"] / 10**9,
        }
        assert not request.is_error
        assert not attempt.is_error


async def test_a_stream_has_its_first_token_as_an_event(tmp_path: Path) -> None:
    async with traced(tmp_path) as (harness, collector):
        await harness.post(chat(stream=True))
        request, [attempt] = await spans_of(collector)
        [row] = await harness.rows()
        at = attempt.events["tollway.first_token"]
        assert attempt.span.start_time_unix_nano <= at <= attempt.span.end_time_unix_nano
        assert attempt.attributes["gen_ai.request.stream"] is True
        assert attempt.attributes["gen_ai.response.time_to_first_chunk"] == row["ttft_ms"] / 1000
        assert request.span.end_time_unix_nano >= attempt.span.end_time_unix_nano


async def test_each_attempt_of_a_failover_is_a_span(tmp_path: Path) -> None:
    broken = Knobs(error_rate=1, error_kind=ErrorKind.SERVER_ERROR)
    one = {"deployments": {"scout": {"replicas": {"urls": ["${REPLICA_1}/v1"]}}}}
    async with traced(tmp_path, one, replicas=[broken]) as (harness, collector):
        await harness.post(chat(model="auto"))
        request, [first, second] = await spans_of(collector, 2)
        assert first.name == "chat meta-llama/Llama-4-Scout-17B-16E-Instruct"
        assert (first.attributes["gen_ai.provider.name"], first.attributes["error.type"]) == ("vllm", "500")
        assert first.is_error
        assert second.attributes["tollway.decision"] == "failover"
        assert not second.is_error
        assert (first.parent_id, second.parent_id) == (request.span_id, request.span_id)
        sent = {HEADER.fullmatch(seen.headers["traceparent"])[2] for seen in harness.attempts()}  # type: ignore[index]
        assert sent == {first.span_id, second.span_id}
        assert (request.attributes["tollway.attempts"], request.attributes["tollway.deployment"]) == (
            2,
            "gpt-4o",
        )
        assert "error.type" not in request.attributes


async def test_a_request_that_no_candidate_answered_is_an_error(tmp_path: Path) -> None:
    broken = Knobs(error_rate=1, error_kind=ErrorKind.SERVER_ERROR)
    async with traced(tmp_path, external=broken) as (harness, collector):
        assert (await harness.post(chat())).status_code == 502
        request, _ = await spans_of(collector)
        assert request.is_error
        assert request.attributes["error.type"] == "upstream_error"
        assert request.attributes["http.response.status_code"] == 502
        assert request.attributes["tollway.outcome"] == "refused"


@pytest.mark.parametrize(
    ("body", "key", "status", "said"),
    [
        (chat(), "no-such-key-0123456789", 401, {"tollway.refusal": "invalid_api_key"}),
        (
            chat(model="no-such-model"),
            APP_KEY,
            404,
            {"tollway.refusal": "model_not_found", "tollway.feature": "search"},
        ),
        (
            chat(f"My card is {CARD}."),
            APP_KEY,
            403,
            {"tollway.refusal": "privacy_policy_violation", "tollway.model": "gpt-4o"},
        ),
    ],
)
async def test_a_refusal_is_a_span_without_attempts(
    tmp_path: Path, body: dict[str, Any], key: str, status: int, said: dict[str, str]
) -> None:
    async with traced(tmp_path) as (harness, collector):
        response = await harness.post(body, authorization=f"Bearer {key}")
        assert response.status_code == status
        request, _ = await spans_of(collector, 0)
        assert said.items() <= request.attributes.items()
        assert (request.attributes["tollway.outcome"], request.attributes["http.response.status_code"]) == (
            "refused",
            status,
        )
        assert not request.is_error  # of the client, and not of this server


async def test_a_client_that_left_is_no_error(tmp_path: Path) -> None:
    slow = Knobs(tokens_per_second=50, output_tokens=2000)
    async with traced(tmp_path, external=slow) as (harness, collector):
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await client.read_until(b'"content":"', count=2)
        request, [attempt] = await spans_of(collector)
        for span in (request, attempt):
            assert span.attributes["tollway.outcome"] == "client_disconnect"
            assert "error.type" not in span.attributes
            assert not span.is_error


async def test_an_answer_that_is_read_on_for_nobody_is_still_a_child(tmp_path: Path) -> None:
    lasting = {"deployments": {"gpt-4o": {"stops_when_left": "never"}}}
    slow = Knobs(tokens_per_second=100, output_tokens=40)
    async with traced(tmp_path, lasting, external=slow) as (harness, collector):
        async with await harness.raw() as client:
            await client.request(chat(stream=True))
            await client.read_until(b'"content":"', count=2)
        request, [attempt] = await spans_of(collector)
        assert (attempt.trace_id, attempt.parent_id) == (request.trace_id, request.span_id)
        assert attempt.attributes["gen_ai.usage.output_tokens"] == 40
        assert request.span.end_time_unix_nano < attempt.span.end_time_unix_nano


async def test_what_asks_no_model_is_one_span(tmp_path: Path) -> None:
    async with traced(tmp_path) as (harness, collector):
        await harness.http.get("/v1/models/gpt-4o")
        await harness.http.get("/v1/nothing/4111111111111111")
        await until(lambda: len(collector.spans) == 2)
        found, lost = sorted(collector.spans, key=lambda span: span.span.start_time_unix_nano)
        assert (found.name, found.attributes["http.response.status_code"]) == ("GET /v1/models/{model}", 200)
        assert (lost.name, lost.attributes["http.response.status_code"]) == ("GET", 404)


async def test_azure_s_addresses_have_the_route_that_they_stand_for(tmp_path: Path) -> None:
    async with traced(tmp_path) as (harness, collector):
        path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
        assert (await harness.post(chat(), path)).status_code == 200
        request, _ = await spans_of(collector)
        assert request.attributes["http.route"] == "/v1/chat/completions"


async def test_no_span_holds_content_or_a_secret(tmp_path: Path) -> None:
    async with traced(tmp_path, more={"headers": {"authorization": "Bearer of-the-collector"}}) as (
        harness,
        collector,
    ):
        secret = "the harbour at dawn"
        body = chat(f"Tell me about {secret}.", model="scout", metadata={"note": secret})
        answer = await harness.post(
            body, x_tollway_tags=f"note={secret}", tracestate=f"own={secret}", user_agent=secret
        )
        await harness.http.get(f"/v1/{secret}")
        await until(lambda: len(collector.spans) == 3)
        said = answer.json()["choices"][0]["message"]["content"]
        for word in (secret, said[:20], APP_KEY, "sk-simulated-account-key", "of-the-collector"):
            assert word.encode() not in collector.raw


async def test_every_name_is_of_the_conventions_or_of_ours(tmp_path: Path) -> None:
    registry = "opentelemetry.semconv._incubating.attributes"
    groups = ("error", "gen_ai", "http", "network", "openai", "server", "url")
    modules = [importlib.import_module(f"{registry}.{group}_attributes") for group in groups]
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    async with traced(tmp_path) as (harness, collector):
        await harness.post(chat(stream=True, n=2))
        await harness.post({"model": "embed", "input": "ships"}, "/v1/embeddings")
        await harness.post(chat(model="no-such-model"))
        await until(lambda: len(collector.spans) == 5)
        names = {name for span in collector.spans for name in span.attributes}
        assert {name for name in names if not name.startswith("tollway.")} <= known


# --- whose children they are ---


async def test_a_request_is_the_child_of_the_span_that_its_client_names(tmp_path: Path) -> None:
    async with traced(tmp_path) as (harness, collector):
        await harness.post(chat(model="scout"), traceparent=PARENT)
        request, [attempt] = await spans_of(collector)
        assert (request.trace_id, request.parent_id) == (TRACE, SPAN)
        [seen] = harness.attempts()
        assert seen.headers["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"


@pytest.mark.parametrize("ratio", ["0", "1"])
async def test_the_caller_decides_whether_its_request_is_recorded(tmp_path: Path, ratio: str) -> None:
    async with traced(tmp_path, more={"sample_ratio": ratio}) as (harness, collector):
        for flag in ("00", "01"):
            await harness.post(chat(f"Flag {flag}.", model="scout"), traceparent=f"00-{TRACE}-{SPAN}-{flag}")
        await spans_of(collector)
        sent = [harness.attempts(f"Flag {flag}.")[0].headers["traceparent"] for flag in ("00", "01")]
        assert [header[-2:] for header in sent] == ["00", "01"]
        assert all(header.startswith(f"00-{TRACE}-") for header in sent)


async def test_a_trace_that_begins_here_is_recorded_by_the_ratio(tmp_path: Path) -> None:
    async with traced(tmp_path, more={"sample_ratio": "0.5"}) as (harness, collector):
        for _ in range(40):
            await harness.post(chat())
        sent = [HEADER.fullmatch(seen.headers["traceparent"]) for seen in harness.attempts()]
        recorded = {found[1] for found in sent if found is not None and found[3] == "03"}
        assert 0 < len(recorded) < 40
        await until(lambda: len(collector.spans) == 2 * len(recorded))
        assert {span.trace_id for span in collector.spans} == recorded


async def test_a_broken_traceparent_begins_a_trace_without_its_state(tmp_path: Path) -> None:
    async with traced(tmp_path) as (harness, collector):
        await harness.post(chat(model="scout"), traceparent="00-nonsense", tracestate="own=1")
        request, _ = await spans_of(collector)
        assert request.parent_id == ""
        [seen] = harness.attempts()
        assert request.trace_id in seen.headers["traceparent"]
        assert "tracestate" not in seen.headers


async def test_a_masked_attempt_is_a_span_and_its_trace_stays_home(tmp_path: Path) -> None:
    masking = {"features": {"search": {"mask": ["credit_card"]}}}
    async with traced(tmp_path, masking) as (harness, collector):
        response = await harness.post(chat(f"My card is {CARD}."), traceparent=PARENT)
        assert response.headers["x-tollway-masked"] == "1"
        _, [attempt] = await spans_of(collector)
        assert attempt.trace_id == TRACE
        assert "traceparent" not in harness.attempts()[0].headers
        assert CARD.encode() not in collector.raw


async def test_requests_on_one_connection_do_not_share_a_trace(tmp_path: Path) -> None:
    async with traced(tmp_path, more={"sample_ratio": "0"}) as (harness, collector):
        async with await harness.raw() as client:
            head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer " + APP_KEY
            body = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}'
            first = f"{head}\r\ntraceparent: {PARENT}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            second = f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            await client.send(first + second)
            await client.read_until(b'"usage"', count=2)
        await harness.settled()
        await spans_of(collector)
        await harness.stop()
        assert len(collector.spans) == 2


# --- the collector ---


async def test_it_gets_its_headers_and_knows_the_service(tmp_path: Path) -> None:
    more = {
        "headers": {"Authorization": "Bearer of-the-collector"},
        "service_name": "llm-gateway",
        "resource": {"deployment.environment.name": "test"},
    }
    async with traced(tmp_path, more=more) as (harness, collector):
        await harness.post(chat())
        request, _ = await spans_of(collector)
        assert collector.requests[0]["authorization"] == "Bearer of-the-collector"
        assert collector.requests[0]["content-type"] == "application/x-protobuf"
        assert request.resource["service.name"] == "llm-gateway"
        assert request.resource["deployment.environment.name"] == "test"
        assert request.resource["service.instance.id"]
        assert request.resource["telemetry.sdk.language"] == "python"


async def test_a_stop_sends_what_waits(tmp_path: Path) -> None:
    async with traced(tmp_path, more={"interval_seconds": 3600}) as (harness, collector):
        await harness.post(chat())
        assert collector.spans == []
        await harness.stop()
        assert len(collector.spans) == 2


async def test_a_dead_collector_costs_spans_and_no_request(tmp_path: Path) -> None:
    async with running(tmp_path, traces(f"{unused_url()}/v1/traces", queue_spans=10)) as harness:
        for _ in range(20):
            assert (await harness.post(chat())).status_code == 200
        assert (await counted(harness))["dropped"] > 0
        assert (await harness.http.get(f"{harness.gateway.admin_url}/readyz")).status_code == 200


async def test_what_became_of_spans_is_counted(tmp_path: Path) -> None:
    async with traced(tmp_path) as (harness, collector):
        assert await counted(harness) == {"exported": 0, "dropped": 0, "refused": 0}
        await harness.post(chat())
        await spans_of(collector)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await counted(harness))["exported"] < 2:
                await asyncio.sleep(0.01)
        assert await counted(harness) == {"exported": 2, "dropped": 0, "refused": 0}


async def counted(harness: Harness) -> dict[str, int]:
    found = await harness.metrics()
    results = ("exported", "dropped", "refused")
    return {result: int(found.sum("trace_spans_total", result=result)) for result in results}


async def test_a_change_needs_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answer = await harness.reload(traces("http://127.0.0.1:4318/v1/traces"))
        assert answer.status_code == 409
        assert "telemetry.traces" in answer.text


def test_off_nothing_of_opentelemetry_s_sdk_is_imported(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from tests.e2e.harness import chat, running

async def main():
    async with running(Path(sys.argv[1])) as harness:
        assert (await harness.post(chat())).status_code == 200
        [seen] = harness.attempts()
        assert "traceparent" not in seen.headers

asyncio.run(main())
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto")
ours = "gateway.metrics.tracing."
print([name for name in sys.modules if name.startswith((*heavy, ours))])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "['gateway.metrics.tracing.settings']"
