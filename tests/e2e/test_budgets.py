"""Limits and budgets under real traffic: they bind, they let nothing past, and all books agree."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import pytest

from gateway.simulators.attempts import SeenAttempt
from gateway.simulators.knobs import ErrorKind, Knobs
from tests.e2e.harness import (
    CARD,
    NARROW_KEY,
    Harness,
    Json,
    chat,
    gateway_over,
    nothing_left_over,
    running,
    simulators,
)

ONE_USD = 10**9
NEVER_MS = 600_000
DEAR_TOKENS = {
    "gpt-4o": {"price": {"input": 5, "cached_input": 2.5, "output": 40}},
    "scout": {"price": {"input": 4, "output": 30}},
}
NANO_PER_TOKEN = {"gpt-4o-2024-11-20": (5_000, 2_500, 40_000)}
SCOUT_NANO_PER_TOKEN = (4_000, 4_000, 30_000)
SCOPES = {
    "key:app": ("keys", "app"),
    "feature:search": ("features", "search"),
    "team:product": ("teams", "product"),
    "org:org": ("org",),
}


def budget(usd: float) -> Json:
    return {"features": {"search": {"budgets": [{"usd": usd, "per": "lifetime"}]}}}


def limits(**named: int) -> Json:
    return {"features": {"search": {"limits": named}}}


def at(path: Iterable[str], value: Any) -> Any:
    for name in reversed(list(path)):
        value = {name: value}
    return value


def billed_nano(attempts: Iterable[SeenAttempt]) -> int:
    """What the simulators would charge at DEAR_TOKENS: every token that they read or made."""
    total = 0
    for attempt in attempts:
        rates = NANO_PER_TOKEN.get(attempt.model or "", SCOUT_NANO_PER_TOKEN)
        parts = (
            attempt.prompt_tokens - attempt.cached_tokens,
            attempt.cached_tokens,
            attempt.completion_tokens,
        )
        total += sum(tokens * rate for tokens, rate in zip(parts, rates, strict=True))
    return total


def assert_out_of_money(response: httpx.Response) -> None:
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "insufficient_quota"
    assert response.headers["x-should-retry"] == "false"


def assert_too_fast(response: httpx.Response) -> None:
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


# One dollar


class Crowd:
    """Clients that spend until they are told that the budget is used up."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._progress = asyncio.Condition()
        self._ended = 0

    async def spend(self, clients: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        caps = (None, 60, 400, None)
        body = chat(
            f"Question {number}: what is a lighthouse?",
            model=("gpt-4o", "scout")[number // 4 % 2],
            stream=number % 2 == 1,
            max_tokens=caps[number // 2 % 4],
        )
        while await self._asks(body):
            pass

    async def _asks(self, body: Json) -> bool:
        seen = self._ended
        response = await self._harness.post(body)
        if response.status_code == 200:
            async with self._progress:
                self._ended += 1
                self._progress.notify_all()
            return True
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "insufficient_quota"
        if response.headers.get("x-should-retry") == "false":
            return False
        # What is left is only held by others: it may come back when one of them ends.
        async with self._progress:
            await self._progress.wait_for(lambda: self._ended != seen)
        return True


async def test_fifty_clients_spend_one_dollar_and_not_a_nano_dollar_more(tmp_path: Path) -> None:
    changes = budget(1) | {"deployments": DEAR_TOKENS}
    knobs = Knobs(output_tokens=250, ttft_ms=2)
    async with running(tmp_path, changes, external=knobs, replicas=[knobs] * 2) as harness:
        await Crowd(harness).spend(50)
        await harness.settled()
        rows, metrics = await harness.rows(), await harness.metrics()
        spent = sum(row["cost_nano_usd"] for row in rows)
        assert 0.98 * ONE_USD <= spent <= ONE_USD
        assert spent == billed_nano(harness.attempts())
        assert spent == metrics.nano("cost_usd_total")
        assert spent == metrics.nano("budget_spent_usd", scope="feature", name="search")
        assert metrics.nano("budget_held_usd") == metrics.nano("budget_unseen_usd") == 0
        assert len(rows) == len(harness.attempts())
        assert_out_of_money(await harness.post(chat()))
        assert_out_of_money(await harness.post(chat(stream=True, model="scout", max_tokens=16)))


@pytest.mark.parametrize("tokens_per_second", [200, 4_000, 0])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_clients_that_hang_up_cannot_spend_more_than_the_dollar_either(
    tmp_path: Path, tokens_per_second: float, goes_on: bool
) -> None:
    """What a cut-off stream may have cost unseen is kept back, so the upstream's own bill stays within:
    however fast it writes, and where it does not care who still listens if the file says so."""
    stops = "never" if goes_on else "always"
    dear = {name: given | {"stops_when_left": stops} for name, given in DEAR_TOKENS.items()}
    changes = budget(1) | {"deployments": dear}
    knobs = Knobs(output_tokens=400, tokens_per_second=tokens_per_second, bills_to_the_end=goes_on)
    random = Random(2)
    async with running(tmp_path, changes, external=knobs, replicas=[knobs] * 2) as harness:
        await asyncio.gather(*(harness.post(chat(stream=True, max_tokens=40)) for _ in range(2)))
        for _ in range(12):
            await asyncio.gather(*(hang_up_after(harness, random.randrange(1, 60)) for _ in range(15)))
        for simulator in harness.simulators:
            simulator.set_knobs(tokens_per_second=0)
        await Crowd(harness).spend(10)
        await harness.settled()
        metrics = await harness.metrics()
        spent, unseen = metrics.nano("budget_spent_usd"), metrics.nano("budget_unseen_usd")
        assert metrics.nano("budget_held_usd") == 0
        # What goes on is read to its end, and then nothing is unseen.
        assert (unseen > 0) != goes_on
        assert billed_nano(harness.attempts()) <= spent + unseen <= ONE_USD
        assert spent == sum(row["cost_nano_usd"] for row in await harness.rows())


async def test_a_line_that_is_cancelled_does_not_keep_its_whole_hold(tmp_path: Path) -> None:
    knobs = Knobs(output_tokens=100_000, tokens_per_second=200)
    async with running(tmp_path, budget(100), external=knobs) as harness:
        await harness.post(chat(stream=True, max_tokens=40))
        await hang_up_after(harness, 60, max_tokens=16_384)
        await harness.settled()
        [_, row] = await harness.rows()
        assert row["outcome"] == "client_disconnect"
        assert 0 < row["unseen_nano_usd"] < row["held_nano_usd"] / 4


@pytest.mark.parametrize("model", ["gpt-4o", "scout"])
async def test_short_stops_at_a_deployment_nobody_has_measured_leave_most_of_the_budget(
    tmp_path: Path, model: str
) -> None:
    """Answers of two to twelve chunks, before any whole one: each is bounded by its own pace."""
    knobs = Knobs(output_tokens=100_000, tokens_per_second=100)
    changes = budget(1) | {"deployments": DEAR_TOKENS}
    async with running(tmp_path, changes, external=knobs, replicas=[knobs] * 2) as harness:
        for number in range(16):
            await hang_up_after(harness, 3 + number % 10, max_tokens=None, model=model)
            await harness.settled()
        rows = await harness.rows()
        assert [row["outcome"] for row in rows] == ["client_disconnect"] * 16
        metrics = await harness.metrics()
        spent, unseen = metrics.nano("budget_spent_usd"), metrics.nano("budget_unseen_usd")
        assert billed_nano(harness.attempts()) <= spent + unseen
        assert unseen < ONE_USD / 2
        assert (await harness.post(chat(model=model, max_tokens=60))).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("usage", [True, False])
async def test_stops_at_an_upstream_that_bills_to_the_end_are_read_to_it_and_keep_no_hold(
    tmp_path: Path, stream: bool, usage: bool
) -> None:
    knobs = Knobs(output_tokens=60, tokens_per_second=400, bills_to_the_end=True)
    if not usage:
        knobs = msgspec.structs.replace(knobs, error_rate=1.0, error_kind=ErrorKind.NO_USAGE)
    compatible = DEAR_TOKENS["gpt-4o"] | {"provider": "openai-compatible"}
    async with running(
        tmp_path, budget(1) | {"deployments": {"gpt-4o": compatible}}, external=knobs
    ) as harness:
        for number in range(16):
            async with await harness.raw() as client:
                await client.request(chat(stream=stream))
                if stream:
                    await client.read_until(b"\n\n", count=3)
                else:
                    await harness.arrived(number + 1)
            await harness.settled()
        rows = await harness.rows()
        assert [row["outcome"] for row in rows] == ["client_disconnect"] * 16
        assert [row["output_tokens"] for row in rows] == [60] * 16 or not usage
        metrics = await harness.metrics()
        spent, unseen = metrics.nano("budget_spent_usd"), metrics.nano("budget_unseen_usd")
        assert metrics.nano("budget_held_usd") == 0
        assert billed_nano(harness.attempts()) <= spent + unseen < ONE_USD / 2
        assert (unseen == 0) == usage
        assert (await harness.post(chat(max_tokens=60))).status_code == 200


async def test_a_stop_of_the_gateway_does_not_wait_for_what_is_read_for_nobody(tmp_path: Path) -> None:
    compatible = {"gpt-4o": {"provider": "openai-compatible"}}
    knobs = Knobs(output_tokens=100_000, tokens_per_second=50)
    async with running(tmp_path, budget(1) | {"deployments": compatible}, external=knobs) as harness:
        await hang_up_after(harness, 3)
        await harness.stop()
        [row] = harness.stored_rows()
        assert row["unseen_nano_usd"] > 0


async def test_an_answer_that_came_whole_without_usage_keeps_what_its_bytes_may_cost(tmp_path: Path) -> None:
    knobs = Knobs(output_tokens=200, error_rate=1.0, error_kind=ErrorKind.NO_USAGE)
    async with running(tmp_path, budget(100), external=knobs) as harness:
        for stream in (False, True):
            await harness.post(chat(stream=stream, max_tokens=16_384))
        rows = await harness.rows()
        for row, attempt in zip(rows, harness.external.attempts(), strict=True):
            billed = attempt.prompt_tokens * 2_500 + attempt.completion_tokens * 10_000
            assert billed <= row["cost_nano_usd"] + row["unseen_nano_usd"] < row["held_nano_usd"] / 4


async def hang_up_after(harness: Harness, events: int, max_tokens: int | None = 400, **more: Any) -> None:
    cap = {} if max_tokens is None else {"max_tokens": max_tokens}
    async with await harness.raw() as client:
        await client.request(chat(stream=True, **cap, **more))
        await client.read_while(lambda received: received.count(b"\n\n") < events and not has_ended(received))


def has_ended(received: bytes) -> bool:
    return b"[DONE]" in received or b"HTTP/1.1 429" in received


# Budgets


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_budget_of_each_scope_binds(tmp_path: Path, scope: str) -> None:
    changes = at(SCOPES[scope], {"budgets": [{"usd": 0.000001, "per": "month"}]})
    async with running(tmp_path, changes) as harness:
        response = await harness.post(chat())
        assert_out_of_money(response)
        assert scope in response.json()["error"]["message"]
        assert harness.attempts() == []


async def test_the_tightest_of_all_budgets_decides(tmp_path: Path) -> None:
    changes: Json = {}
    for path, usd in zip(SCOPES.values(), (0.01, 0.5, 1, 2), strict=True):
        changes |= at(path, {"budgets": [{"usd": usd, "per": "day"}]})
    async with running(tmp_path, changes, external=Knobs(output_tokens=5000)) as harness:
        assert (await harness.post(chat())).status_code == 200
        assert_out_of_money(await harness.post(chat()))
        metrics = await harness.metrics()
        spent = {
            scope: metrics.nano("budget_spent_usd", scope=scope)
            for scope in ("key", "feature", "team", "org")
        }
        assert len(set(spent.values())) == 1


async def test_another_key_has_a_budget_of_its_own(tmp_path: Path) -> None:
    changes = {"keys": {"app": {"budgets": [{"usd": 0.000001, "per": "month"}]}}}
    async with running(tmp_path, changes) as harness:
        assert_out_of_money(await harness.post(chat()))
        other = {"authorization": f"Bearer {NARROW_KEY}"}
        assert (await harness.post(chat(), **other)).status_code == 200


async def test_a_request_that_is_refused_for_money_is_not_held_against_anything(tmp_path: Path) -> None:
    changes = at(("keys", "app"), {"budgets": [{"usd": 0.000001, "per": "month"}]})
    changes |= limits(requests_per_minute=1, concurrent=1)
    async with running(tmp_path, changes) as harness:
        for _ in range(3):
            assert_out_of_money(await harness.post(chat()))
        other = {"authorization": f"Bearer {NARROW_KEY}"}
        assert (await harness.post(chat(), **other)).status_code == 200


async def test_near_its_end_a_budget_lowers_the_output_cap(tmp_path: Path) -> None:
    async with running(tmp_path, budget(0.01), external=Knobs(output_tokens=5000)) as harness:
        response = await harness.post(chat())
        cap = int(response.headers["x-tollway-output-cap"])
        [attempt] = harness.external.attempts(contains=f'"max_completion_tokens":{cap}')
        assert attempt.completion_tokens == cap == response.json()["usage"]["completion_tokens"]
        assert response.json()["choices"][0]["finish_reason"] == "length"


async def test_a_cap_that_the_client_named_is_lowered_only_when_it_does_not_fit(tmp_path: Path) -> None:
    async with running(tmp_path, budget(0.01), external=Knobs(output_tokens=5000)) as harness:
        fits = await harness.post(chat(max_tokens=500))
        lowered = await harness.post(chat(max_tokens=5000))
        assert "x-tollway-output-cap" not in fits.headers
        assert fits.json()["usage"]["completion_tokens"] == 500
        assert int(lowered.headers["x-tollway-output-cap"]) < 500


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_vllm_replica_gets_the_lowered_cap_too(tmp_path: Path, path: str) -> None:
    body = chat(model="scout") if "chat" in path else {"model": "scout", "prompt": "Once", "max_tokens": 5000}
    async with running(tmp_path, budget(0.001), replicas=[Knobs(output_tokens=5000)] * 2) as harness:
        response = await harness.post(body, path)
        cap = int(response.headers["x-tollway-output-cap"])
        assert response.json()["usage"]["completion_tokens"] == cap


async def test_every_choice_counts_against_a_budget(tmp_path: Path) -> None:
    async with running(tmp_path, budget(0.01), external=Knobs(output_tokens=5000)) as harness:
        response = await harness.post(chat(n=8))
        assert response.json()["usage"]["completion_tokens"] == 8 * int(
            response.headers["x-tollway-output-cap"]
        )
        assert 0 < (await harness.metrics()).nano("budget_spent_usd") <= ONE_USD // 100


async def test_every_prompt_of_a_list_counts_against_a_budget(tmp_path: Path) -> None:
    body = {"model": "scout", "prompt": ["Once", "upon", "a"], "n": 3, "max_tokens": 5000}
    async with running(tmp_path, budget(0.001), replicas=[Knobs(output_tokens=5000)] * 2) as harness:
        response = await harness.post(body, "/v1/completions")
        assert response.json()["usage"]["completion_tokens"] == 9 * int(
            response.headers["x-tollway-output-cap"]
        )
        assert 0 < (await harness.metrics()).nano("budget_spent_usd") <= ONE_USD // 1000


async def test_embeddings_count_against_a_budget(tmp_path: Path) -> None:
    async with running(tmp_path, budget(0.000003)) as harness:
        first = await harness.post({"model": "embed", "input": "one two three"}, "/v1/embeddings")
        [row] = await harness.rows()
        assert first.status_code == 200
        assert row["cost_nano_usd"] == first.json()["usage"]["prompt_tokens"] * 20
        assert_out_of_money(await harness.post({"model": "embed", "input": "a " * 500}, "/v1/embeddings"))


@asynccontextmanager
async def restartable(tmp_path: Path, changes: Mapping[str, Any]) -> AsyncIterator[Callable[[], Any]]:
    """Simulators, and a way to start one gateway after the other over the same ledger."""
    knobs = Knobs(output_tokens=100)
    async with nothing_left_over(), simulators(knobs, [knobs, knobs]) as (external, replicas):
        yield lambda: gateway_over(external, replicas, tmp_path, changes)


async def test_a_restart_forgets_nothing_that_was_spent(tmp_path: Path) -> None:
    async with restartable(tmp_path, budget(0.01)) as start:
        async with start() as harness:
            for _ in range(4):
                await harness.post(chat(max_tokens=100))
            spent = (await harness.metrics()).nano("budget_spent_usd")
        async with start() as harness:
            assert (await harness.metrics()).nano("budget_spent_usd") == spent > 0


async def test_a_restart_does_not_forget_what_may_have_been_spent_unseen(tmp_path: Path) -> None:
    async with restartable(tmp_path, budget(1)) as start:
        async with start() as harness:
            harness.external.set_knobs(ttft_ms=NEVER_MS)
            async with await harness.raw() as client:
                await client.request(chat())
                await harness.arrived()
            await harness.settled()
            before = await harness.metrics()
            assert before.nano("budget_unseen_usd") > 0
        async with start() as harness:
            after = await harness.metrics()
            assert after.nano("budget_unseen_usd") == before.nano("budget_unseen_usd")


async def test_restarts_do_not_help_to_overspend(tmp_path: Path) -> None:
    changes = budget(0.05) | {"deployments": DEAR_TOKENS}
    async with restartable(tmp_path, changes) as start:
        for _ in range(4):
            async with start() as harness:
                await asyncio.gather(
                    *(harness.post(chat(stream=n % 2 == 0, max_tokens=100)) for n in range(6))
                )
                await harness.settled()
                assert billed_nano(harness.attempts()) <= ONE_USD // 20
        assert_spent_all_but(harness, ONE_USD // 20)


def assert_spent_all_but(harness: Harness, limit: int) -> None:
    spent = billed_nano(harness.attempts())
    assert spent == sum(row["cost_nano_usd"] for row in harness.stored_rows())
    assert spent > 0.9 * limit


# Limits


async def test_requests_per_minute(tmp_path: Path) -> None:
    async with running(tmp_path, limits(requests_per_minute=3)) as harness:
        passed = [await harness.post(chat(stream=number == 1)) for number in range(3)]
        refused = await harness.post(chat())
        assert [response.headers["x-ratelimit-remaining-requests"] for response in passed] == ["2", "1", "0"]
        assert {response.headers["x-ratelimit-limit-requests"] for response in passed} == {"3"}
        assert_too_fast(refused)
        assert 0 < int(refused.headers["retry-after"]) <= 20
        assert 0 < int(refused.headers["retry-after-ms"]) <= 20_000
        assert len(harness.attempts()) == 3


async def test_663_tokens_do_not_pass_a_limit_of_100_as_in_litellm_18730(tmp_path: Path) -> None:
    async with running(tmp_path, limits(tokens_per_minute=100), external=Knobs(output_tokens=663)) as harness:
        responses = await asyncio.gather(*(harness.post(chat("Hi.", stream=n % 2 == 1)) for n in range(10)))
        await harness.settled()
        used = sum(attempt.prompt_tokens + attempt.completion_tokens for attempt in harness.attempts())
        assert 0 < used <= 100
        assert {response.status_code for response in responses} == {200, 429}
        assert_too_fast(await harness.post(chat("Hi.")))


async def test_a_first_request_is_not_refused_by_the_default_estimate_as_in_litellm_29191(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, limits(tokens_per_minute=200)) as harness:
        assert (await harness.post(chat())).status_code == 200


async def test_a_request_larger_than_the_limit_is_not_worth_a_retry(tmp_path: Path) -> None:
    async with running(tmp_path, limits(tokens_per_minute=200)) as harness:
        response = await harness.post(chat(max_tokens=1000))
        assert_too_fast(response)
        assert response.headers["x-should-retry"] == "false"


async def test_tokens_that_were_reserved_and_not_used_come_back(tmp_path: Path) -> None:
    async with running(tmp_path, limits(tokens_per_minute=2000)) as harness:
        for stream in (False, True, False):
            assert (await harness.post(chat(max_tokens=1500, stream=stream))).status_code == 200


async def test_a_refused_request_does_not_consume_a_limit_as_in_litellm_39309(tmp_path: Path) -> None:
    changes = limits(requests_per_minute=2, tokens_per_minute=1000)
    async with running(tmp_path, changes) as harness:
        for _ in range(5):
            assert_too_fast(await harness.post(chat(max_tokens=5000)))
        for _ in range(5):
            assert (await harness.post(chat(f"Card {CARD}"))).status_code == 403
        assert [(await harness.post(chat(max_tokens=60))).status_code for _ in range(3)] == [200, 200, 429]


async def test_concurrency(tmp_path: Path) -> None:
    async with running(tmp_path, limits(concurrent=3), external=Knobs(ttft_ms=200)) as harness:
        responses = await asyncio.gather(*(harness.post(chat()) for _ in range(10)))
        statuses = sorted(response.status_code for response in responses)
        assert statuses == [200] * 3 + [429] * 7
        assert (await harness.post(chat())).status_code == 200


async def test_a_budget_that_begins_to_refuse_says_so_though_not_all_of_it_is_spent(tmp_path: Path) -> None:
    payer = {"budgets": [{"usd": 0.01, "per": "lifetime", "alert_at": [50, 100]}]}
    async with running(tmp_path, {"features": {"search": payer}}) as harness:
        before = await harness.metrics()
        assert before.sum("budget_refusals_total", name="search", reason="used") == 0
        statuses = [(await harness.post(chat(max_tokens=400))).status_code for _ in range(20)]
        assert set(statuses) == {200, 429}
        while not (
            told := (await harness.metrics()).sum("budget_alerts_total", name="search", percent="100")
        ):
            await asyncio.sleep(0.01)
        metrics = await harness.metrics()
        assert told == metrics.sum("budget_alerts_total", name="search", percent="100") == 1
        assert metrics.nano("budget_spent_usd", name="search") < 10_000_000
        refusals = metrics.sum("budget_refusals_total", name="search", window="lifetime", reason="used")
        assert refusals == statuses.count(429)


Way = Callable[[Harness], Awaitable[None]]


async def _a_whole_answer(harness: Harness) -> None:
    assert (await harness.post(chat())).status_code == 200


async def _a_stream(harness: Harness) -> None:
    assert (await harness.post(chat(stream=True))).status_code == 200


async def _a_malformed_request(harness: Harness) -> None:
    assert (await harness.post(b"{")).status_code == 400


async def _a_privacy_violation(harness: Harness) -> None:
    assert (await harness.post(chat(CARD))).status_code == 403


async def _an_unknown_model(harness: Harness) -> None:
    assert (await harness.post(chat(model="x"))).status_code == 404


async def _a_request_too_large_for_the_limit(harness: Harness) -> None:
    assert (await harness.post(chat(max_tokens=16_000))).status_code == 429


async def _a_refusal_by_the_upstream(harness: Harness) -> None:
    assert (await harness.post(chat(temperature=9))).status_code == 400


async def _a_failing_upstream(harness: Harness) -> None:
    harness.external.set_knobs(fail_next=1, error_kind=ErrorKind.SERVER_ERROR)
    assert (await harness.post(chat())).status_code == 502


async def _a_stream_that_breaks(harness: Harness) -> None:
    harness.external.set_knobs(fail_next=1, error_kind=ErrorKind.RESET_MID)
    await harness.post(chat(stream=True))


async def _a_client_that_leaves_while_waiting(harness: Harness) -> None:
    harness.external.set_knobs(ttft_ms=NEVER_MS)
    async with await harness.raw() as client:
        await client.request(chat())
        await harness.arrived()


async def _a_client_that_leaves_mid_stream(harness: Harness) -> None:
    harness.external.set_knobs(tokens_per_second=50)
    async with await harness.raw() as client:
        await client.request(chat(stream=True))
        await client.read_until(b"\n\n", count=3)


async def _a_client_that_leaves_while_a_large_prompt_is_scanned(harness: Harness) -> None:
    async with await harness.raw() as client:
        await client.request(chat("lorem ipsum " * 20_000))


WAYS_OUT: list[Way] = [
    _a_whole_answer,
    _a_stream,
    _a_malformed_request,
    _a_privacy_violation,
    _an_unknown_model,
    _a_request_too_large_for_the_limit,
    _a_refusal_by_the_upstream,
    _a_failing_upstream,
    _a_stream_that_breaks,
    _a_client_that_leaves_while_waiting,
    _a_client_that_leaves_mid_stream,
    _a_client_that_leaves_while_a_large_prompt_is_scanned,
]


@pytest.mark.parametrize("way", WAYS_OUT, ids=lambda way: way.__name__.strip("_"))
async def test_the_slot_and_the_money_come_back_after(tmp_path: Path, way: Way) -> None:
    payer = {"limits": {"concurrent": 1, "tokens_per_minute": 10_000}, "budgets": [{"usd": 10, "per": "day"}]}
    async with running(tmp_path, {"features": {"search": payer}}) as harness:
        await way(harness)
        await harness.settled()
        assert await harness.held_nano() == 0
        harness.external.set_knobs(ttft_ms=0, tokens_per_second=0)
        assert (await harness.post(chat(max_tokens=60))).status_code == 200
