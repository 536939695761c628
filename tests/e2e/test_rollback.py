"""`tollway policy history` and `rollback`, beside a gateway that serves."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.e2e.harness import (
    ADMIN_TOKEN,
    APP_KEY,
    NARROW_KEY,
    Harness,
    Json,
    chat,
    running,
    until,
    version,
)

KEYLESS: Json = {"api_key": "${APP_KEY}"}
BASE: Json = {
    "deployments": {"gpt-4o": KEYLESS, "embedder": KEYLESS},
    "server": {"watch": False},
}


@asynccontextmanager
async def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    """A gateway whose file other processes can read too, with an admin port that the file names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    admin = {"server": {"watch": False, "admin": {"port": port}}}
    async with running(folder, {**BASE, **admin}) as harness:
        for name, value in {
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "APP_KEY": APP_KEY,
            "NARROW_KEY": NARROW_KEY,
            "LEDGER": f"sqlite:///{harness.ledger}",
            "EXTERNAL": harness.external.url,
            "REPLICA_1": harness.replicas[0].url,
            "REPLICA_2": harness.replicas[1].url,
        }.items():
            monkeypatch.setenv(name, value)
        yield harness


async def tollway(harness: Harness, *words: str) -> Result:
    command = [*words, "--config", str(harness.config)]
    return await asyncio.to_thread(CliRunner().invoke, app, command)


async def history(harness: Harness) -> list[tuple[str, str]]:
    await harness.gateway.flush()
    done = await tollway(harness, "policy", "history", "--format", "json")
    assert done.exit_code == 0, done.output
    return [(item["version"], item["how"]) for item in json.loads(done.stdout)]


async def test_there_and_back_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        first = harness.config.read_text()
        second = first.replace("auto:\n    use:\n    - scout\n", "auto:\n    use:\n")
        assert second != first
        assert (await harness.reload(second)).status_code == 200
        assert await history(harness) == [(version(first), "start"), (version(second), "admin")]

        done = await tollway(harness, "policy", "rollback", version(first)[:6], "--reload")
        assert done.exit_code == 0, done.output
        assert f"Version {version(first)} is in force, where {version(second)} was." in done.stdout
        assert harness.config.read_text() == first
        response = await harness.post(chat(model="auto"))
        assert response.headers["x-tollway-policy"] == version(first)
        assert response.headers["x-tollway-deployment"] == "scout"
        assert [one for one, _ in await history(harness)] == [
            version(first),
            version(second),
            version(first),
        ]

        shown = await tollway(harness, "policy", "history", "--show", version(second))
        assert shown.stdout == second
        table = await tollway(harness, "policy", "history")
        assert table.stdout.count("in force") >= 2


async def test_what_stood_in_the_file_is_kept_though_it_never_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        first = harness.config.read_text()
        await harness.gateway.flush()
        draft = first + "# not served yet\n"
        harness.config.write_text(draft)
        harness.config.chmod(0o640)
        assert (await tollway(harness, "policy", "rollback", version(first))).exit_code == 0
        assert harness.config.read_text() == first
        assert harness.config.stat().st_mode & 0o777 == 0o640
        assert (await tollway(harness, "policy", "rollback", version(draft))).exit_code == 0
        assert harness.config.read_text() == draft
        assert sorted(path.name for path in tmp_path.glob("*tollway.yaml*")) == ["tollway.yaml"]


async def test_a_broken_file_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        first = harness.config.read_text()
        await harness.gateway.flush()
        harness.config.write_text("models: [")
        refused = await tollway(harness, "policy", "rollback", version(first))
        assert refused.exit_code == 1
        assert "--ledger" in refused.stderr
        ledger = f"sqlite:///{harness.ledger}"
        done = await tollway(harness, "policy", "rollback", version(first), "--ledger", ledger)
        assert done.exit_code == 0, done.output
        assert harness.config.read_text() == first
        aside = tmp_path / f"tollway.yaml.{version('models: [')}"
        assert aside.read_text() == "models: ["


async def test_a_version_that_cannot_be_served_any_more_is_not_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        first = harness.config.read_text().replace(
            "    context_tokens: 131072\n", "    context_tokens: 131072\n    license: ${NARROW_KEY}\n"
        )
        assert (await harness.reload(first)).status_code == 200
        second = first + "# another\n"
        assert (await harness.reload(second)).status_code == 200
        await harness.gateway.flush()
        monkeypatch.delenv("NARROW_KEY")
        ledger = f"sqlite:///{harness.ledger}"
        refused = await tollway(harness, "policy", "rollback", version(first), "--ledger", ledger)
        assert refused.exit_code == 1
        assert "the environment variable NARROW_KEY is not set" in refused.stderr
        assert f"{harness.config}:" in refused.stderr
        assert harness.config.read_text() == second
        assert [path.name for path in tmp_path.glob("*tollway.yaml*")] == ["tollway.yaml"]


async def test_a_version_whose_secrets_were_taken_out_can_be_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        first = harness.config.read_text()
        secret = first.replace('"${APP_KEY}"', "a-key-in-the-file-01").replace(
            "${APP_KEY}", "a-key-in-the-file-01"
        )
        assert (await harness.reload(secret)).status_code == 200
        assert (await harness.reload(first)).status_code == 200
        await harness.gateway.flush()
        refused = await tollway(harness, "policy", "rollback", version(secret))
        assert (refused.exit_code, "had secrets in its text" in refused.stderr) == (1, True)
        shown = await tollway(harness, "policy", "history", "--show", version(secret))
        assert "a-key-in-the-file-01" not in shown.stdout
        assert "[secret taken out]" in shown.stdout


async def test_the_running_gateway_says_why_it_does_not_take_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        first = harness.config.read_text()
        await harness.gateway.flush()
        drained = first.replace("drain_seconds: 1", "drain_seconds: 2")
        assert drained != first
        harness.config.write_text(drained)
        assert (await tollway(harness, "policy", "rollback", version(first))).exit_code == 0
        done = await tollway(harness, "policy", "rollback", version(drained), "--reload")
        assert done.exit_code == 1
        assert "Only a restart can change server.drain_seconds" in done.stderr


async def test_a_watching_gateway_takes_it_over_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_watch: None
) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        first = harness.config.read_text().replace("watch: false", "watch: true")
        second = first + "# another\n"
        assert (await harness.reload(first)).status_code == 200
        assert (await harness.reload(second)).status_code == 200
        await harness.gateway.flush()
        done = await tollway(harness, "policy", "rollback", version(first))
        assert "takes it over within seconds" in done.stdout
        rulebook = harness.gateway.pipeline
        await until(lambda: rulebook.rulebook.routes.policy.version == version(first))


@pytest.mark.parametrize("start", ["0000", ""])
async def test_a_version_must_be_known_and_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    async with serving(tmp_path, monkeypatch) as harness:
        assert (await harness.reload(harness.config.read_text() + "# two\n")).status_code == 200
        await harness.gateway.flush()
        refused = await tollway(harness, "policy", "rollback", start)
        assert refused.exit_code == 1
        assert ("is not kept" if start else "may be") in refused.stderr
