"""The attack as a tool: what it counts and tells, and that its stage works. `make attack` runs all of it."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.attack.case import Case, Victim, expect
from tests.attack.run import CASES, Result, attack, options_from, table
from tests.attack.stage import own_gateway


async def _holds(_victim: Victim) -> None:
    expect(True, "never")


def test_the_table_counts_by_section_and_names_each_failure() -> None:
    results = [
        Result(Case("keys", "one", _holds), None),
        Result(Case("keys", "two", _holds), "Failed: answered with 200"),
        Result(Case("admin port", "three", _holds), None),
    ]
    assert table(results).splitlines() == [
        "section       tried   held",
        "keys              2      1",
        "admin port        1      1",
        "all               3      2",
        "",
        "keys: two: Failed: answered with 200",
    ]


def test_each_case_has_a_name_of_its_own_and_no_section_is_thin() -> None:
    names = Counter((case.section, case.name) for case in CASES)
    assert [name for name, count in names.items() if count > 1] == []
    assert len({case.section for case in CASES}) >= 12
    assert len(CASES) > 500


def test_what_cannot_be_seen_of_a_foreign_gateway_is_left_out() -> None:
    foreign = Victim(None, "http://127.0.0.1:1", "key", "gpt-4o")  # type: ignore[arg-type]
    possible = [case for case in CASES if case.is_possible(foreign)]
    assert 0 < len(possible) < len(CASES)
    assert not [case for case in possible if case.needs_own or case.needs_admin]


def test_a_foreign_gateway_needs_a_key() -> None:
    with pytest.raises(SystemExit):
        options_from(["--url", "http://127.0.0.1:8080"])


@pytest.mark.slow
def test_garbage_in_place_of_events_is_held(tmp_path: Path) -> None:
    async def run() -> list[Result]:
        async with own_gateway(tmp_path) as victim:
            return await attack(victim, ["SSE garbage"])

    results = asyncio.run(run())
    assert len(results) >= 10
    assert [(result.case.name, result.failure) for result in results if result.failure] == []
