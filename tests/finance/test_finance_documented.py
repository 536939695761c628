"""docs/finance.md names every dimension of a report, and every column of the export that is our own."""

from pathlib import Path

import pytest

from gateway.core.focus import COLUMNS, CostType
from gateway.ledger.dimensions import Dimension

PAGE = (Path(__file__).parents[2] / "docs" / "finance.md").read_text()


@pytest.mark.parametrize("name", [*Dimension, *CostType, *(one for one in COLUMNS if one.startswith("x_"))])
def test_what_finance_reads_is_explained(name: str) -> None:
    assert f"`{name}`" in PAGE
