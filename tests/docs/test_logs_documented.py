"""docs/logs.md names every event that gateway/ logs, with its levels and fields, and no other one."""

import re
from collections import defaultdict
from typing import NamedTuple

import pytest

from tests.docs.source import LEVELS, ROOT, log_calls

PAGE = (ROOT / "docs" / "logs.md").read_text()
NAME = re.compile(r"[a-z]+\.[a-z_]+")
ROW = re.compile(r"^\| `([^`|]+)` \|" + 4 * r" *([^|]*?) *\|" + "$", re.MULTILINE)


class Event(NamedTuple):
    """`fields` holds "**" when some are not literal: the page may then name more than the code."""

    levels: frozenset[str]
    fields: frozenset[str]


def logged() -> dict[str, Event]:
    levels: defaultdict[str, set[str]] = defaultdict(set)
    fields: defaultdict[str, set[str]] = defaultdict(set)
    for _, (name, level, names) in log_calls():
        levels[name].add(level)
        fields[name] |= names
    return {name: Event(frozenset(levels[name]), frozenset(fields[name])) for name in levels}


def documented() -> dict[str, Event]:
    return {
        name: Event(frozenset(levels.split(", ")), frozenset(re.findall(r"`([^`]+)`", fields)))
        for name, levels, fields, _, _ in ROW.findall(PAGE)
    }


LOGGED, DOCUMENTED = logged(), documented()


def test_every_event_is_documented() -> None:
    places = {name: place for place, (name, _, _) in log_calls()}
    missing = [f"{name} ({places[name]})" for name in sorted(LOGGED.keys() - DOCUMENTED.keys())]
    assert not missing, "\n".join(missing)


def test_the_page_names_no_event_that_is_not_logged() -> None:
    assert sorted(DOCUMENTED.keys() - LOGGED.keys()) == []


@pytest.mark.parametrize("name", sorted(LOGGED.keys() & DOCUMENTED.keys()))
def test_its_levels_and_fields_are_as_in_the_code(name: str) -> None:
    code, page = LOGGED[name], DOCUMENTED[name]
    assert page.levels == code.levels
    if "**" in code.fields:
        assert page.fields >= code.fields - {"**"}
    else:
        assert page.fields == code.fields


def test_each_event_stands_in_the_page_once_and_says_what_to_do() -> None:
    rows = ROW.findall(PAGE)
    assert len(rows) == len(DOCUMENTED)
    assert len(rows) == sum(line.startswith("| `") for line in PAGE.splitlines())
    assert all(meaning.strip() and action.strip() for _, _, _, meaning, action in rows)


@pytest.mark.parametrize("name", sorted(LOGGED))
def test_its_name_says_subject_and_event(name: str) -> None:
    assert NAME.fullmatch(name)
    assert LOGGED[name].levels <= LEVELS


def test_the_search_finds_the_log_calls() -> None:
    assert len(LOGGED) > 50
    assert "gateway.started" in LOGGED
