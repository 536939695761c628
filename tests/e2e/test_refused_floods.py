"""Floods of refusals: who causes them waits, everybody else does not, and nothing fills up."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
from typer.testing import CliRunner

from gateway.cli import app
from gateway.proxy.unanswered import LINES_OF_EACH_KIND, OF_EACH_KIND
from tests.e2e.harness import CARD, NARROW_KEY, Harness, chat, running, until
from tests.e2e.test_access_log import WrittenLog, logging

FEW: dict[str, Any] = {"server": {"refusals": {"per_minute_by_address": 3, "per_minute_by_key": 3}}}
MANY: dict[str, Any] = {"refusals": {"per_minute_by_address": 100_000, "per_minute_by_key": 100_000}}


async def asked(harness: Harness, key: str, **headers: str) -> httpx.Response:
    return await harness.post(chat(max_tokens=1), authorization=f"Bearer {key}", **headers)


async def test_wrong_keys_are_turned_away_and_right_ones_from_the_same_address_are_not(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, FEW) as harness:
        answers = [await asked(harness, f"guess-{number}") for number in range(6)]
        assert [one.status_code for one in answers] == [401] * 3 + [429] * 3
        error = answers[-1].json()["error"]
        assert error["code"] == "too_many_refusals"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        assert answers[-1].headers["x-should-retry"] == "false"
        listed = await harness.http.get("/v1/models", headers={"authorization": "Bearer wrong"})
        assert listed.status_code == 429
        assert (await harness.post(chat(max_tokens=1))).status_code == 200
        assert (await asked(harness, NARROW_KEY)).status_code == 200  # never seen before
        metrics = await harness.metrics()
        assert metrics.sum("refusals_limited_total", result="refused") == 4
        assert metrics.sum("refusals_total", code="too_many_refusals") == 3


async def test_wrong_admin_tokens_count_with_wrong_keys_and_the_right_one_still_opens(tmp_path: Path) -> None:
    async with running(tmp_path, FEW) as harness:
        wrong = {"authorization": "Bearer wrong"}
        url = f"{harness.gateway.admin_url}/metrics"
        answers = [await harness.http.get(url, headers=wrong) for _ in range(5)]
        assert [one.status_code for one in answers] == [401] * 3 + [429] * 2
        assert (await asked(harness, "guess")).status_code == 429
        assert (await harness.metrics()).sum("refusals_limited_total") == 3


async def test_refusals_by_privacy_count_for_their_key_and_all_of_them_reach_the_audit_log(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, FEW) as harness:
        answers = [await harness.post(chat(CARD)) for _ in range(6)]
        assert [one.status_code for one in answers] == [403] * 3 + [429] * 3
        assert (await harness.post(chat(max_tokens=1))).status_code == 200
        other = {"authorization": f"Bearer {NARROW_KEY}"}
        assert (await harness.post(chat(CARD), **other)).status_code == 403
        await harness.gateway.flush()
        told = CliRunner().invoke(
            app,
            ["audit", "acts", "--config", str(harness.config), "--format", "json"],
            env={"LEDGER": f"sqlite:///{harness.ledger}"},
        )
        denials = [one["particulars"] for one in json.loads(told.stdout) if one["kind"] == "refused"]
        assert [one["key"] for one in denials] == ["app"] * 6 + ["narrow"]


async def test_a_valid_key_that_asks_for_what_it_may_not_counts_for_itself(tmp_path: Path) -> None:
    async with running(tmp_path, FEW) as harness:
        for _ in range(5):
            await asked(harness, "guess")
        told = [await asked(harness, NARROW_KEY, x_tollway_feature="another") for _ in range(5)]
        assert [one.status_code for one in told] == [403] * 3 + [429] * 2
        assert "'narrow'" in told[-1].json()["error"]["message"]
        assert (await asked(harness, NARROW_KEY)).status_code == 200


async def test_whose_forwarded_address_counts_is_said_by_the_trusted_proxies(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    proxies = {"data": {"port": 0, "trusted_proxies": ["127.0.0.0/8"]}}
    async with logging(tmp_path, log, access_log="all", **proxies, **FEW["server"]) as harness:
        told = [await asked(harness, "guess", x_forwarded_for=f"1.2.3.{n}, 203.0.113.5") for n in range(4)]
        assert [one.status_code for one in told] == [401] * 3 + [429]
        assert (await asked(harness, "guess", x_forwarded_for="203.0.113.6")).status_code == 401
        assert (await harness.post(chat(max_tokens=1), x_forwarded_for="203.0.113.5")).status_code == 200
    lines = log.read()
    assert [line["client"] for line in lines] == ["203.0.113.5"] * 4 + ["203.0.113.6", "203.0.113.5"]
    assert all(line["peer"].startswith("127.0.0.1:") for line in lines)


async def test_without_trusted_proxies_nobody_can_ask_in_the_name_of_another(tmp_path: Path) -> None:
    async with running(tmp_path, FEW) as harness:
        told = [await asked(harness, "guess", x_forwarded_for=f"203.0.113.{n}") for n in range(4)]
        assert [one.status_code for one in told] == [401] * 3 + [429]


async def test_a_reload_brings_other_proxies_and_allowances(tmp_path: Path) -> None:
    async with running(tmp_path, FEW) as harness:
        assert [(await asked(harness, "guess")).status_code for _ in range(4)][-1] == 429
        changes = {
            "server": {
                "data": {"trusted_proxies": ["127.0.0.0/8"]},
                "refusals": {"per_minute_by_address": 1},
            }
        }
        assert (await harness.reload(changes)).status_code == 200
        for number in range(3):
            forwarded = f"203.0.113.{number}"
            told = [await asked(harness, "guess", x_forwarded_for=forwarded) for _ in range(2)]
            assert [one.status_code for one in told] == [401, 429]


async def test_an_answer_that_waits_holds_nobody_up_and_comes_when_its_turn_has(tmp_path: Path) -> None:
    changes = {"server": {"refusals": {"per_minute_by_address": 30}}}
    async with running(tmp_path, changes) as harness:
        turn, delays = asyncio.Event(), []

        async def sleep(seconds: float) -> None:
            delays.append(seconds)
            await turn.wait()

        harness.gateway.parts.refusal_limits._sleep = sleep
        for _ in range(30):
            assert (await asked(harness, "guess")).status_code == 401
        late = asyncio.create_task(asked(harness, "guess"))
        await until(lambda: bool(delays))
        assert (await harness.post(chat(max_tokens=1))).status_code == 200
        assert not late.done()
        turn.set()
        assert (await late).status_code == 401


async def test_a_client_that_leaves_while_its_refusal_waits_leaves_nothing_behind(tmp_path: Path) -> None:
    changes = {"server": {"refusals": {"per_minute_by_address": 30}}}
    async with running(tmp_path, changes) as harness:
        limits, turn = harness.gateway.parts.refusal_limits, asyncio.Event()

        async def sleep(_: float) -> None:
            await turn.wait()

        limits._sleep = sleep
        for _ in range(30):
            await asked(harness, "guess")
        async with await harness.raw() as client:
            await client.request(chat(), key="guess")
            await until(lambda: limits._waiting == 1)
            client.hang_up()
        turn.set()
        await until(lambda: limits._waiting == 0)


async def test_a_flood_of_refusals_leaves_a_bounded_log_and_the_next_line_counts_the_rest(
    tmp_path: Path,
) -> None:
    log = WrittenLog(tmp_path / "log")
    async with logging(tmp_path, log, **MANY) as harness:
        for _ in range(LINES_OF_EACH_KIND // 20 + 2):
            await asyncio.gather(*(asked(harness, "guess") for _ in range(20)))
        await asked(harness, NARROW_KEY)
        await harness.post(chat(model="gpt-9"))
    lines = log.read()
    assert LINES_OF_EACH_KIND < len(lines) < LINES_OF_EACH_KIND + 20
    assert lines[-1]["code"] == "model_not_found"


async def test_strangers_cannot_push_what_keys_are_refused_out_of_records_and_audit_log(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, {"server": MANY}) as harness:
        for number in range(2 * OF_EACH_KIND):
            await harness.http.get(f"/nowhere/{number}")
            await asked(harness, "guess")
            await asked(harness, NARROW_KEY, x_tollway_feature="nobody's")
            await harness.http.put("/v1/models", headers={"authorization": "Bearer wrong"})
            await harness.http.get("/v1/models", headers={"authorization": "Bearer wrong"})
        denied = await harness.post(chat(CARD))
        await harness.gateway.flush()
        found = await harness.admin("GET", f"/admin/v1/requests/{denied.headers['x-request-id']}")
        assert found.is_success
