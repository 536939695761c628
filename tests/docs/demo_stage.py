"""The demo after its samples and without its background traffic, so that its ledger is the same each time.

`python -m tests.docs.demo_stage FOLDER` keeps the ledger in FOLDER, prints a Listening as one line of JSON,
and serves until its standard input ends.
"""

import asyncio
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from gateway.demo.report import DemoReport
from gateway.demo.run import Performance
from gateway.demo.stage import KEY_VARIABLES, Stage, open_stage
from gateway.demo.traffic import Client
from gateway.metrics.logs import configure_logs


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses as `host:port`, and `environ`, the variables that the demo's configuration names."""

    data: str
    admin: str
    replica: str
    key: str
    environ: dict[str, str]


async def serve(folder: Path) -> None:
    configure_logs("error")
    async with open_stage(0, 0, folder) as stage, Client(stage) as client:
        await Performance(stage, client, DemoReport(Console(file=sys.stderr)), asyncio.Event()).play()
        await stage.gateway.flush()
        print(msgspec.json.encode(_listening(stage)).decode(), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def _listening(stage: Stage) -> Listening:
    keys = {KEY_VARIABLES[feature]: key for feature, key in stage.keys.items()}
    return Listening(
        data=_host_and_port(stage.gateway.data_url),
        admin=_host_and_port(stage.gateway.admin_url),
        replica=_host_and_port(stage.llama_4[0].url),
        key=stage.keys["support-agent"],
        environ=keys | {"DEMO_ADMIN_TOKEN": stage.admin_token, "OPENAI_API_KEY": "sk-nobody-asks-with-it"},
    )


def _host_and_port(url: str) -> str:
    return url.removeprefix("http://")


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
