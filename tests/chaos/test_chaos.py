"""Load and faults in small. `make chaos` runs the same over 200,000 requests."""

from pathlib import Path

import msgspec
import pytest

from tests.chaos.run import Options, report, run, usual_counts

USUAL = msgspec.structs.replace(usual_counts(2_500), state_restarts=1, state_losses=1)
NOBODY_DIES = msgspec.structs.replace(
    USUAL, kills=0, writer_kills=0, terminations=0, state_restarts=1, state_losses=2
)


@pytest.mark.slow
def test_kills_and_losses_overspend_nothing_and_lose_no_attempt(tmp_path: Path) -> None:
    result = run(Options(requests=2_500, seed=20261123, admission="leased", counts=USUAL, folder=tmp_path))
    print(report(result))
    assert result.problems == []
    assert result.books.overspend == 0
    assert result.faults.happened["kill -9 of a ledger's writer"] > 0
    assert result.presumed > 0  # or the kills came at no interesting moment
    assert result.load.statuses[429] > 0  # some budgets ran out


@pytest.mark.slow
def test_while_no_gateway_dies_counters_and_ledger_agree_to_the_nano_dollar(tmp_path: Path) -> None:
    result = run(
        Options(
            lease_seconds=3,
            requests=1_500,
            seed=20261123,
            ledger="postgresql",
            counts=NOBODY_DIES,
            folder=tmp_path,
        )
    )
    print(report(result))
    assert result.problems == []
    assert result.faults.happened["loss of the shared state"] > 0
