"""Run policy tests: each sample request is decided as in service, without any upstream.

They stand in the file itself under `policy_tests`, and in files of their own (`*.policy-test.yaml`) that have
that one section.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.config.build import Built
from gateway.config.load import Loaded
from gateway.config.policy_test_files import Located, read_tests
from gateway.config.problems import Problem
from gateway.config.tenancy import Expectation
from gateway.policy.explain import ExplainedRefusal, Explanation
from gateway.policy.samples import explain_sample


@dataclass(frozen=True, slots=True)
class UnmetExpectation:
    """An expectation that does not hold, and the decision that came out instead."""

    test: str
    expected: str
    found: str
    explanation: Explanation

    def __str__(self) -> str:
        return f"policy test '{self.test}' failed: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class PolicyTestOutcome:
    """The result of one test; it passed when there are no failures."""

    located: Located
    failures: tuple[UnmetExpectation, ...]
    seconds: float


def run_policy_tests(built: Built) -> list[UnmetExpectation]:
    """Every expectation of the file's own tests that does not hold, in its order. Not for a running loop."""
    outcomes = run_tests(built, [Located(test, "", 0) for test in built.settings.policy_tests])
    return [failure for outcome in outcomes for failure in outcome.failures]


def run_tests(built: Built, tests: Iterable[Located]) -> list[PolicyTestOutcome]:
    """The outcome of each of `tests`, in their order. Not for a running loop."""
    return asyncio.run(_run_all(built, tests))


def find_tests(
    loaded: Loaded, built: Built, files: Iterable[Path], environ: Mapping[str, str]
) -> tuple[list[Located], list[Problem]]:
    """The tests of the file itself and of `files`, and what is wrong with those."""
    own = built.settings.policy_tests
    found = [
        Located(test, loaded.file, loaded.line_of(("policy_tests", index))) for index, test in enumerate(own)
    ]
    problems: list[Problem] = []
    for path in files:
        located, wrong = read_tests(path, loaded.root, environ)
        found += located
        problems += wrong
    return found, problems


async def _run_all(built: Built, tests: Iterable[Located]) -> list[PolicyTestOutcome]:
    return [await _run(built, located) for located in tests]


async def _run(built: Built, located: Located) -> PolicyTestOutcome:
    started = time.monotonic()
    test = located.test
    explanation = await explain_sample(built, test.request)
    failures = tuple(
        UnmetExpectation(test.name, expected, found, explanation)
        for expected, found in _differences(test.expect, explanation)
    )
    return PolicyTestOutcome(located, failures, time.monotonic() - started)


def _differences(expect: Expectation, explanation: Explanation) -> list[tuple[str, str]]:
    if explanation.refused is not None:
        return _class_differences(expect, explanation) + _refusal_differences(expect, explanation.refused)
    names = tuple(explanation.order)
    order = f"the order {', '.join(names)}"
    zones = sorted({item.zone for item in explanation.candidates if item.kept})
    differences = _class_differences(expect, explanation)
    if expect.refused is not None:
        differences.append((f"refused with {expect.refused}", order))
    if expect.deployment is not None and names[0] != expect.deployment:
        differences.append((f"deployment {expect.deployment}", order))
    if expect.order is not None and names != expect.order:
        differences.append((f"the order {', '.join(expect.order) or '(none)'}", order))
    if unwanted := [name for name in expect.never if name in names]:
        differences.append((f"never {', '.join(unwanted)}", order))
    if expect.zone is not None and zones != [expect.zone]:
        differences.append((f"only zone {expect.zone}", f"zones {', '.join(zones)}"))
    return differences


def _refusal_differences(expect: Expectation, refused: ExplainedRefusal) -> list[tuple[str, str]]:
    """What was expected of candidates, where there are none."""
    found = f"refused with {refused.code} ({refused.message})"
    if expect.refused not in (None, refused.code):
        return [(f"refused with {expect.refused}", found)]
    if expect.deployment or expect.order or expect.zone:
        return [(_wanted(expect), found)]
    return []


def _class_differences(expect: Expectation, explanation: Explanation) -> list[tuple[str, str]]:
    if expect.privacy is None or explanation.privacy is None or explanation.privacy.privacy == expect.privacy:
        return []
    return [(f"privacy class {expect.privacy}", explanation.privacy.privacy)]


def _wanted(expect: Expectation) -> str:
    stated: Mapping[str, object] = {
        name: value for name, value in expect.model_dump().items() if value not in (None, ())
    }
    return ", ".join(f"{name} {value}" for name, value in stated.items()) or "a decision"
