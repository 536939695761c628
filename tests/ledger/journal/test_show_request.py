"""`tollway requests show` beside a real `tollway serve`, on both databases, and after it was killed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
from typer.testing import CliRunner

from gateway.cli import app
from gateway.simulators.knobs import Knobs
from tests.e2e.harness import APP_KEY, chat, simulators
from tests.ledger.journal.served import Served
from tests.ledger.ledger_records import run, until

Database = Any

SLOW = Knobs(output_tokens=100_000, tokens_per_second=50)


def shown(served: Served, request_id: str) -> dict[str, Any]:
    """What the command says, run from another place than the gateway's."""
    told = CliRunner().invoke(
        app,
        ["requests", "show", request_id, "--config", str(served.config), "--format", "json"],
        env={"LEDGER": served.environ["LEDGER"]},  # a report needs no other secret
    )
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_requests_are_found_while_it_serves_and_after_a_kill(database: Database, tmp_path: Path) -> None:
    changes = {"server": {"journal_dir": str(tmp_path / "journal"), "access_log": "all"}}

    async def scenario() -> None:
        async with simulators(Knobs(), [SLOW, SLOW]) as (hosted, pool):
            served = Served(tmp_path, hosted, pool, changes, database.waiting_url)
            async with (
                served.running() as process,
                httpx.AsyncClient(
                    base_url=served.data_url, headers={"authorization": f"Bearer {APP_KEY}"}, timeout=20
                ) as client,
            ):
                answered = await client.post("/v1/chat/completions", json=chat(max_tokens=5))
                refused = await client.post("/v1/chat/completions", json=chat(model="gpt-9"))
                ids = [answer.headers["x-request-id"] for answer in (answered, refused)]
                body = chat(model="scout", stream=True)
                async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
                    ids.append(stream.headers["x-request-id"])
                    found = [await asyncio.to_thread(shown, served, one) for one in ids]
                    assert [one["state"] for one in found] == ["ended", "refused", "under_way"]
                    assert found[0]["attempts"][0]["outcome"] == "success"
                    assert found[1]["refusal"]["code"] == "model_not_found"
                    assert found[2]["attempts"][0]["held_usd"] > 0
                    await until(lambda: "request.refused" in served.log())
                    process.kill()
                    await process.wait()
                    while (left := await asyncio.to_thread(shown, served, ids[2]))["state"] != "ended":
                        continue  # the ledger's writer goes on until all is entered
                    assert left["attempts"][0]["outcome"] == "presumed"
                    assert [await asyncio.to_thread(shown, served, one) for one in ids[:2]] == found[:2]
            lines = [json.loads(line) for line in served.log().splitlines() if line.startswith("{")]
            told = {line["event"]: line for line in lines if line["event"].startswith("request.")}
            assert told["request.answered"]["request_id"] == ids[0]
            assert told["request.refused"]["request_id"] == ids[1]

    run(scenario())
