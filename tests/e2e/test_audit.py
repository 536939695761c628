"""The audit log of a whole gateway: every attempt with the address it went to, refusals, and the commands."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import uvloop
from typer.testing import CliRunner

from gateway.cli import app
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, NARROW_KEY, Harness, chat, running


def audit(folder: Path, *words: str) -> tuple[int, Any]:
    config = str(folder / "tollway.yaml")
    places = ("EXTERNAL", "REPLICA_1", "REPLICA_2")
    nowhere = {name: f"http://127.0.0.1:{port}" for port, name in enumerate(places, 1)}
    secrets = {"ADMIN_TOKEN": ADMIN_TOKEN, "APP_KEY": APP_KEY, "NARROW_KEY": NARROW_KEY}
    environ = {**nowhere, **secrets, "LEDGER": f"sqlite:///{folder / 'ledger.db'}"}
    done = CliRunner().invoke(app, ["audit", *words, "--config", config, "--format", "json"], env=environ)
    assert done.stdout, done.output
    return done.exit_code, json.loads(done.stdout)


def serve(folder: Path, scenario: Any) -> None:
    async def whole() -> None:
        async with running(folder) as harness:
            await scenario(harness)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


async def mixed_traffic(harness: Harness) -> None:
    for _ in range(3):
        await harness.post(chat(model="auto"), x_tollway_privacy="confidential")
        await harness.post(chat(model="gpt-4o"))
    refused = await harness.post(chat(model="gpt-4o"), x_tollway_privacy="confidential")
    assert refused.status_code == 403


def test_where_each_class_went_is_answered_by_address(tmp_path: Path) -> None:
    serve(tmp_path, mixed_traffic)
    code, kept = audit(tmp_path, "residency", "--class", "confidential")
    assert (code, kept["left"], kept["requests"], kept["verified"]) == (0, False, 3, True)
    assert {(place["zone"], place["home"]) for place in kept["destinations"]} == {("local", True)}
    assert all(place["address"].startswith("127.0.0.1:") for place in kept["destinations"])
    code, open_ = audit(tmp_path, "residency", "--class", "internal")
    assert (code, open_["left"], open_["attempts"]) == (0, True, 3)
    assert [place["zone"] for place in open_["destinations"]] == ["external"]


def test_refusals_starts_and_policies_are_in_the_log(tmp_path: Path) -> None:
    serve(tmp_path, mixed_traffic)
    code, rows = audit(tmp_path, "acts")
    assert code == 0
    assert [row["kind"] for row in rows].count("opened") == 1
    assert [row["particulars"]["act"] for row in rows if row["kind"] == "act"] == ["start"]
    [refused] = [row["particulars"] for row in rows if row["kind"] == "refused"]
    assert (refused["key"], refused["model"]) == ("app", "gpt-4o")


def test_a_row_that_was_changed_is_told_by_both_commands(tmp_path: Path) -> None:
    serve(tmp_path, mixed_traffic)
    code, before = audit(tmp_path, "verify")
    assert (code, before["ok"], before["pinned"], before["rows"]) == (0, True, True, 6)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE usage_record SET privacy = 'confidential' WHERE zone = 'external'")
    connection.close()
    code, after = audit(tmp_path, "verify")
    assert (code, len(after["findings"])) == (1, 3)
    code, answer = audit(tmp_path, "residency", "--class", "confidential")
    assert (code, answer["verified"]) == (1, False)
