"""The file's own `policy_tests` are decided as in service, and say in words what came out instead."""

import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.policy.policy_tests import run_policy_tests
from tests.core.files import built

OLD = (
    "  - {name: confidential stays home, request: {model: auto, feature: literature-triage, "
    "privacy: confidential}, expect: {deployment: llama-4-scout}}"
)


def failures(folder: Path, request: str, expect: str, *replacements: tuple[str, str]) -> list[str]:
    """What `policy test` says of one test over the example."""
    new = f"  - {{name: t, request: {{model: auto, {request}}}, expect: {{{expect}}}}}"
    return [str(failure) for failure in run_policy_tests(built(folder, (OLD, new), *replacements))]


def test_the_examples_own_test_holds(tmp_path: Path):
    assert run_policy_tests(built(tmp_path)) == []


@pytest.mark.parametrize(
    ("request_", "expect"),
    [
        ("privacy: internal", "deployment: llama-4-scout"),
        ("privacy: internal", "order: [llama-4-scout, gpt-4o]"),
        ("privacy: confidential", "order: [llama-4-scout], never: [gpt-4o], zone: local"),
        ("privacy: public", "privacy: internal"),
        ("text: 'Write to jane.doe@example.com'", "privacy: confidential, never: [gpt-4o]"),
        ("text: 'Write to Jane'", "privacy: internal"),
        ("key: triage-app", "deployment: llama-4-scout"),
        ("feature: literature-triage, key: triage-app", "deployment: llama-4-scout"),
        ("needs: [logprobs]", "order: [gpt-4o]"),
        ("modalities: [text, image]", "order: [llama-4-scout], privacy: restricted"),
        ("modalities: [audio]", "refused: unsupported_modality"),
        ("needs: [logprobs], privacy: restricted", "refused: privacy_policy_violation"),
        ("max_output_tokens: 16384", "order: [gpt-4o]"),
        ("max_output_tokens: 20000", "refused: invalid_value"),
        ("prompt_tokens: 130000", "order: [llama-4-scout]"),
        ("prompt_tokens: 140000", "refused: context_length_exceeded"),
        ("stream: true, tags: {ticket: A-1}", "deployment: llama-4-scout"),
    ],
)
def test_what_holds_is_no_failure(tmp_path: Path, request_: str, expect: str):
    assert failures(tmp_path, request_, expect) == []


@pytest.mark.parametrize(
    ("request_", "expect", "message"),
    [
        (
            "privacy: internal",
            "deployment: gpt-4o",
            "expected deployment gpt-4o, found the order llama-4-scout, gpt-4o",
        ),
        (
            "privacy: internal",
            "order: [gpt-4o, llama-4-scout]",
            "expected the order gpt-4o, llama-4-scout, found the order llama-4-scout, gpt-4o",
        ),
        ("privacy: internal", "never: [gpt-4o]", "expected never gpt-4o, found the order"),
        ("privacy: internal", "privacy: restricted", "expected privacy class restricted, found internal"),
        ("privacy: internal", "zone: local", "expected only zone local, found zones external, local"),
        (
            "privacy: internal",
            "refused: privacy_policy_violation",
            "expected refused with privacy_policy_violation, found the order",
        ),
        (
            "modalities: [audio]",
            "deployment: gpt-4o",
            "expected deployment gpt-4o, found refused with unsupported_modality",
        ),
        (
            "modalities: [audio]",
            "refused: privacy_policy_violation",
            "expected refused with privacy_policy_violation, found refused with unsupported_modality",
        ),
    ],
)
def test_what_does_not_hold_says_what_was_expected_and_what_was_found(
    tmp_path: Path, request_: str, expect: str, message: str
):
    (found,) = failures(tmp_path, request_, expect)
    assert found.startswith("policy test 't' failed: ")
    assert message in found


def test_each_expectation_that_does_not_hold_is_told(tmp_path: Path):
    assert (
        len(failures(tmp_path, "privacy: internal", "deployment: gpt-4o, zone: local, never: [gpt-4o]")) == 3
    )


CLOSE = (
    """'feature == "contract-review" && prompt_tokens > 20000'""",
    "'prompt_tokens > 20000'",
)


@pytest.mark.parametrize(
    ("tokens", "expect"), [(20_000, "order: [llama-4-scout, gpt-4o]"), (20_001, "order: [gpt-4o]")]
)
def test_prompt_tokens_are_exactly_those_that_the_rules_see(tmp_path: Path, tokens: int, expect: str):
    assert failures(tmp_path, f"prompt_tokens: {tokens}", expect, CLOSE) == []


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_even_a_prompt_shorter_than_the_sample_text_counts_as_so_many_tokens(tmp_path: Path, tokens: int):
    rule = (CLOSE[0], f"'prompt_tokens == {tokens}'")
    assert failures(tmp_path, f"prompt_tokens: {tokens}", "order: [gpt-4o]", rule) == []


def test_a_key_that_may_not_use_the_model_is_refused_as_in_service(tmp_path: Path):
    models = ("models: [auto, gpt-4o]}", "models: [gpt-4o]}")
    assert failures(tmp_path, "key: triage-app", "refused: model_not_found", models) == []


def test_a_key_that_may_not_act_for_the_feature_is_refused_as_in_service(tmp_path: Path):
    features = ("features:\n", "features:\n  review: {team: research}\n")
    sample = "key: triage-app, feature: review"
    assert failures(tmp_path, sample, "refused: permission_denied", features) == []


def test_a_feature_without_a_key_is_decided_with_its_own_floor(tmp_path: Path):
    features = ("features:\n", "features:\n  review: {team: research, privacy: restricted}\n")
    assert failures(tmp_path, "feature: review", "privacy: restricted, zone: local", features) == []


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])  # +14 and -11 hours
def test_rules_over_time_see_the_orgs_time_zone(tmp_path: Path, zone: str):
    now = datetime.datetime.now(ZoneInfo(zone))
    hours = sorted({(at.day, at.hour) for at in (now, now + datetime.timedelta(minutes=10))})
    listed = ", ".join(f"[{day}, {hour}]" for day, hour in hours)
    rule = (CLOSE[0], f"'[time.day, time.hour] in [{listed}]'")
    there = ("org: {budgets", f"org: {{timezone: {zone}, budgets")
    assert failures(tmp_path, "privacy: internal", "order: [gpt-4o]", rule, there) == []
    assert failures(tmp_path, "privacy: internal", "order: [gpt-4o]", rule)
