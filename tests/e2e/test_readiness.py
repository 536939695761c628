"""Ready means that a request would pass and its row be found again, as `/readyz` and metrics say."""

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Harness, chat, gateway_over, read_rows, simulators, until


@asynccontextmanager
async def running(folder: Path, changes: Mapping[str, Any] = {}) -> AsyncIterator[Harness]:
    """A gateway that may log errors: what goes wrong here is meant to be told."""
    async with simulators() as (hosted, replicas), gateway_over(hosted, replicas, folder, changes) as harness:
        yield harness


async def readyz(harness: Harness) -> tuple[int, str]:
    response = await harness.http.get(f"{harness.gateway.admin_url}/readyz")
    return response.status_code, response.text


async def ready_metric(harness: Harness) -> int:
    return int((await harness.metrics()).sum("ready"))


@pytest.mark.parametrize("is_replaced", [False, True], ids=["deleted", "replaced"])
async def test_a_ledger_file_that_is_gone_takes_nothing_and_loses_nothing(
    tmp_path: Path, is_replaced: bool
) -> None:
    async with running(tmp_path) as harness:
        await harness.post(chat())
        await harness.gateway.flush()
        aside = tmp_path / "aside.db"
        harness.ledger.rename(aside)
        if is_replaced:
            shutil.copy(aside, harness.ledger)
        content = harness.ledger.read_bytes() if is_replaced else b""
        assert (await harness.post(chat())).status_code == 200  # it waits in the journal
        await until(lambda: bool(harness.gateway.unready_reasons()))
        status, text = await readyz(harness)
        assert status == 503
        assert ("taken its place" if is_replaced else "was deleted") in text
        assert await ready_metric(harness) == 0
        assert (harness.ledger.read_bytes() if is_replaced else b"") == content
        assert harness.ledger.exists() == is_replaced
        aside.replace(harness.ledger)
        await until(lambda: not harness.gateway.unready_reasons())
        assert len(await harness.rows()) == 2
        assert await ready_metric(harness) == 1


async def test_a_ledger_file_that_is_gone_is_noticed_without_a_request(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        await harness.post(chat())
        await harness.gateway.flush()
        aside = tmp_path / "aside.db"
        harness.ledger.rename(aside)
        await until(lambda: bool(harness.gateway.unready_reasons()))
        aside.rename(harness.ledger)
        await until(lambda: not harness.gateway.unready_reasons())


async def test_a_log_of_the_ledger_that_was_deleted_loses_no_row(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        await harness.post(chat())
        await harness.gateway.flush()
        harness.ledger.with_name(f"{harness.ledger.name}-wal").unlink()
        await harness.post(chat())
        await harness.gateway.flush()
        assert len(read_rows(harness.ledger)) == 2


async def test_a_journal_whose_files_were_removed_writes_them_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        [folder] = tmp_path.glob("*.journal")
        await harness.post(chat())
        shutil.rmtree(folder)
        await until(lambda: folder.exists() and len(list(folder.glob("*.journal2"))) > 0)
        await until(lambda: len(list(folder.glob("*.lock"))) == 1)
        assert (await harness.post(chat())).status_code == 200
        assert len(await harness.rows()) == 2


async def test_a_journal_that_cannot_be_written_is_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        [folder] = tmp_path.glob("*.journal")
        shutil.rmtree(folder)
        folder.write_text("no folder")
        await until(lambda: bool(harness.gateway.unready_reasons()))
        assert "journal: cannot write" in (await readyz(harness))[1]
        folder.unlink()
        await until(lambda: not harness.gateway.unready_reasons())
        assert (await harness.post(chat())).status_code == 200


async def test_a_file_without_keys_is_said_for_as_long_as_it_serves(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        assert (await harness.reload({"keys": None})).status_code == 200
        status, text = await readyz(harness)
        assert status == 200
        assert "every request is refused with 401" in text
        assert int((await harness.metrics()).sum("degraded")) == 1
        assert (await harness.reload({})).status_code == 200
        assert "degraded" not in (await readyz(harness))[1]


async def test_an_admin_token_that_a_client_has_is_said(tmp_path: Path) -> None:
    shared = {"keys": {"app": {"secret": "${ADMIN_TOKEN}"}}}
    async with running(tmp_path, changes=shared) as harness:
        assert "is the secret of keys.app" in (await readyz(harness))[1]
