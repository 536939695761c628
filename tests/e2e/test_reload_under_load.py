"""Reloads under streaming load: no failed request, no cut stream, each row's version consistent.

`TOLLWAY_RELOAD_SECONDS` and `TOLLWAY_RELOAD_RELOADS` set how long and how dense; 20 and 50 is the full one.
"""

import asyncio
import itertools
import os
from pathlib import Path

import httpx
from structlog.testing import capture_logs

from gateway.core.policy import Policy
from gateway.simulators.knobs import Knobs
from tests.e2e.harness import Harness, Json, Streamed, chat, config_text, running, until

SECONDS = float(os.environ.get("TOLLWAY_RELOAD_SECONDS", "6"))
RELOADS = int(os.environ.get("TOLLWAY_RELOAD_RELOADS", "20"))
CLIENTS = 12
QUICK = Knobs(ttft_ms=30, tokens_per_second=200)

# Each version sends `auto` elsewhere, so that a row tells by its deployment which one planned it.
TO_SCOUT: Json = {"models": {"auto": {"use": ["scout"]}}}
TO_GPT: Json = {"models": {"auto": {"use": ["gpt-4o"]}}}
# A new address of the same replicas, keys and features that come and go, and other limits.
RENAMED: Json = {
    "models": {"auto": {"use": ["llama"]}, "scout": None},
    "deployments": {"scout": None, "llama": None},
    "keys": {"narrow": None, "extra": {"secret": "key-of-nobody-0123456789", "feature": "extra"}},
    "features": {"extra": {"team": "product", "budgets": [{"usd": 3, "per": "day"}]}},
}
BROKEN = (
    config_text(TO_GPT).replace("use:", "usse:"),
    "models: {auto: {use: [nothing]}}",
    "[",
    "",
    config_text({**TO_GPT, "server": {"data": {"port": 1}}}),
)


def versions() -> list[str]:
    texts = [config_text(TO_SCOUT), config_text(TO_GPT)]
    renamed = config_text({**TO_SCOUT, "features": RENAMED["features"], "keys": RENAMED["keys"]})
    return [*texts, renamed.replace("  scout:\n", "  llama:\n", 1).replace("- scout\n", "- llama\n")]


async def test_reloads_under_load_disturb_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, TO_SCOUT, external=QUICK, replicas=(QUICK, QUICK)) as harness:
        loop = asyncio.get_running_loop()
        end = loop.time() + SECONDS
        clients = [asyncio.create_task(_stream(harness, end)) for _ in range(CLIENTS)]
        with capture_logs() as logs:
            planned = await _load(harness, end)
        answers = [answer for client in clients for answer in await client]
        # Not `settled`: replicas that came back have tasks of their own, their probes.
        await until(lambda: not harness.in_flight())
        rows = {row["request_id"]: row for row in await harness.rows()}

        assert [entry for entry in logs if entry["log_level"] == "error"] == []
        assert len(answers) > CLIENTS
        served = set()
        for response, streamed in answers:
            assert (response.status_code, streamed.errors, streamed.is_done) == (200, [], True)
            row = rows.pop(response.headers["x-request-id"])
            assert row["outcome"] == "success"
            version = response.headers["x-tollway-policy"]
            assert row["policy_version"] == version
            # Planned, sent and priced by that version, and by no other.
            assert row["deployment"] == response.headers["x-tollway-deployment"] == planned[version]
            served.add(version)
        assert rows == {}
        assert served == set(planned)
        assert harness.in_flight() == 0
        assert len(asyncio.all_tasks()) == len(harness._at_rest)


async def _stream(harness: Harness, end: float) -> list[tuple[httpx.Response, Streamed]]:
    """One stream after another until `end`."""
    answers = []
    body = chat("Tell me a story of ships.", model="auto", stream=True, max_tokens=40)
    while asyncio.get_running_loop().time() < end:
        async with harness.http.stream("POST", "/v1/chat/completions", json=body) as response:
            answers.append((response, Streamed(await response.aread())))
    return answers


async def _load(harness: Harness, end: float) -> dict[str, str]:
    """Reload again and again, some of it broken. The deployment of `auto` by version that came into force."""
    planned = {_policy(harness).version: "scout"}
    files = itertools.cycle((*versions(), *BROKEN))
    pause = SECONDS / RELOADS
    for number in range(RELOADS):
        answer = await harness.reload(next(files))
        assert answer.status_code in {200, 409, 422}, answer.text
        if answer.status_code == 200:
            policy = _policy(harness)
            assert answer.json()["version"] == policy.version
            (only,) = policy.models["auto"].use
            planned[policy.version] = only.name
        left = end - asyncio.get_running_loop().time() - pause * (RELOADS - number - 1)
        await asyncio.sleep(max(left, 0))
    return planned


def _policy(harness: Harness) -> Policy:
    return harness.gateway.pipeline.rulebook.routes.policy
