"""docs/policies.md: every policy is a whole file whose tests pass, that is proven, and needs its rules."""

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.build import Built, build
from gateway.config.cel import CelCompiler
from gateway.config.load import load
from gateway.core.facts import BUDGET_NAMES, POOL_NAMES, TIME_NAMES
from gateway.policy.policy_tests import run_policy_tests
from gateway.policy.proof.prove import prove
from tests.core.files import PRICES

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
RECIPES = re.findall(r"^### (\d+\. [^\n]*)\n.*?```yaml\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
ENVIRON = {
    "TOLLWAY_ADMIN_TOKEN": "admin-token-0123456789",
    "OPENAI_API_KEY": "sk-0123456789",
    "AZURE_API_KEY": "azure-0123456789",
}
recipes = pytest.mark.parametrize("text", [text for _, text in RECIPES], ids=[name for name, _ in RECIPES])


def made(folder: Path, text: str) -> Built:
    path = folder / "tollway.yaml"
    path.write_text(text)
    loaded = load(path, ENVIRON, today=datetime.date(2026, 11, 23))
    assert [str(problem) for problem in (*loaded.errors, *loaded.blocking)] == []
    found, problems = build(loaded, PRICES)
    assert [str(problem) for problem in problems] == []
    assert found is not None
    return found


def test_there_are_ten_policies():
    assert [name.split(".")[0] for name, _ in RECIPES] == [str(number) for number in range(1, 11)]
    assert PAGE.count("```yaml") == len(RECIPES)


@recipes
def test_its_tests_pass(text: str, tmp_path: Path):
    found = made(tmp_path, text)
    assert len(found.settings.policy_tests) >= 3
    assert [str(failure) for failure in run_policy_tests(found)] == []


@recipes
def test_it_is_proven_and_every_rule_of_it_can_decide(text: str, tmp_path: Path):
    proof = prove(made(tmp_path, text))
    assert proof.proven
    assert [*proof.unreachable_rules, *proof.shadowed_rules] == []


def without_what_it_is_about(file: dict[str, Any]) -> dict[str, Any]:
    """The file without rules, detectors, zones that are shut, licences, retirements."""
    for model in file["models"].values():
        model.pop("rules", None)
    for deployment in file["deployments"].values():
        for key in ("license", "retires_on", "successor"):
            deployment.pop(key, None)
    if "privacy" in file:
        file["privacy"].pop("detect", None)
        for name in file["privacy"]["zones"]:
            file["privacy"]["zones"][name] = list(file["zones"])
    return file


@recipes
def test_its_tests_would_fail_without_it(text: str, tmp_path: Path):
    bare = yaml.safe_dump(without_what_it_is_about(yaml.safe_load(text)), allow_unicode=True)
    assert run_policy_tests(made(tmp_path, bare)) != []


def test_every_variable_of_conditions_is_in_the_table():
    table = PAGE.partition("| variable |")[2].partition("\n\n")[0]
    for name in CelCompiler().variables:
        assert re.search(rf"`{name}[`.]", table), name
    for name in (*BUDGET_NAMES, *POOL_NAMES, *TIME_NAMES):
        assert re.search(rf"\.{name}`", table), name
