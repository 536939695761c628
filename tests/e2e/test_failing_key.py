"""One key whose requests fail takes no deployment away from others."""

from pathlib import Path

import pytest

from gateway.core.breaker import FAILURES_TO_OPEN
from gateway.simulators.knobs import ErrorKind
from tests.e2e.harness import NARROW_KEY, Harness, chat, running

SHORT_TIMES = {"deployments": {"gpt-4o": {"timeouts": {"total_seconds": 0.2, "first_byte_seconds": 0.2}}}}
OF_A_REQUEST = [ErrorKind.TIMEOUT, ErrorKind.RESET_BEFORE, ErrorKind.GARBAGE, ErrorKind.RESET_MID]


async def status_of(harness: Harness, key: str | None = None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return (await harness.post(chat(), **headers)).status_code


@pytest.mark.parametrize("kind", OF_A_REQUEST)
async def test_requests_of_one_key_that_fail_stop_that_key_and_nobody_else(
    tmp_path: Path, kind: ErrorKind
) -> None:
    async with running(tmp_path, SHORT_TIMES) as harness:
        harness.external.set_knobs(fail_next=FAILURES_TO_OPEN, error_kind=kind)
        for _ in range(FAILURES_TO_OPEN):
            assert await status_of(harness) in (502, 504)
        attempts = len(harness.attempts())
        assert await status_of(harness) == 503
        assert len(harness.attempts()) == attempts  # it was not even tried
        assert await status_of(harness, NARROW_KEY) == 200
        metrics = await harness.metrics()
        assert metrics.sum("replica_barred_keys", deployment="gpt-4o") == 1
        assert metrics.sum("replica_up", deployment="gpt-4o") == 1


async def test_a_deployment_that_fails_for_two_keys_is_out_for_everybody(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        harness.external.set_knobs(fail_next=FAILURES_TO_OPEN, error_kind=ErrorKind.RESET_BEFORE)
        for key in (None, None, NARROW_KEY):
            assert await status_of(harness, key) == 502
        assert await status_of(harness, NARROW_KEY) == 503
        assert (await harness.metrics()).sum("replica_up", deployment="gpt-4o") == 0


async def test_a_server_that_is_gone_is_out_for_everybody_at_the_first_request(tmp_path: Path) -> None:
    async with running(
        tmp_path, {"deployments": {"gpt-4o": {"base_url": "http://127.0.0.1:1/v1"}}}
    ) as harness:
        assert await status_of(harness) == 502
        assert await status_of(harness, NARROW_KEY) == 503
