"""Bounds of the data port and of streams that the configuration sets."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from gateway.http.server.connection import ServerConnection
from tests.e2e.harness import PATIENCE_SECONDS, chat, running


async def test_an_idle_connection_is_closed_when_the_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = msgspec.structs.replace(ServerConnection.limits, check_seconds=0.02)
    monkeypatch.setattr(ServerConnection, "limits", often)
    changes = {"server": {"data": {"idle_seconds": 0.1}}}
    async with (
        running(tmp_path, changes) as harness,
        await harness.raw() as client,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        await client.request(chat())
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 200")


async def test_by_default_an_idle_connection_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    often = msgspec.structs.replace(ServerConnection.limits, check_seconds=0.02)
    monkeypatch.setattr(ServerConnection, "limits", often)
    async with running(tmp_path) as harness, await harness.raw() as client:
        for number in range(1, 3):
            await client.request(chat())
            await client.read_until(b'"usage"', count=number)
            await asyncio.sleep(0.3)  # many looks at what lies idle


async def test_an_event_may_be_as_large_as_the_configuration_says(tmp_path: Path) -> None:
    async with running(tmp_path, {"server": {"max_event_mib": 3}}) as harness:
        services = harness.gateway.pipeline.relay.relay._services
        assert services.max_event_bytes == 3 * 1024 * 1024


async def test_these_bounds_need_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        changes = {"server": {"max_event_mib": 3, "data": {"idle_seconds": 9}}, "state_timeout_seconds": 2}
        answer = await harness.reload(changes)
        assert answer.status_code == 409
        for name in ("server.max_event_mib", "server.data.idle_seconds", "state_timeout_seconds"):
            assert name in answer.text
