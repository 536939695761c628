"""What stands behind the gateways: GPT-4o and one replica of Scout, simulated, and what they saw.

They are those of the release: the ground on which both versions are compared does not move.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec

from tests.upgrade.releases import Release
from tests.upgrade.waiting import until_true

Knobs = Mapping[str, Any]

_LISTENING = "listening on "


class Seen(msgspec.Struct, frozen=True):
    """One attempt as the upstream of `deployment` bills it."""

    attempt_id: str | None
    deployment: str
    outcome: str
    status: int | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def is_refused(self) -> bool:
        return self.outcome.startswith("rejected") or (self.status or 0) >= 400


class Upstreams:
    """The hosted model and the replica by their URLs."""

    def __init__(self, hosted_url: str, replica_url: str) -> None:
        self.hosted_url = hosted_url
        self.replica_url = replica_url

    async def begin(self, hosted: Knobs, replica: Knobs) -> None:
        """Forget what was seen, and answer as `behave` says."""
        await self.behave(hosted, replica)
        async with httpx.AsyncClient() as http:
            for url in (self.hosted_url, self.replica_url):
                await http.delete(f"{url}/_sim/attempts")

    async def behave(self, hosted: Knobs, replica: Knobs) -> None:
        """Answer from now on as these knobs say; others are as usual."""
        async with httpx.AsyncClient() as http:
            for url, knobs in ((self.hosted_url, hosted), (self.replica_url, replica)):
                usual = dict.fromkeys((await http.get(f"{url}/_sim/knobs")).json())
                changed = await http.post(f"{url}/_sim/knobs", json=usual | dict(knobs))
                assert changed.status_code == 200, changed.text

    async def seen(self) -> list[Seen]:
        """Every attempt that arrived."""
        async with httpx.AsyncClient() as http:
            hosted = (await http.get(f"{self.hosted_url}/_sim/attempts")).json()
            replica = (await http.get(f"{self.replica_url}/_sim/attempts")).json()
        return [
            *(_seen(attempt, _hosted_deployment(attempt)) for attempt in hosted),
            *(_seen(attempt, "scout") for attempt in replica),
        ]

    async def running(self) -> int:
        """How many attempts they work on at this moment."""
        return sum(attempt.outcome == "running" for attempt in await self.seen())

    async def at_rest(self) -> list[Seen]:
        """Everything seen, once nothing runs any more."""

        async def nothing_runs() -> bool:
            return not await self.running()

        await until_true(nothing_runs)
        return await self.seen()


def _seen(attempt: dict[str, Any], deployment: str) -> Seen:
    return msgspec.convert({**attempt, "deployment": deployment}, Seen)


def _hosted_deployment(attempt: dict[str, Any]) -> str:
    return "embedder" if attempt["path"].endswith("/embeddings") else "gpt-4o"


@contextmanager
def simulated(release: Release) -> Iterator[Upstreams]:
    """Both, in processes of their own that end with the block."""
    processes = [_simulate(release, kind) for kind in ("openai", "vllm")]
    try:
        yield Upstreams(*(_url(process) for process in processes))
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _simulate(release: Release, kind: str) -> "subprocess.Popen[bytes]":
    command = release.command("simulate", kind, "--port", "0")
    return subprocess.Popen(command, env=release.environment(), stdout=subprocess.PIPE)


def _url(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    assert _LISTENING in line, line
    return line.partition(_LISTENING)[2].strip()
