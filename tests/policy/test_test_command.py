"""`tollway policy test` and `tollway check`: the file's own tests and those beside it; JUnit for a CI."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.core.files import ENVIRON, changed

HOLDS = """\
policy_tests:
  - name: confidential stays home
    request: {model: auto, privacy: confidential}
    expect: {order: [llama-4-scout]}
"""
FAILS = """\
policy_tests:

  - name: goes out <&>
    request: {model: auto, privacy: confidential}
    expect: {deployment: gpt-4o, zone: external}
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    Path("tollway.yaml").write_text(changed())


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def test_the_files_own_tests_and_those_beside_it_are_run():
    Path("home.policy-test.yaml").write_text(HOLDS)
    result = run("policy", "test", "tollway.yaml")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "ok    tollway.yaml:70: confidential stays home",
        "ok    home.policy-test.yaml:2: confidential stays home",
        "2 of 2 policy tests passed.",
    ]


def test_a_test_file_that_carries_another_files_name_is_for_that_one():
    Path("blue.yaml").write_text(changed())
    Path("blue.policy-test.yaml").write_text(FAILS)
    Path("tollway.home.policy-test.yaml").write_text(HOLDS)
    assert "2 of 2" in run("policy", "test", "tollway.yaml").stdout
    assert "FAIL  blue.policy-test.yaml:3" in run("policy", "test", "blue.yaml").stdout
    assert "home" not in run("policy", "test", "blue.yaml").stdout.replace("stays home", "")


def test_named_files_are_run_instead_of_those_beside_it():
    Path("fails.policy-test.yaml").write_text(FAILS)
    Path("elsewhere.yaml").write_text(HOLDS)
    result = run("policy", "test", "tollway.yaml", "elsewhere.yaml")
    assert result.exit_code == 0
    assert "2 of 2" in result.stdout


def test_a_failure_says_what_was_expected_what_came_and_why():
    Path("out.policy-test.yaml").write_text(FAILS)
    result = run("policy", "test", "tollway.yaml")
    assert result.exit_code == 1
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert "FAIL  out.policy-test.yaml:3: goes out <&>" in lines
    assert "expected  deployment gpt-4o" in lines
    assert "got       the order llama-4-scout" in lines
    assert "expected  only zone external" in lines
    assert any("gpt-4o         removed  line 18" in line for line in lines)
    assert lines[-1] == "1 of 2 policy tests passed."


def test_junit_counts_cases_and_holds_the_reasons():
    Path("out.policy-test.yaml").write_text(FAILS)
    assert run("policy", "test", "tollway.yaml", "--junit", "OUT.xml").exit_code == 1
    root = ElementTree.parse("OUT.xml").getroot()
    suites = {suite.get("name"): suite for suite in root.iter("testsuite")}
    counts = {name: (suite.get("tests"), suite.get("failures")) for name, suite in suites.items()}
    assert counts == {"tollway.yaml": ("1", "0"), "out.policy-test.yaml": ("1", "1")}
    (case,) = suites["out.policy-test.yaml"].iter("testcase")
    assert (case.get("name"), case.get("line")) == ("goes out <&>", "3")
    (failure,) = case.iter("failure")
    assert failure.get("message") == "expected deployment gpt-4o, found the order llama-4-scout"
    assert "zone external is not allowed for confidential" in (failure.text or "")


def test_outcomes_as_json():
    Path("out.policy-test.yaml").write_text(FAILS)
    passed, failed = json.loads(run("policy", "test", "tollway.yaml", "--format", "json").stdout)
    assert (passed["passed"], passed["explanation"]) == (True, None)
    assert (failed["passed"], failed["line"]) == (False, 3)
    assert failed["failures"][0] == {"expected": "deployment gpt-4o", "found": "the order llama-4-scout"}
    assert failed["explanation"]["order"] == ["llama-4-scout"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "broken.policy-test.yaml:1: must be a mapping with the one section `policy_tests:`"),
        ("policy_tests: [{name: a}]", "broken.policy-test.yaml:1: policy_tests[0].request: is required"),
        (HOLDS.replace("model: auto", "model: auo"), ":3: policy_tests[0].request.model: no model is called"),
        (HOLDS.replace("llama-4-scout", "scout"), ":4: policy_tests[0].expect.order[0]: no deployment is"),
        (HOLDS + "models: {}\n", ":5: models: unknown key"),
    ],
)
def test_a_broken_test_file_is_told_with_its_line(text: str, message: str):
    Path("broken.policy-test.yaml").write_text(text)
    for words in (("policy", "test", "tollway.yaml"), ("check", "tollway.yaml")):
        result = run(*words)
        assert result.exit_code == 1
        assert message in result.stderr


def test_check_runs_the_tests_beside_the_file_as_well():
    Path("home.policy-test.yaml").write_text(HOLDS)
    result = run("check", "tollway.yaml")
    assert result.exit_code == 0
    assert "2 policy tests passed" in result.stdout
    Path("out.policy-test.yaml").write_text(FAILS)
    result = run("check", "tollway.yaml")
    assert result.exit_code == 1
    assert "out.policy-test.yaml:3: policy test 'goes out <&>' failed: expected deployment" in result.stderr


CIRCUMSTANCES = """\
policy_tests:
  - name: after retirement
    request: {model: gpt-4o, at: 2027-01-15 00:00}
    expect: {refused: model_retired}
  - name: on the last day
    request: {model: gpt-4o, at: 2027-01-14 23:59}
    expect: {deployment: gpt-4o}
  - name: near the end of the budget
    request: {model: auto, budget_used: 0.81}
    expect: {order: [llama-4-scout]}
  - name: not yet near it
    request: {model: auto, budget_used: 0.8}
    expect: {order: [llama-4-scout, gpt-4o]}
  - name: the pool is down
    request: {model: auto, down: [llama-4-scout]}
    expect: {order: [gpt-4o], never: [llama-4-scout]}
  - name: the pool queues
    request: {model: busy, outstanding: {llama-4-scout: 9}}
    expect: {deployment: gpt-4o}
  - name: the pool does not queue
    request: {model: busy, outstanding: {llama-4-scout: 8}}
    expect: {deployment: llama-4-scout}
  - name: a session stays
    request: {model: split, session: s-1}
    expect: {deployment: gpt-4o}
  - name: another one stays elsewhere
    request: {model: split, session: s-4}
    expect: {deployment: llama-4-scout}
  - name: what is refused has no candidates
    request: {model: gpt-4o, privacy: confidential}
    expect: {order: [], never: [gpt-4o], privacy: confidential, refused: privacy_policy_violation}
"""
MODELS = """\
models:
  busy:
    use: [llama-4-scout, gpt-4o]
    rules:
      - {when: 'pool["llama-4-scout"].outstanding > 8', use: [gpt-4o, llama-4-scout]}
  split:
    {use: [llama-4-scout, gpt-4o], prefer: weights, weights: {llama-4-scout: 1, gpt-4o: 1}, sticky: true}
"""


def test_a_sample_can_name_its_circumstances():
    Path("tollway.yaml").write_text(changed(("models:\n", MODELS)))
    Path("c.policy-test.yaml").write_text(CIRCUMSTANCES)
    result = run("policy", "test", "tollway.yaml")
    assert result.exit_code == 0, result.output
