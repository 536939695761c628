"""Which price a request has: by the moment of its dispatch, and tier by tier before what the file says."""

import math
from typing import Any

import pytest

from gateway.core.catalog import DatedPrice
from gateway.core.pricing import HORIZON, NO_VERSIONS, PriceBook, PriceVersion
from gateway.core.rates import Price
from tests.core.builders import deployment, price, rates

LISTED = Price(version="listed", standard=rates("9", "9"), tiers={"priority": rates("18", "18")})


def version(name: str, **changes: Any) -> PriceVersion:
    given: dict[str, Any] = {
        "provider": "openai",
        "model": "gpt-4o",
        "tier": "standard",
        "effective_from": 0,
        "version": name,
        "rates": rates("1", "4"),
        "entered_at": 1,
    }
    return PriceVersion(**(given | changes))


def at(book: PriceBook, moment: int) -> Price:
    return book.price_at("openai", "gpt-4o", LISTED, moment)


def test_the_price_is_that_of_the_moment_of_dispatch() -> None:
    book = PriceBook(
        [version("new", effective_from=100, rates=rates("2", "8")), version("old", effective_from=50)]
    )
    expected = {49: "listed", 50: "old", 99: "old", 100: "new", 10**18: "new"}
    assert {moment: at(book, moment).version_of(None) for moment in expected} == expected
    assert at(book, 100).rates(None) == rates("2", "8")


def test_a_price_of_another_provider_or_model_changes_nothing() -> None:
    book = PriceBook([version("a", provider="azure"), version("b", model="gpt-4o-mini")])
    assert at(book, 5) is LISTED


def test_of_two_prices_from_the_same_moment_the_one_entered_later_holds() -> None:
    assert at(PriceBook([version("b", entered_at=1), version("a", entered_at=2)]), 5).version == "a"


def test_a_tier_has_versions_of_its_own_and_the_response_decides() -> None:
    book = PriceBook(
        [version("v1"), version("half", tier="batch", effective_from=100, rates=rates("3", "3"))]
    )
    early, late = at(book, 99), at(book, 100)
    # No version and no list has it: of the tiers that have a price, the dearest.
    assert (early.version_of("batch"), early.rates("batch").input) == ("v1", rates("18", "18").input)
    assert not early.knows("batch")
    assert (late.version_of("batch"), late.rates("batch")) == ("half", rates("3", "3"))
    assert (late.version_of("default"), late.rates("default")) == ("v1", rates("1", "4"))
    assert (late.version_of(None), late.rates(None)) == ("v1", rates("1", "4"))


def test_a_tier_without_a_version_keeps_the_price_of_the_configuration() -> None:
    # Charging `priority` as `standard` because only that was entered would be too little.
    found = at(PriceBook([version("v1")]), 5)
    assert (found.version_of("priority"), found.rates("priority")) == ("listed", LISTED.rates("priority"))


def test_a_version_of_one_tier_leaves_the_standard_price_as_it_is() -> None:
    found = at(PriceBook([version("fast", tier="priority", rates=rates("5", "5"))]), 5)
    assert (found.version_of("priority"), found.rates("priority")) == ("fast", rates("5", "5"))
    assert (found.version_of(None), found.rates(None)) == ("listed", LISTED.standard)


@pytest.mark.parametrize("moment", [0, 99, 100, 101, 10**6])
def test_looking_up_twice_gives_the_same_value(moment: int) -> None:
    book = PriceBook([version("v1", effective_from=100)])
    assert at(book, moment) is at(book, moment)


def test_a_hold_covers_a_dearer_price_that_is_about_to_begin() -> None:
    item = deployment("gpt-4o", price=price(rates("1", "4")))
    dear = PriceVersion(
        provider=item.provider,
        model=item.model,
        tier="standard",
        effective_from=10 * HORIZON,
        version="dear",
        rates=rates("2", "8"),
        entered_at=1,
    )
    book = PriceBook([dear])

    def versions(moment: int) -> list[str]:
        return [one.version for one in book.prices_soon(item, moment)]

    assert versions(9 * HORIZON - 1) == [item.price.version]
    assert versions(9 * HORIZON) == [item.price.version, "dear"]
    assert versions(10 * HORIZON) == ["dear"]
    assert NO_VERSIONS.prices_soon(item, 0) == (item.price,)


def test_prices_with_dates_in_the_configuration_begin_by_the_clock_below_entered_versions() -> None:
    first, second = (price(rates(usd, usd)) for usd in ("1", "2"))
    item = deployment("scout", price=first, later_prices=(DatedPrice(10 * HORIZON, second),))
    book = PriceBook()
    assert [book.price_of(item, moment) for moment in (0, 10 * HORIZON - 1, 10 * HORIZON)] == [
        first,
        first,
        second,
    ]
    assert book.prices_soon(item, 9 * HORIZON - 1) == (first,)
    assert book.prices_soon(item, 9 * HORIZON) == (first, second)
    assert [book.next_change(moment, [item]) for moment in (0, 9 * HORIZON, 10 * HORIZON)] == [
        9 * HORIZON,
        10 * HORIZON,
        math.inf,
    ]
    assert [book.last_change(moment, [item]) for moment in (0, 9 * HORIZON, 11 * HORIZON)] == [
        -math.inf,
        9 * HORIZON,
        10 * HORIZON,
    ]
    entered = version("entered", provider=item.provider, model=item.model, effective_from=10 * HORIZON + 5)
    both = PriceBook([entered])
    assert both.price_of(item, 10 * HORIZON) == second
    assert both.price_of(item, 10 * HORIZON + 5).version == "entered"
    assert both.next_change(10 * HORIZON, [item]) == 10 * HORIZON + 5
    assert both.prices_soon(item, 10 * HORIZON - 1)[1:] == (second, both.price_of(item, 10 * HORIZON + 5))
