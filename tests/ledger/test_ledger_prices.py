"""Prices hold from a day on and never change."""

from typing import Any

import pytest

from gateway.ledger.price_versions import PriceChanged, enter_prices, read_prices
from tests.ledger.ledger_records import make, write
from tests.ledger.price_records import rates, version

Database = Any


def test_prices_come_back_as_they_were_entered_and_never_change(database: Database) -> None:
    write(database)
    entered = [version(), version("v2", effective_from=7), version(tier="batch", rates=rates(9))]
    enter_prices(database.url, entered)
    enter_prices(database.url, entered)
    assert sorted(read_prices(database.url), key=repr) == sorted(entered, key=repr)
    with pytest.raises(PriceChanged, match="version of its own"):
        enter_prices(database.url, [version("v3"), version("v2", effective_from=7, rates=rates(2))])
    assert len(list(read_prices(database.url))) == 3


def test_prices_may_be_entered_before_the_first_gateway_starts(database: Database) -> None:
    enter_prices(database.url, [version()])
    write(database, make(1))
    assert list(read_prices(database.url)) == [version()]
    assert database.attempts() == [make(1).attempt_id]
