"""One request by its id: `GET /admin/v1/requests/{id}` and `tollway requests show` on a running gateway."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.core.allowances import Allowances
from gateway.proxy.unanswered import OF_EACH_KIND
from gateway.simulators.knobs import ErrorKind, Knobs
from tests.e2e.harness import CARD, NARROW_KEY, Harness, chat, running

SECRET_TEXT = "the quarterly plan of Project Heron"


async def asked(harness: Harness, request_id: str) -> dict[str, Any]:
    answer = await harness.admin("GET", f"/admin/v1/requests/{request_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def command(harness: Harness, request_id: str, *words: str) -> Any:
    return CliRunner().invoke(
        app,
        ["requests", "show", request_id, "--config", str(harness.config), *words],
        env={"LEDGER": f"sqlite:///{harness.ledger}"},
    )


async def test_an_answered_request_has_its_way_its_usage_and_its_cost(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answer = await harness.post(chat(model="auto", max_tokens=5), x_tollway_tags="customer=acme")
        request_id = answer.headers["x-request-id"]
        [row] = await harness.rows()
        found = await asked(harness, request_id)
        assert (found["request_id"], found["state"], found["refusal"]) == (request_id, "ended", None)
        assert found["cost_usd"] == row["cost_nano_usd"] / 10**9 > 0
        [attempt] = found["attempts"]
        assert attempt["attempt_id"] == row["attempt_id"]
        assert attempt["state"] == "ended"
        for name in ("deployment", "zone", "replica", "decision", "privacy", "outcome", "output_tokens"):
            assert attempt[name] == row[name]
        assert attempt["decision"] == answer.headers["x-tollway-decision"]
        assert attempt["held_usd"] == row["held_nano_usd"] / 10**9
        assert attempt["tags"] == {"customer": "acme"}
        assert round(attempt["input_usd"] + attempt["output_usd"], 9) == found["cost_usd"]
        assert attempt["rates_usd_per_million"].keys() == {"input_text", "output_text"}
        assert attempt["corrections"] == []
        assert await asked(harness, row["attempt_id"]) == found


async def test_every_attempt_is_told_in_order_and_what_the_client_got(tmp_path: Path) -> None:
    failing = Knobs(error_rate=1, error_kind=ErrorKind.SERVER_ERROR)
    async with running(tmp_path, replicas=(failing, failing), external=failing) as harness:
        answer = await harness.post(chat(model="auto", max_tokens=5))
        assert answer.status_code == 502
        await harness.gateway.flush()
        found = await asked(harness, answer.headers["x-request-id"])
        attempts = found["attempts"]
        assert [one["attempt_id"].rpartition(":")[2] for one in attempts] == ["1", "2", "3"]
        assert {one["outcome"] for one in attempts} == {"upstream_error"}
        assert [one["deployment"] for one in attempts] == ["scout", "scout", "gpt-4o"]
        assert found["state"] == "refused"
        refusal = found["refusal"]
        assert (refusal["status"], refusal["code"]) == (502, "upstream_error")
        assert (refusal["refused_by"], refusal["attempts"], refusal["deployment"]) == (
            "upstream",
            3,
            "gpt-4o",
        )


async def test_what_is_not_committed_yet_is_found_in_the_journal(tmp_path: Path) -> None:
    slow = Knobs(output_tokens=100_000, tokens_per_second=100)
    async with running(tmp_path, replicas=(slow, slow)) as harness:
        harness.gateway.parts.ledger.pause_commits()
        client = harness.client()
        stream = await client.chat.completions.create(
            model="scout", messages=[{"role": "user", "content": "go on"}], stream=True
        )
        request_id = stream.response.headers["x-request-id"]
        found = await asked(harness, request_id)
        assert found["state"] == "under_way"
        [attempt] = found["attempts"]
        assert attempt["state"] == "under_way"
        assert attempt["deployment"] == "scout"
        assert attempt["held_usd"] > 0
        assert [attempt[name] for name in ("outcome", "status", "output_tokens", "cost_usd")] == [None] * 4
        told = command(harness, request_id)
        assert told.exit_code == 0, told.output
        assert "under way" in told.output
        await stream.close()
        await harness.settled()
        found = await asked(harness, request_id)  # its end, and no row in the database
        assert (found["state"], found["attempts"][0]["outcome"]) == ("ended", "client_disconnect")
        assert harness.stored_rows() == []
        harness.gateway.parts.ledger.resume_commits()
        await harness.gateway.flush()
        assert await asked(harness, request_id) == found


async def test_a_refused_request_is_found_with_its_reason_and_without_its_content(tmp_path: Path) -> None:
    limited = {"features": {"triage": {"limits": {"requests_per_minute": 1}}}}
    async with running(tmp_path, limited) as harness:
        text = f"{SECRET_TEXT} {CARD}"
        cases = {
            "privacy": await harness.post(chat(text, model="gpt-4o")),
            "model": await harness.post(chat(text, model="gpt-9")),
            "key": await harness.post(chat(text), authorization="Bearer nobody"),
            "request": await harness.http.get("/v1/no-such-url"),
        }
        await harness.post(chat(model="scout"), x_tollway_feature="triage")
        cases["limit"] = await harness.post(chat(text, model="scout"), x_tollway_feature="triage")
        await harness.gateway.flush()
        for refused_by, answer in cases.items():
            request_id = answer.headers["x-request-id"]
            found = await asked(harness, request_id)
            refusal = found["refusal"]
            error = answer.json()["error"]
            assert (found["state"], found["attempts"], found["cost_usd"]) == ("refused", [], 0)
            assert refusal["refused_by"] == refused_by
            assert (refusal["status"], refusal["code"]) == (answer.status_code, error["code"])
            assert refusal["message"] == error["message"][:300]
            assert SECRET_TEXT not in json.dumps(found)
            told = command(harness, request_id)
            assert told.exit_code == 0, told.output
            assert f"refused by {refused_by}: {answer.status_code} {error['code']}" in told.output
        limit = (await asked(harness, cases["limit"].headers["x-request-id"]))["refusal"]
        assert (limit["scope"], limit["limit_name"]) == ("feature:triage", "requests_per_minute")
        privacy = (await asked(harness, cases["privacy"].headers["x-request-id"]))["refusal"]
        assert [privacy[name] for name in ("key", "feature", "team", "model", "privacy", "endpoint")] == [
            *("app", "search", "product", "gpt-4o", "confidential", "chat")
        ]


async def test_what_an_upstream_said_is_not_kept(tmp_path: Path) -> None:
    said = Knobs(
        error_rate=1,
        error_kind=ErrorKind.REFUSAL,
        refusal_status=400,
        refusal_code="bad_prompt",
        refusal_message=f"Not allowed: {SECRET_TEXT}",
    )
    async with running(tmp_path, external=said) as harness:
        answer = await harness.post(chat(model="gpt-4o"))
        assert SECRET_TEXT in answer.text
        await harness.gateway.flush()
        found = await asked(harness, answer.headers["x-request-id"])
        assert found["refusal"]["message"] == ""
        assert found["refusal"]["refused_by"] == "upstream"
        assert SECRET_TEXT not in json.dumps(found)


async def test_an_id_of_which_nothing_is_known_is_a_404_and_an_exit_code(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answer = await harness.admin("GET", "/admin/v1/requests/req_unknown")
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert error["code"] == "request_not_found"
        assert "Nothing is known of 'req_unknown'" in error["message"]
        told = command(harness, "req_unknown")
        assert told.exit_code == 1
        assert "tollway requests show: Nothing is known of 'req_unknown'" in told.stderr


async def test_the_command_prints_what_the_admin_port_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answer = await harness.post(chat(model="scout", max_tokens=5))
        request_id = answer.headers["x-request-id"]
        await harness.gateway.flush()
        told = command(harness, request_id, "--format", "json")
        assert json.loads(told.stdout) == await asked(harness, request_id)
        table = command(harness, request_id).stdout
        [attempt] = (await asked(harness, request_id))["attempts"]
        assert f"request {request_id}: ended, {attempt['cost_usd']:.9f} USD" in table
        assert "key app, feature search, team product" in table
        assert attempt["replica"] in table


@pytest.mark.parametrize("key", ["nobody", NARROW_KEY])
async def test_a_flood_of_refusals_leaves_a_bounded_number_of_records(tmp_path: Path, key: str) -> None:
    often = {"server": {"refusals": {"per_minute_by_address": 10_000, "per_minute_by_key": 10_000}}}
    async with running(tmp_path, often) as harness:
        unanswered, answers = harness.gateway.pipeline.unanswered, []
        while not unanswered.not_kept:
            answers += await asyncio.gather(
                *(harness.post(chat(model="scout"), authorization=f"Bearer {key}") for _ in range(20))
            )
        assert len(answers) > OF_EACH_KIND
        assert {answer.status_code for answer in answers} <= {401, 404}
        await harness.gateway.flush()
        metrics = await harness.metrics()
        assert metrics.sum("refusals_not_kept_total") == unanswered.not_kept
        kept = [
            answer
            for answer in answers
            if (await harness.admin("GET", f"/admin/v1/requests/{answer.headers['x-request-id']}")).is_success
        ]
        assert len(kept) == len(answers) - unanswered.not_kept


async def test_denials_beyond_the_bound_are_counted_in_the_audit_log(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        unanswered = harness.gateway.pipeline.unanswered
        before = unanswered.not_kept
        while unanswered.not_kept < before + 5:
            await harness.post(chat(CARD, model="gpt-4o"))
        unanswered._denials._each = Allowances(OF_EACH_KIND)  # as after some minutes
        await harness.post(chat(CARD, model="gpt-4o"))
        await harness.gateway.flush()
        told = CliRunner().invoke(
            app,
            ["audit", "acts", "--config", str(harness.config), "--format", "json"],
            env={"LEDGER": f"sqlite:///{harness.ledger}"},
        )
        denials = [one["particulars"] for one in json.loads(told.stdout) if one["kind"] == "refused"]
        assert denials[-1]["left_out"] == 5
        assert all("left_out" not in one for one in denials[:-1])
