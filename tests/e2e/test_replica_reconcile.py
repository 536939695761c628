"""`tollway replicas reconcile`: what an engine has counted against the ledger."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.simulators.knobs import Knobs
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, CONFIG, NARROW_KEY, SCOUT, Harness, chat, running


async def test_requests_with_several_choices_reconcile_to_the_token(tmp_path: Path) -> None:
    async with running(tmp_path, replicas=(Knobs(output_tokens=9), Knobs(output_tokens=9))) as harness:
        for n in (1, 2, 5, 1, 3, 4):
            for stream in (False, True):
                answer = await harness.post(chat(f"Ship {n}", "scout", n=n, stream=stream))
                assert answer.status_code == 200
        await harness.settled()
        await harness.rows()
        found = [await _reconciled(harness, tmp_path, number) for number in range(2)]
        assert [result.exit_code for result in found] == [0, 0]
        documents = [json.loads(result.stdout) for result in found]
        assert sum(one["attempts"] for one in documents) == 12
        assert all(row["drift"] == 0 and row["engine"] > 0 for one in documents for row in one["rows"])
        # Somebody else asked the replica for something.
        await harness.http.post(f"{harness.replicas[0].url}/v1/chat/completions", json=_direct())
        result = await _reconciled(harness, tmp_path, 0)
        assert result.exit_code == 1
        assert [row["drift"] for row in json.loads(result.stdout)["rows"]][1] == 9


def _direct() -> dict[str, Any]:
    return chat("A stranger", SCOUT)


async def _reconciled(harness: Harness, folder: Path, number: int) -> Result:
    replica = harness.replicas[number]
    page = folder / "after.txt"
    page.write_text((await harness.http.get(f"{replica.url}/metrics")).text)
    name = replica.url.removeprefix("http://")
    command = ["replicas", "reconcile", name, "--after", str(page), "--config", str(folder / CONFIG)]
    environ = {
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "APP_KEY": APP_KEY,
        "NARROW_KEY": NARROW_KEY,
        "LEDGER": f"sqlite:///{harness.ledger}",
        "EXTERNAL": harness.external.url,
        "REPLICA_1": harness.replicas[0].url,
        "REPLICA_2": harness.replicas[1].url,
    }
    return CliRunner().invoke(app, [*command, "--format", "json"], env=environ)
