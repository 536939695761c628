"""Reload: another version comes into force whole, at once, and without touching what is under way."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
from structlog.testing import capture_logs

from gateway.app import Gateway
from gateway.ledger.policies import read_policies
from gateway.policy.rollout.reloader import How
from gateway.simulators.knobs import Knobs
from tests.e2e.harness import Harness, Json, Streamed, chat, config_text, running, until, version

TO_GPT: Json = {"models": {"auto": {"use": ["gpt-4o"]}}}
BROKEN = config_text(TO_GPT).replace("use:", "usse:")
SLOW = Knobs(ttft_ms=100, tokens_per_second=100)


async def deployment_of(harness: Harness, **more: Any) -> str:
    response = await harness.post(chat(model="auto", **more))
    assert response.status_code == 200, response.text
    return response.headers["x-tollway-deployment"]


def problems(response: httpx.Response) -> list[str]:
    return [f"{item['line']}: {item['path']}: {item['message']}" for item in response.json()["problems"]]


async def test_the_next_request_goes_where_the_new_version_says(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        assert await deployment_of(harness) == "scout"
        answer = await harness.reload(TO_GPT)
        assert (answer.status_code, answer.json()) == (
            200,
            {
                "version": version(config_text(TO_GPT)),
                "previous": version(config_text()),
                "changed": True,
                "warnings": [],
            },
        )
        assert await deployment_of(harness) == "gpt-4o"
        before, after = await harness.rows()
        assert [before["policy_version"], after["policy_version"]] == [
            answer.json()["previous"],
            answer.json()["version"],
        ]
        metrics = await harness.metrics()
        assert metrics.sum("policy_info", version=answer.json()["version"]) == 1
        assert metrics.sum("config_reloads_total", result="applied") == 1


async def test_a_stream_that_runs_ends_under_the_version_that_it_began_with(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=(SLOW, SLOW)) as harness:
        body = chat("Tell me a long story.", model="auto", stream=True, max_tokens=60)
        async with harness.http.stream("POST", "/v1/chat/completions", json=body) as response:
            await harness.arrived()
            # Its deployment, model, feature and key are all gone in the new version.
            gone: Json = {
                "deployments": {"scout": None},
                "models": {"scout": None, "auto": {"use": ["gpt-4o"]}},
                "keys": {"app": {"features": None, "feature": "triage"}, "narrow": None},
                "features": {"search": None},
            }
            assert (await harness.reload(gone)).status_code == 200
            streamed = Streamed(await response.aread())
        assert streamed.is_done
        assert response.headers["x-tollway-policy"] == version(config_text())
        await harness.settled()
        (row,) = await harness.rows()
        assert (row["outcome"], row["deployment"], row["decision"]) == ("success", "scout", "order")
        assert (row["feature"], row["policy_version"]) == ("search", version(config_text()))


async def test_a_file_with_errors_leaves_the_version_before_and_says_what_is_wrong(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        with capture_logs() as logs:
            answer = await harness.reload(BROKEN)
        line = BROKEN[: BROKEN.index("usse")].count("\n") + 1
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "invalid_configuration"
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["version"] == version(config_text())
        assert any(f"{line}: models.gpt-4o.usse:" in problem for problem in problems(answer))
        (entry,) = [entry for entry in logs if entry["event"] == "config.reload_refused"]
        assert f"{harness.config}:{line}: models.gpt-4o.usse:" in " ".join(entry["problems"])
        assert entry["still_serving"] == version(config_text())
        assert await deployment_of(harness) == "scout"
        metrics = await harness.metrics()
        assert metrics.sum("config_last_reload_successful") == 0
        assert metrics.sum("config_reloads_total", result="invalid") == 1
        assert (await harness.reload(TO_GPT)).status_code == 200
        assert (await harness.metrics()).sum("config_last_reload_successful") == 1


async def test_a_file_whose_own_tests_fail_leaves_the_version_before(tmp_path: Path) -> None:
    tested = {"name": "goes out", "request": {"model": "auto"}, "expect": {"deployment": "gpt-4o"}}
    async with running(tmp_path) as harness:
        answer = await harness.reload({"policy_tests": [tested]})
        assert answer.status_code == 422
        (problem,) = problems(answer)
        assert "policy test 'goes out' failed: expected deployment gpt-4o, found the order scout" in problem
        assert answer.json()["problems"][0]["path"] == "policy_tests[0]"
        assert (await harness.reload({**TO_GPT, "policy_tests": [tested]})).status_code == 200


async def test_a_file_that_has_gone_leaves_the_version_before(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        harness.config.unlink()
        answer = await harness.admin("POST", "/admin/v1/reload")
        assert answer.status_code == 422
        assert problems(answer) == ["None: : cannot be read: No such file or directory"]
        assert await deployment_of(harness) == "scout"


async def test_what_only_a_restart_can_change_refuses_the_whole_file(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        changes = {**TO_GPT, "server": {"data": {"port": 9999}, "drain_seconds": 2}, "org": {"name": "other"}}
        answer = await harness.reload(changes)
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "restart_required"
        assert answer.json()["settings"] == ["org.name", "server.data.port", "server.drain_seconds"]
        assert await deployment_of(harness) == "scout"
        assert (await harness.metrics()).sum("config_last_reload_successful") == 0


async def test_an_unchanged_file_is_taken_over_again_and_is_no_change(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        answer = await harness.reload({})
        assert (answer.status_code, answer.json()["changed"]) == (200, False)
        assert (await harness.metrics()).sum("config_reloads_total", result="unchanged") == 1
        await harness.gateway.flush()
        assert [change.how for change in _history(harness).changes] == ["start"]


async def test_without_the_admin_token_nobody_reloads(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        harness.config.write_text(config_text(TO_GPT))
        response = await harness.http.post(f"{harness.gateway.admin_url}/admin/v1/reload")
        assert response.status_code == 401
        assert await deployment_of(harness) == "scout"


async def test_keys_features_and_limits_change_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        assert await deployment_of(harness) == "scout"
        answer = await harness.reload({"keys": {"app": {"models": ["gpt-4o"]}}})
        assert answer.status_code == 200
        refused = await harness.post(chat(model="auto"))
        assert refused.json()["error"]["code"] == "model_not_found"
        await harness.reload({"features": {"search": {"limits": {"requests_per_minute": 1}}}})
        assert await deployment_of(harness) == "scout"
        limited = await harness.post(chat(model="auto"))
        assert limited.json()["error"]["code"] == "rate_limit_exceeded"


async def test_what_was_spent_stays_spent(tmp_path: Path) -> None:
    def budget(usd: float) -> Json:
        return {"features": {"search": {"budgets": [{"usd": usd, "per": "day"}]}}}

    async with running(tmp_path, budget(10)) as harness:
        await deployment_of(harness)
        spent = (await harness.metrics()).nano("budget_spent_usd")
        assert spent > 0
        await harness.reload(budget(5))
        metrics = await harness.metrics()
        assert (metrics.nano("budget_spent_usd"), metrics.sum("budget_limit_usd")) == (spent, 5)


async def test_what_was_learned_of_replicas_that_stay_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=(SLOW, SLOW)) as harness:
        held = asyncio.create_task(harness.post(chat("Tell me much.", model="scout", max_tokens=80)))
        await harness.arrived()
        before = harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["scout"]
        before.bytes_per_token, before.ttft_seconds, before.tokens_per_second = 3.5, 0.25, 77.0
        before.replicas[1].breaker.failed(harness.gateway.pipeline._clock.monotonic(), weight=3)
        assert (await harness.reload(TO_GPT)).status_code == 200
        after = harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["scout"]
        assert after is not before
        assert (after.bytes_per_token, after.ttft_seconds, after.tokens_per_second) == (3.5, 0.25, 77.0)
        assert after.in_flight == 1
        assert [state.breaker for state in after.replicas] == [state.breaker for state in before.replicas]
        assert (await held).status_code == 200
        assert after.in_flight == 0


async def test_another_model_behind_the_same_name_is_learned_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        before = harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["gpt-4o"]
        before.bytes_per_token = 3.5
        await harness.reload({"deployments": {"gpt-4o": {"model": "gpt-4o-mini"}}})
        after = harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["gpt-4o"]
        assert after.bytes_per_token == 4.0
        assert after.replicas == before.replicas


# --- what brings it about ---


async def serves(gateway: Gateway, text: str) -> None:
    await until(lambda: gateway.pipeline.rulebook.routes.policy.version == version(text))


WATCHED: Json = {"server": {"watch": True}}
WATCHED_TO_GPT = config_text({**WATCHED, **TO_GPT})


async def test_a_file_that_changes_is_taken_over_by_itself(tmp_path: Path, quick_watch: None) -> None:
    async with running(tmp_path, WATCHED) as harness:
        harness.config.write_text(WATCHED_TO_GPT)
        await serves(harness.gateway, WATCHED_TO_GPT)
        assert await deployment_of(harness) == "gpt-4o"


async def test_a_file_behind_a_link_is_taken_over_when_the_link_moves(
    tmp_path: Path, quick_watch: None
) -> None:
    """As Kubernetes brings a changed ConfigMap."""
    async with running(tmp_path, WATCHED) as harness:
        next_file = tmp_path / "next.yaml"
        next_file.write_text(WATCHED_TO_GPT)
        link = tmp_path / "link"
        link.symlink_to(next_file)
        link.replace(harness.config)
        await serves(harness.gateway, WATCHED_TO_GPT)


async def test_a_broken_file_is_told_once_and_its_repair_is_taken_over(
    tmp_path: Path, quick_watch: None
) -> None:
    async with running(tmp_path, WATCHED) as harness:
        with capture_logs() as logs:
            harness.config.write_text(WATCHED_TO_GPT.replace("use:", "usse:"))
            await until(lambda: any(entry["event"] == "config.reload_refused" for entry in logs))
            await asyncio.sleep(0.1)
        assert [entry["event"] for entry in logs].count("config.reload_refused") == 1
        harness.config.write_text(WATCHED_TO_GPT)
        await serves(harness.gateway, WATCHED_TO_GPT)


async def test_a_file_that_is_not_watched_waits_to_be_asked_for(tmp_path: Path, quick_watch: None) -> None:
    async with running(tmp_path) as harness:
        harness.config.write_text(config_text(TO_GPT))
        await asyncio.sleep(0.1)
        assert await deployment_of(harness) == "scout"
        assert harness.gateway.reloader is not None
        harness.gateway.reloader.reload_soon(How.SIGNAL)
        await serves(harness.gateway, config_text(TO_GPT))


async def test_new_budgets_wait_for_the_ledger_to_say_what_was_spent_and_then_come_by_themselves(
    tmp_path: Path, quick_watch: None
) -> None:
    new = {**WATCHED, "features": {"search": {"budgets": [{"usd": 5, "per": "day"}]}}}
    async with running(tmp_path, WATCHED) as harness:
        await deployment_of(harness)
        await harness.gateway.flush()
        aside = harness.ledger.with_suffix(".aside")
        harness.ledger.rename(aside)  # the writer keeps its own hold of it; nobody else can read it
        answer = await harness.reload(new)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
        assert answer.headers["retry-after"] == "5"
        assert await deployment_of(harness) == "scout"
        assert (await harness.metrics()).sum("config_reloads_total", result="unavailable") >= 1
        aside.rename(harness.ledger)
        await serves(harness.gateway, config_text(new))
        assert (await harness.metrics()).nano("budget_spent_usd") > 0


# --- what is kept of it ---


def _history(harness: Harness) -> Any:
    return read_policies(f"sqlite:///{harness.ledger}")


async def test_every_version_that_served_can_be_got_back_with_when_and_how(tmp_path: Path) -> None:
    async with running(tmp_path, {"deployments": {"embedder": None}, "models": {"embed": None}}) as harness:
        first = harness.config.read_text()
        second = first.replace("prefer", "prefer").replace("product: {}", "product: {}  # the same team")
        assert (await harness.reload(second)).status_code == 200
        assert (await harness.reload(BROKEN)).status_code == 422
        assert (await harness.reload(first)).status_code == 200
        await harness.gateway.flush()
        history = _history(harness)
        assert [(change.version, change.how) for change in history.changes] == [
            (version(first), "start"),
            (version(second), "admin"),
            (version(first), "admin"),
        ]
        assert set(history.texts) == {version(first), version(second)}


async def test_a_secret_that_was_written_into_the_file_is_not_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        await harness.gateway.flush()
        (text,) = _history(harness).texts.values()
        assert "sk-simulated-account-key" in harness.config.read_text()
        assert "sk-simulated-account-key" not in text.text
        assert "${APP_KEY}" in text.text
        assert not text.whole
        assert b"sk-simulated-account-key" not in harness.ledger.read_bytes()
