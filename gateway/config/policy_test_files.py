"""Policy tests in files of their own (`*.policy-test.yaml`): read and checked like the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from gateway.config import references, source
from gateway.config.kinds import Section
from gateway.config.load import read_text, validated
from gateway.config.nodes import ConfigNode
from gateway.config.problem_report import ProblemReport
from gateway.config.problems import Problem, in_file_order
from gateway.config.tenancy import PolicyTest

PATTERN: Final = "*.policy-test.yaml"


class PolicyTestFile(Section):
    """What such a file holds."""

    policy_tests: tuple[PolicyTest, ...] = Field(description="decisions that must come out as written")


@dataclass(frozen=True, slots=True)
class Located:
    """A test and where it stands."""

    test: PolicyTest
    file: str
    line: int


def files_beside(config: Path) -> list[Path]:
    """The test files in the folder of `config`, but for those that carry the name of another file there.

    Beside `blue.yaml` and `green.yaml`, `blue.policy-test.yaml` is for the first one only.
    """
    tests = sorted(config.parent.glob(PATTERN))
    others = {path.stem for path in config.parent.glob("*.yaml") if path not in tests} - {config.stem}
    return [path for path in tests if not any(path.name.startswith(f"{other}.") for other in others)]


def read_tests(
    path: Path, config: ConfigNode, environ: Mapping[str, str]
) -> tuple[list[Located], list[Problem]]:
    """The tests of one file, whose names must be those of the configuration `config`; or what is wrong."""
    file = str(path)
    _, text, unreadable = read_text(path)
    if unreadable is not None:
        return [], [unreadable]
    tree = source.read(file, text, environ)
    root = ConfigNode((), tree.root.line if tree.root else 1, tree.root)
    if tree.root is None or not root.is_mapping:
        shape = Problem(root.line, (), "must be a mapping with the one section `policy_tests:`", file)
        return [], tree.problems or [shape]
    found, wrong = validated(PolicyTestFile, tree.root, tree.unresolved, file)
    report = ProblemReport(file)
    references.check_policy_tests(config, report, tests=root)
    broken = {problem.path for problem in wrong}
    crossed = [problem for problem in report.problems if problem.path not in broken]
    problems = in_file_order([*tree.problems, *wrong, *crossed])
    if found is None or problems:
        return [], problems
    nodes = root["policy_tests"].items()
    return [Located(test, file, node.line) for test, node in zip(found.policy_tests, nodes, strict=True)], []
