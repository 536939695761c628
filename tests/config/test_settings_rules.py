"""One specification per rule: see rules.txt."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.load import Loaded

Rule = tuple[str, str, list[str], list[str]]
_OF_THE_EXAMPLE = ("deployments.gpt-4o.serves[1]: ", "no feature is called 'contract-review'")


def _rules() -> list[Rule]:
    text = (Path(__file__).parent / "rules.txt").read_text()
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [_rule(block) for block in blocks if not block[0].startswith("#")]


def _rule(lines: list[str]) -> Rule:
    def marked(mark: str) -> list[str]:
        return [line[2:] for line in lines if line.startswith(mark)]

    return "\n".join(marked("-")), "\n".join(marked("+")), marked("="), marked("~")


RULES = _rules()


@pytest.mark.parametrize(("old", "new", "errors", "warnings"), RULES, ids=[rule[1][:50] for rule in RULES])
def test_rule(
    changed: Callable[[str, str], Loaded], old: str, new: str, errors: list[str], warnings: list[str]
) -> None:
    loaded = changed(old, new)
    assert [str(problem) for problem in loaded.errors] == errors
    assert (loaded.settings is None) == bool(errors)
    if warnings:
        said = [str(problem) for problem in loaded.warnings]
        assert [line for line in said if not any(known in line for known in _OF_THE_EXAMPLE)] == warnings
