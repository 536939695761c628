"""`tollway policy diff` on a ledger of served traffic: what it predicts is what then happens."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.harness import CARD, Harness, Json, chat, config_text, image_parts
from tests.e2e.test_rollback import BASE, serving

# By feature, privacy, size, modality, capability, tags, session and time of the day, and some not at all.
NEW: Json = {
    **BASE,
    "privacy": {"zones": {"internal": ["local"]}},
    "features": {
        "search": {"team": "product", "privacy": "public"},
        "triage": {"team": "product", "privacy": "public"},
    },
    "deployments": {
        **BASE["deployments"],
        "scout": {"context_tokens": 20_000, "max_output_tokens": 100, "supports": ["json_schema"]},
    },
    "keys": {"narrow": None},
    "models": {
        "gpt-4o": None,
        "auto": {
            "use": ["scout", "gpt-4o"],
            "rules": [
                {"when": 'tags.tier == "gold"', "use": ["gpt-4o", "scout"]},
                {"when": "prompt_tokens > 900", "use": ["gpt-4o", "scout"]},
                {"when": '"image" in modalities', "use": ["gpt-4o", "scout"]},
                {"when": "time.year < 2000", "use": ["gpt-4o"]},
                {
                    "when": 'feature == "triage"',
                    "use": ["scout", "gpt-4o"],
                    "prefer": "weights",
                    "weights": {"scout": 60, "gpt-4o": 40},
                    "sticky": True,
                },
            ],
        },
    },
}


def traffic() -> list[tuple[Json, dict[str, str]]]:
    """Bodies and headers of a day's work, each kind several times."""
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    kinds: list[tuple[Json, dict[str, str]]] = [
        (chat(model="auto"), {}),
        (chat(model="auto", stream=True), {}),
        (chat("word " * 1000, model="auto"), {}),
        (chat("word " * 30_000, model="auto"), {}),
        (chat(f"My card is {CARD}.", model="auto"), {}),
        (chat(image_parts("What is this?"), model="auto"), {}),
        (chat(model="auto", tools=[tool]), {}),
        (chat(model="auto", max_tokens=120), {}),
        (chat(model="auto"), {"x_tollway_tags": "tier=gold"}),
        (chat(model="auto"), {"x_tollway_privacy": "confidential"}),
        (chat(model="auto"), {"x_tollway_privacy": "internal"}),
        (chat(model="gpt-4o"), {}),
        (chat(model="scout"), {}),
        (chat(model="scout"), {"x_tollway_privacy": "restricted"}),
        (chat(model="auto", tools=[tool]), {"x_tollway_privacy": "confidential"}),
    ]
    sessions = [
        (chat(model="auto"), {"x_tollway_feature": "triage", "x_tollway_session": f"session-{number}"})
        for number in range(30)
    ]
    return [*kinds, *kinds, *sessions]


async def send(harness: Harness) -> tuple[list[tuple[str, str]], list[str]]:
    """The traffic, one after the other: feature and deployment or error of each, and the refusals."""
    seen = []
    refused = []
    for body, headers in traffic():
        response = await harness.post(body, **headers)
        feature = headers.get("x_tollway_feature", "search")
        if response.status_code == 200:
            seen.append((feature, response.headers["x-tollway-deployment"]))
        else:
            refused.append(response.json()["error"]["code"])
            seen.append((feature, refused[-1]))
    return seen, refused


async def diff(harness: Harness, new: Path, *words: str) -> Json:
    await harness.gateway.flush()
    command = ["policy", "diff", str(harness.config), str(new), "--format", "json", *words]
    done = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def with_ports_of(harness: Harness, changes: Json) -> Json:
    port = int(harness.gateway.admin_url.rsplit(":", 1)[1])
    return {**changes, "server": {"watch": False, "admin": {"port": port}}}


async def test_the_prediction_is_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        new = tmp_path / "new.yaml"
        new.write_text(config_text(with_ports_of(harness, NEW)))
        before, refused_before = await send(harness)
        assert refused_before == []
        predicted = await diff(harness, new)

        assert predicted["requests"] == predicted["judged"] == len(before)
        assert predicted["not_judged"] == []
        assert predicted["replayed_otherwise"] == 0

        assert (await harness.reload(new.read_text())).status_code == 200
        after, _ = await send(harness)

        pairs = Counter(
            (feature, old, now) for (feature, old), (_, now) in zip(before, after, strict=True) if old != now
        )
        told = Counter(
            {(one["feature"], one["from"], one["to"]): one["requests"] for one in predicted["moved"]}
        )
        told.update(
            {
                (one["feature"], one["deployment"], one["code"]): one["requests"]
                for one in predicted["refused"]
            }
        )
        assert told == pairs
        assert 3 <= pairs["triage", "scout", "gpt-4o"] <= 25  # by sticky shares of 40 per cent
        assert {one["code"] for one in predicted["refused"]} >= {
            "model_not_found",
            "privacy_policy_violation",
        }
        by_deployment = Counter(where for _, where in after)
        for one in predicted["deployments"]:
            assert one["new"]["requests"] == by_deployment[one["name"]]


async def test_the_terminal_tells_the_same_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        new = tmp_path / "new.yaml"
        new.write_text(config_text(with_ports_of(harness, {**BASE, "models": {"auto": {"use": ["gpt-4o"]}}})))
        for _ in range(3):
            assert (await harness.post(chat(model="auto"))).status_code == 200
        await harness.gateway.flush()
        command = ["policy", "diff", str(harness.config), str(new), "--since", "1h"]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert done.exit_code == 0, done.output
        assert "3 requests" in done.stdout
        assert "0 as before, 3 move, 0 are newly refused" in done.stdout
        assert "Not replayed: limits and budgets" in done.stdout
        nothing = await diff(harness, new, "--since", "2026-01-01", "--until", "2026-01-02")
        assert nothing["requests"] == 0
        for since in ("yesterday", "7x", "2026-13-01"):
            refused = await asyncio.to_thread(CliRunner().invoke, app, [*command[:4], "--since", since])
            assert (refused.exit_code, "write 7d" in refused.stderr) == (2, True)


async def test_a_file_with_errors_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        new = tmp_path / "new.yaml"
        new.write_text("models: {auto: {use: [nothing]}}")
        command = ["policy", "diff", str(harness.config), str(new)]
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert done.exit_code == 1
        assert f"{new}:1: models.auto.use[0]" in done.stderr
