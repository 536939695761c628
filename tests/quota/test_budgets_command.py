"""`tollway budgets`, as a person at the terminal uses it: from the ledger, and from the shared state."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
import uvloop
from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, NARROW_KEY, chat, config_text, running

# None of them is there any more: the command asks no upstream.
UPSTREAMS = ("EXTERNAL", "REPLICA_1", "REPLICA_2")
BUDGETS: dict[str, Any] = {
    "org": {"budgets": [{"usd": "5", "per": "lifetime"}]},
    "features": {
        "search": {
            "budgets": [
                {"usd": "1", "per": "day", "overrides": [{"usd": "2", "until": "2999-12-31"}]},
                {"usd": "3", "per": "day", "rolling": True, "soft": True},
            ]
        }
    },
}


def tollway(config: Path, *words: str) -> Result:
    environ = {
        "COLUMNS": "160",
        "LEDGER": f"sqlite:///{config.parent / 'ledger.db'}",
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "APP_KEY": APP_KEY,
        "NARROW_KEY": NARROW_KEY,
        **{name: f"http://127.0.0.1:{port}" for port, name in enumerate(UPSTREAMS, 1)},
    }
    return CliRunner().invoke(app, ["budgets", "--config", str(config), *words], env=environ)


def listed(config: Path) -> list[dict[str, Any]]:
    result = tollway(config, "--format", "json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


async def spent_through(tmp_path: Path, changes: dict[str, Any]) -> tuple[Path, int]:
    """The configuration of a gateway that answered three requests, and what they cost in nano-USD."""
    async with running(tmp_path, changes) as harness:
        for _ in range(3):
            assert (await harness.post(chat())).status_code == 200
        rows = await harness.rows()
        return harness.config, sum(row["cost_nano_usd"] for row in rows)


def spend(tmp_path: Path, changes: dict[str, Any]) -> tuple[Path, int]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(spent_through(tmp_path, changes))


def test_the_ledger_tells_what_is_spent_but_not_what_is_held(tmp_path: Path) -> None:
    config, spent = spend(tmp_path, BUDGETS)
    lifetime, day, rolling = listed(config)
    assert {line["spent_usd"] for line in (lifetime, day, rolling)} == {spent / 10**9}
    assert spent > 0
    assert (lifetime["scope"], lifetime["window"], lifetime["limit_usd"]) == ("org", "lifetime", 5)
    assert (lifetime["starts_at"], lifetime["resets_at"]) == (None, None)
    assert (day["scope"], day["name"], day["window"], day["soft"]) == ("feature", "search", "day", False)
    assert (day["limit_usd"], day["usual_limit_usd"]) == (2, 1)
    assert day["limit_changes_at"].startswith("3000-01-01T00:00:00")
    assert day["held_usd"] is None
    assert day["left_usd"] == pytest.approx(2 - spent / 10**9)
    assert day["share"] == pytest.approx(spent / (2 * 10**9), abs=1e-6)
    assert day["resets_at"] > day["starts_at"]
    assert (rolling["window"], rolling["soft"], rolling["resets_at"]) == ("rolling_day", True, None)


def test_the_table_says_what_is_soft_what_rolls_and_what_is_overridden(tmp_path: Path) -> None:
    config, _ = spend(tmp_path, BUDGETS)
    table = tollway(config).stdout
    for words in ("org:", "feature:search", "(soft)", "rolls", "never", "* an override is in force"):
        assert words in table


def test_the_shared_state_tells_what_is_held_too(tmp_path: Path, redis_url: str) -> None:
    org = secrets.token_hex(6)
    changes = BUDGETS | {"state": redis_url, "org": BUDGETS["org"] | {"name": org}}
    config, spent = spend(tmp_path, changes)
    assert spent > 0
    for line in listed(config):
        assert line["spent_usd"] == spent / 10**9
        assert line["held_usd"] == 0


def test_without_the_shared_state_the_ledger_is_asked(tmp_path: Path) -> None:
    config, spent = spend(tmp_path, BUDGETS)
    text = config_text(BUDGETS | {"state": "redis://127.0.0.1:1"})
    config.write_text(text)
    result = tollway(config, "--format", "json")
    assert "the shared state is unreachable" in result.stderr
    assert json.loads(result.stdout)[0]["held_usd"] is None
    assert spent > 0


def test_a_configuration_with_errors_is_told(tmp_path: Path) -> None:
    config = tmp_path / "tollway.yaml"
    config.write_text("org: {budgets: [{usd: much, per: day}]}\n")
    result = tollway(config)
    assert result.exit_code == 1
    assert "tollway.yaml:1: org.budgets[0].usd" in result.stderr
