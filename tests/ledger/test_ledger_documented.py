"""docs/ledger.md names every column of a row: what finance reads must be explained somewhere."""

from pathlib import Path

import pytest

from gateway.ledger.tables import ALL_COLUMNS

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()


@pytest.mark.parametrize("column", ALL_COLUMNS)
def test_the_column_is_explained(column: str) -> None:
    assert f"`{column}`" in PAGE


@pytest.mark.parametrize("command", ["close", "prune", "status", "rebuild"])
def test_the_command_is_explained(command: str) -> None:
    assert f"tollway ledger {command}" in PAGE
