"""Bodies that cost more than their bytes: refused early, or read where they hold nobody up."""

import asyncio
import base64
import gzip
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard

from gateway.simulators.knobs import Knobs
from tests.e2e.harness import (
    APP_KEY,
    CARD,
    PATIENCE_SECONDS,
    PNG_URL,
    Harness,
    Json,
    chat,
    full_width,
    image_parts,
    merged,
    running,
)

MIB = 1024 * 1024
PROSE = "The quick brown fox jumps over the lazy dog. "


def long_text(characters: int = 2 * MIB) -> str:
    return PROSE * (characters // len(PROSE))


def with_brackets(count: int) -> bytes:
    return b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"stop":[' + b"[]," * count + b"[]]}"


WIDE: Json = {
    "deployments": {
        name: {"context_tokens": 100_000_000, "max_output_tokens": 100} for name in ("gpt-4o", "scout")
    }
}


ROOMY = Knobs(max_model_len=10_000_000)


def wide(folder: Path, changes: Mapping[str, Any] = {}) -> AbstractAsyncContextManager[Harness]:
    """A gateway whose deployments take prompts of any length."""
    return running(folder, merged(WIDE, changes), external=ROOMY, replicas=(ROOMY, ROOMY))


async def test_a_key_that_used_up_its_requests_is_told_before_its_body_is_read(tmp_path: Path) -> None:
    changes = {"keys": {"app": {"limits": {"requests_per_minute": 1}}}}
    async with running(tmp_path, changes) as harness, await harness.raw() as client:
        assert (await harness.post(chat())).status_code == 200
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
            f"authorization: Bearer {APP_KEY}\r\ncontent-length: {50 * MIB}\r\n\r\n"
        )
        await client.send(head.encode())
        answer = await client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"rate_limit_exceeded" in answer


async def test_a_key_whose_slots_are_taken_is_told_before_its_body_is_parsed(tmp_path: Path) -> None:
    changes = {"keys": {"app": {"limits": {"concurrent": 1}}}}
    async with running(tmp_path, changes) as harness:
        harness.external.set_knobs(frozen=True)
        first = asyncio.create_task(harness.post(chat()))
        await harness.arrived()
        assert (await harness.post(b"this is no JSON")).status_code == 429
        harness.external.set_knobs(frozen=False)
        assert (await first).status_code == 200
        await harness.settled()
        assert (await harness.post(b"this is no JSON")).status_code == 400


def _plain(body: bytes) -> bytes:
    return body


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("identity", _plain),
        ("gzip", gzip.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("br", lambda body: brotli.compress(body, quality=1)),
    ],
)
async def test_a_body_of_too_many_values_is_refused_however_it_comes(
    tmp_path: Path, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    async with running(tmp_path) as harness:
        for count in (600_000, 5_000_000):
            answer = await harness.post(encode(with_brackets(count)), content_encoding=coding)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "too_many_values"
        assert harness.attempts() == []


async def test_each_endpoint_bounds_the_values_of_its_bodies(tmp_path: Path) -> None:
    async with running(tmp_path, {"server": {"max_values": 20_000}}) as harness:
        ids = [1] * 25_000
        for path, body in (
            ("/v1/embeddings", {"model": "embed", "input": ids}),
            ("/v1/completions", {"model": "gpt-4o", "prompt": ids}),
            ("/openai/deployments/gpt-4o/chat/completions", {"messages": [], "stop": ids}),
        ):
            answer = await harness.post(body, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_values"), path


async def test_the_bound_on_values_is_read_at_a_reload(tmp_path: Path) -> None:
    async with running(tmp_path, {"server": {"max_values": 20_000}}) as harness:
        body = {"model": "embed", "input": [1] * 25_000}
        assert (await harness.post(body, "/v1/embeddings")).status_code == 400
        assert (await harness.reload({"server": {"max_values": 30_000}})).status_code == 200
        answer = await harness.post(body, "/v1/embeddings")
        assert answer.json()["error"]["code"] != "too_many_values"


async def test_brackets_in_a_string_are_text(tmp_path: Path) -> None:
    async with wide(tmp_path) as harness:
        assert (await harness.post(chat("[]," * MIB))).status_code == 200


async def test_deep_nesting_is_told_in_the_same_words_however_deep(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        for depth in (300, 2_000, 2 * MIB // 2):
            start = b'{"model":"gpt-4o","messages":[{"role":"user","content":"x"}],"stop":'
            body = start + b"[" * depth + b"]" * depth + b"}"
            answer = await harness.post(body)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] in {"invalid_json", "too_many_values"}
            assert "nested too deeply" in answer.text or depth > 2_000


async def test_a_large_body_is_read_as_a_small_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wide(tmp_path) as harness:
        parts = image_parts("what is it?")
        image = base64.b64decode(PNG_URL.partition(",")[2]) + os.urandom(3 * MIB)
        parts[1]["image_url"]["url"] = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        turns = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": long_text()}]
        bodies: list[Json] = [
            chat(long_text(), temperature=0.5, metadata={"team": "x"}, seed=2**63, stream=True),
            {"model": "auto", "messages": [{"role": "user", "content": parts}], "max_tokens": 9},
            {"model": "scout", "messages": turns, "n": 2},
            chat("many", logit_bias={str(at): 1 for at in range(40_000)}),
            chat("\u732b" * MIB, user="somebody"),
        ]
        seen = []
        for reads_here in (False, True):
            monkeypatch.setattr("gateway.proxy.pipeline.is_light", lambda _raw, here=reads_here: here)
            for body in bodies:
                answer = await harness.post(body)
                assert answer.status_code == 200, answer.text
                attempt = harness.attempts()[-1]
            attempts = sorted(harness.attempts(), key=lambda one: one.request_id or "")[-len(bodies) :]
            seen.append([(one.body_sha256, one.path, one.stream) for one in attempts])
            assert attempt.body_bytes > MIB
        assert seen[0] == seen[1]
        await harness.settled()
        rows = await harness.rows()
        facts = [(row["privacy"], row["modalities"], row["held_nano_usd"], row["tags"]) for row in rows]
        assert facts[: len(bodies)] == facts[len(bodies) :]


@pytest.mark.parametrize("secret", [CARD, full_width(CARD), "bob@example.com"])
async def test_what_a_large_body_holds_is_found(tmp_path: Path, secret: str) -> None:
    async with wide(tmp_path) as harness:
        refused = await harness.post(chat(f"{long_text()} my card {secret} {PROSE}"))
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "privacy_policy_violation"
        home = await harness.post(chat(f"{long_text()} my card {secret} {PROSE}", "auto"))
        assert home.headers["x-tollway-zone"] == "local"


async def test_own_words_of_a_file_are_found_in_a_large_body_also_after_a_reload(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Project Kingfisher\n")
    detectors: Json = {"own": {"words_file": "words.txt"}}
    detect = [{"find": ["own"], "raise_to": "confidential"}]
    changes = {"privacy": {"detectors": detectors, "detect": detect}}
    async with wide(tmp_path, changes) as harness:
        first, second = (chat(f"{long_text()} {name} ") for name in ("project kingfisher", "project heron"))
        assert (await harness.post(first)).status_code == 403
        assert (await harness.post(second)).status_code == 200
        words.write_text("Project Heron\n")
        assert (await harness.reload(merged(WIDE, changes))).status_code == 200
        assert (await harness.post(first)).status_code == 200
        assert (await harness.post(second)).status_code == 403


async def test_what_a_caller_says_of_a_large_body_counts(tmp_path: Path) -> None:
    async with wide(tmp_path) as harness:
        body = chat(long_text())
        assert (await harness.post(body, x_tollway_privacy="restricted")).status_code == 403
        unknown = await harness.post(body, x_tollway_privacy="secret")
        assert unknown.json()["error"]["param"] == "x-tollway-privacy"
        assert (await harness.post(chat(long_text(), "no-such-model"))).status_code == 404


async def test_a_large_body_is_written_for_each_dialect_in_that_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("adapted beside other requests")

    monkeypatch.setattr("gateway.core.sent.adapted", never)
    async with wide(tmp_path) as harness:
        turns = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": long_text()}]
        answer = await harness.post({"model": "scout", "messages": turns})
        assert answer.status_code == 200
        assert answer.headers["x-tollway-changed"] == "developer"
        assert harness.attempts('"role":"system"')
        assert not harness.attempts('"role":"developer"')


async def test_a_mistake_in_a_large_body_is_told_as_in_a_small_one(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        for more in ({"n": 0}, {"tools": "x"}, {"stream": "yes"}, {"stream_options": {}}, {"seed": 10**30}):
            small, large = [await harness.post(chat(text, **more)) for text in ("x", long_text())]
            assert small.status_code == large.status_code == 400
            assert small.json() == large.json()


async def test_a_masked_body_of_many_values_goes_out_masked_and_is_restored(tmp_path: Path) -> None:
    async with wide(tmp_path, {"features": {"search": {"mask": ["email"]}}}) as harness:
        body = chat("write to bob@example.com", stop=None, logit_bias={str(at): 0 for at in range(40_000)})
        answer = await harness.post(body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-tollway-masked"] == "1"
        assert harness.attempts("[EMAIL_1]")
        assert not harness.attempts("bob@example.com")


async def test_others_are_answered_while_a_large_body_is_read(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        large = asyncio.create_task(harness.post(with_brackets(15_000_000)))
        answered = 0
        while not large.done():
            assert (await harness.post(chat())).status_code == 200
            answered += 1
        assert (await large).status_code == 400
        assert answered >= 2


async def test_a_process_that_ends_is_started_again(tmp_path: Path) -> None:
    async with wide(tmp_path) as harness:
        reader = harness.gateway.parts.large_bodies
        assert reader.pid is None  # nobody has sent a large body yet
        assert (await harness.post(chat(long_text()))).status_code == 200
        first = reader.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (answer := await harness.post(chat(long_text()))).status_code != 200:
                assert answer.status_code == 503
                assert answer.headers["retry-after"]
        assert reader.pid not in {None, first}


async def test_one_that_hangs_is_killed_and_its_request_is_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wide(tmp_path) as harness:
        reader = harness.gateway.parts.large_bodies
        assert (await harness.post(chat(long_text()))).status_code == 200
        first = reader.pid
        assert first is not None
        monkeypatch.setattr("gateway.proxy.large_bodies.reader.READ_SECONDS", 0.3)
        os.kill(first, signal.SIGSTOP)
        assert (await harness.post(chat(long_text()))).status_code == 503
        monkeypatch.undo()
        assert (await harness.post(chat(long_text()))).status_code == 200
        assert reader.pid != first


async def test_no_more_bodies_wait_than_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.large_bodies.reader.MOST_WAITING", 1)
    async with wide(tmp_path) as harness:
        answers = await asyncio.gather(*(harness.post(chat(long_text())) for _ in range(6)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 503}


async def test_bodies_in_flight_are_bounded_for_a_key_and_given_back(tmp_path: Path) -> None:
    server = {"max_body_mib": 1, "max_body_mib_in_flight": 8, "max_body_mib_in_flight_per_key": 1}
    async with running(tmp_path, {"server": server}) as harness, await harness.raw() as slow:
        held = harness.gateway.parts.body_bytes
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
            f"authorization: Bearer {APP_KEY}\r\ncontent-length: {MIB}\r\n\r\n"
        )
        await slow.send(head.encode() + b" " * (MIB - 1000))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while held.held_of("app") < MIB - 1000:
                await asyncio.sleep(0.002)
        refused = await harness.post(chat("x" * 300_000))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert (await harness.post(chat())).status_code == 200
        metrics = await harness.metrics()
        assert metrics.sum("limit_rejections_total", limit="body_bytes", scope="key") >= 1
        slow.hang_up()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while held.held:
                await asyncio.sleep(0.002)
        assert (await harness.post(chat("x" * 300_000))).status_code == 200
        await harness.settled()
        assert held.held == 0


async def test_images_that_a_large_body_names_are_asked_for_as_those_of_a_small_one(tmp_path: Path) -> None:
    images = {"fetch": "inline", "zone": "local", "hosts": ["127.0.0.1:9"], "deadline_ms": 500}
    async with wide(tmp_path, {"privacy": {"images": images}}) as harness:
        for text in ("what is it?", long_text()):
            for url, status in (("http://127.0.0.1:9/a.png", 400), ("https://elsewhere.example/a.png", 200)):
                parts = image_parts(text)[::-1]
                parts[0]["image_url"]["url"] = url
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": parts}]}
                answer = await harness.post(body)
                assert answer.status_code == status
                assert status == 200 or answer.json()["error"]["code"] == "invalid_image_url"
        assert len(harness.attempts("https://elsewhere.example/a.png")) == 2
