"""From the file to what the pipeline reads: the documented example, and what only the building can find."""

import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.config.build import Built
from gateway.core.balancing import Fleet
from gateway.core.catalog import Api, Capability, Modality, Objective, Provider
from gateway.core.route import Routes
from gateway.core.tenancy import Budget, Limits
from gateway.core.windows import Per
from gateway.proxy.auth import digest
from tests.core.builders import decided, moment, rates
from tests.core.files import ENVIRON, EXAMPLE, TODAY, built, problems

USD = 10**9


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built(tmp_path_factory.mktemp("example"))


# --- the example ---


def test_the_deployments_are_as_written(example: Built):
    gpt, llama = (example.policy.deployments[name] for name in ("gpt-4o", "llama-4-scout"))
    assert (gpt.provider, gpt.model, gpt.zone) == (Provider.OPENAI, "gpt-4o-2024-11-20", "external")
    assert gpt.serves == {Api.CHAT}
    assert gpt.accepts == {Modality.TEXT, Modality.IMAGE}
    assert gpt.supports == {
        *(Capability.TOOLS, Capability.JSON_SCHEMA, Capability.LOGPROBS),
        Capability.FUNCTIONS,  # follows from tools at openai
    }
    assert (gpt.context_tokens, gpt.max_output_tokens) == (128_000, 16_384)
    assert gpt.price.standard == rates("2.50", "10", cached="1.25")
    assert gpt.retires_on == datetime.date(2027, 1, 14)
    assert gpt.retires_at == datetime.datetime(2027, 1, 15, tzinfo=datetime.UTC).timestamp()
    assert (llama.provider, llama.zone) == (Provider.VLLM, "local")
    assert llama.serves == {Api.CHAT, Api.COMPLETIONS}
    assert llama.supports == {Capability.TOOLS, Capability.JSON_SCHEMA}
    assert [replica.name for replica in llama.replicas] == ["127.0.0.1:9101", "127.0.0.1:9102"]
    assert llama.health is not None


def test_the_models_are_as_written(example: Built):
    auto = example.policy.models["auto"]
    assert [item.name for item in auto.use] == ["llama-4-scout", "gpt-4o"]
    assert auto.prefer is Objective.COST
    assert auto.rules is not None
    assert [(rule.number, rule.use) for rule in auto.rules.rules] == [
        (1, ("gpt-4o",)),
        (2, ("llama-4-scout",)),
    ]
    assert auto.rules.variables == ("feature", "prompt_tokens", "budget")
    assert example.policy.models["gpt-4o"].prefer is Objective.ORDER
    assert example.policy.models["gpt-4o"].rules is None


def test_rules_know_their_lines(example: Built):
    rules = example.policy.models["auto"].rules
    assert rules is not None
    lines = EXAMPLE.splitlines()
    assert [rule.when in lines[rule.line - 1] for rule in rules.rules] == [True, True]


def test_privacy_is_as_written(example: Built):
    policy = example.policy
    assert policy.classes == ("public", "internal", "confidential", "restricted")
    assert policy.default_class == "internal"
    assert policy.zones["internal"] == {"local", "external"}
    assert policy.zones["restricted"] == {"local"}
    screening = example.screenings.standard
    assert set(screening.raise_to.values()) == {"confidential"}
    assert set(screening.raise_to) == {"email", "credit_card", "iban", "jp_my_number", "us_ssn", "secret"}
    assert screening.detectors is not None


def test_a_key_finds_its_principal_and_pays_with_feature_team_and_org(example: Built):
    tenancy = example.tenancy
    entry = tenancy.keys[digest(tenancy.pepper, ENVIRON["TRIAGE_KEY"])]
    assert (entry.name, entry.expires_at) == ("triage-app", None)
    payer = entry.default
    assert (payer.key, payer.feature, payer.team, payer.org) == (
        "triage-app",
        "literature-triage",
        "research",
        "org",
    )
    assert payer.floor == "internal"
    assert payer.models == {"auto", "gpt-4o"}
    assert [scope.label for scope in payer.scopes] == [
        "feature:literature-triage",
        "team:research",
        "org:org",
    ]
    assert entry.by_feature == {"literature-triage": payer}


def test_limits_and_budgets_are_as_written(example: Built):
    scopes = {scope.label: scope for scope in example.scopes}
    assert set(scopes) == {"feature:literature-triage", "team:research", "org:org"}
    feature = scopes["feature:literature-triage"]
    assert feature.limits == Limits(requests_per_minute=600, tokens_per_minute=200_000, concurrent=32)
    assert feature.budgets == (Budget(50 * USD, Per.DAY),)
    assert scopes["team:research"].budgets == (Budget(3000 * USD, Per.MONTH),)
    assert scopes["org:org"].budgets == (Budget(20_000 * USD, Per.MONTH),)


def test_no_secret_is_kept_in_the_tenancy(example: Built):
    assert ENVIRON["TRIAGE_KEY"] not in repr(example.tenancy)
    assert ENVIRON["TRIAGE_KEY"].encode() not in repr(example.tenancy).encode()


def test_the_example_plans_as_it_promises(example: Built):
    routes = Routes(example.policy, Fleet(example.policy.deployments.values()))
    auto = example.policy.models["auto"]
    (entry,) = example.tenancy.keys.values()

    def order(privacy: str, **circumstances: float) -> list[str]:
        found = decided(auto, None, privacy, by=routes, payer=entry.default, at=moment(**circumstances))
        return [item.name for item in found.candidates]

    assert order("internal") == ["llama-4-scout", "gpt-4o"]
    assert order("internal", budget_used=0.9) == ["llama-4-scout"]
    assert order("confidential") == ["llama-4-scout"]


def test_the_version_is_that_of_the_file(tmp_path: Path, example: Built):
    assert example.version == example.policy.version
    assert len(example.version) == 12
    assert built(tmp_path, ("usd: 50,", "usd: 51,")).version != example.version


# --- more of tenancy ---


def test_a_key_may_act_for_more_features_and_the_higher_floor_holds(tmp_path: Path):
    made = built(
        tmp_path,
        (
            "features:\n",
            "features:\n  review: {team: research, privacy: restricted}\n  plain: {team: research}\n",
        ),
        (
            "feature: literature-triage, models: [auto, gpt-4o]}",
            "feature: literature-triage, features: [review, plain], privacy: confidential, "
            "limits: {concurrent: 3}, expires_on: 2026-12-31}",
        ),
        ("org: {budgets", "org: {name: acme, timezone: Asia/Tokyo, budgets"),
    )
    (entry,) = made.tenancy.keys.values()
    floors = {name: item.floor for name, item in entry.by_feature.items()}
    assert floors == {"literature-triage": "confidential", "review": "restricted", "plain": "confidential"}
    assert entry.default.models is None
    assert entry.default.scopes[0].label == "key:triage-app"
    assert entry.default.scopes[-1].label == "org:acme"
    assert entry.expires_at == datetime.datetime(2026, 12, 31, 15, tzinfo=datetime.UTC).timestamp()
    assert made.tenancy.time_zone == ZoneInfo("Asia/Tokyo")


def test_a_feature_without_a_class_has_the_default_one(tmp_path: Path):
    made = built(tmp_path, ("team: research, privacy: internal,", "team: research,"))
    (entry,) = made.tenancy.keys.values()
    assert entry.default.floor == "internal"


def test_soft_budgets_and_limits_in_shadow_are_counted_as_what_they_are(tmp_path: Path):
    made = built(
        tmp_path,
        ("budgets: [{usd: 50, per: day}]", "budgets: [{usd: 50, per: day, soft: true}]"),
        ("concurrent: 32", "concurrent: 32, shadow: true"),
    )
    scope = {scope.label: scope for scope in made.scopes}["feature:literature-triage"]
    assert [(item.nano_usd, item.per, item.soft) for item in scope.budgets] == [(50 * 10**9, Per.DAY, True)]
    assert scope.limits.shadow and scope.limits.concurrent == 32


def test_limits_hold_the_longest_answer_unless_the_file_asks_for_a_typical_one(tmp_path: Path):
    said = [(), (("concurrent: 32", "estimate: maximum"),), (("concurrent: 32", "estimate: typical"),)]
    found = [{one.label: one for one in built(tmp_path, *changes).scopes} for changes in said]
    assert [one["feature:literature-triage"].limits.typical for one in found] == [False, False, True]


def test_of_several_finds_the_most_sensitive_class_counts(tmp_path: Path):
    made = built(
        tmp_path,
        (
            "us_ssn, secret], raise_to: confidential}",
            "us_ssn, secret], raise_to: confidential}\n    - {find: [email, iban], raise_to: restricted}\n"
            "    - {find: [iban], raise_to: public}",
        ),
    )
    raise_to = made.screenings.standard.raise_to
    assert raise_to["email"] == raise_to["iban"] == "restricted"
    assert raise_to["us_ssn"] == "confidential"


def test_a_file_that_looks_for_nothing_has_no_detectors(tmp_path: Path):
    detect = (
        "  detect:\n    - {find: [email, credit_card, iban, jp_my_number, us_ssn, secret], "
        "raise_to: confidential}\n"
    )
    assert built(tmp_path, (detect, "")).screenings.standard.detectors is None


# --- what only the building can find ---


def shown(found: list[object]) -> list[str]:
    return [str(problem).rpartition("/")[2] for problem in found]


def test_an_unknown_price_is_an_error_with_file_line_and_path(tmp_path: Path):
    found = problems(
        tmp_path,
        ("model: gpt-4o-2024-11-20", "model: gpt-9"),
        ("    price: {input: 2.50, cached_input: 1.25, output: 10.00}", "    # no price"),
    )
    (line,) = shown(list(found))
    assert line.startswith(
        "tollway.yaml:24: deployments.gpt-4o.price: nobody knows what gpt-9 at openai costs"
    )


ACCEPTS = "accepts: [text, image]             #"
SUPPORTS = "supports: [tools, json_schema, logprobs]\n    context_tokens"


@pytest.mark.parametrize(
    ("old", "new", "key", "because"),
    [
        (ACCEPTS, "accepts: [text, audio] #", "input_audio", "accepts: [audio]"),
        (SUPPORTS, "supports: [audio_output]\n    context_tokens", "output_audio", "audio_output"),
        (SUPPORTS, "supports: [web_search]\n    context_tokens", "per_search", "web_search"),
        (SUPPORTS, "searches_unasked: true\n    context_tokens", "per_search", "searches_unasked"),
    ],
)
def test_what_a_deployment_can_do_needs_a_price(tmp_path: Path, old: str, new: str, key: str, because: str):
    changes = [(old, new), ("model: gpt-4o-2024-11-20", "model: of-tomorrow")]
    line, *_ = shown(list(problems(tmp_path, *changes)))
    expected = (
        f"deployments.gpt-4o.price.{key}: needed because of {because}, and no list has it: give USD for"
    )
    assert expected in line
    (tmp_path / "priced").mkdir()
    priced = ("output: 10.00}", "output: 10.00, input_audio: 40, output_audio: 80, per_search: 0.01}")
    (found,) = built(tmp_path / "priced", *changes, priced).policy.models["gpt-4o"].use
    assert found.searches == ("search" in new)


def test_an_unknown_size_is_an_error_with_file_line_and_path(tmp_path: Path):
    found = problems(
        tmp_path, ("model: gpt-4o-2024-11-20", "model: gpt-9"), ("    context_tokens: 128000\n", "")
    )
    (line,) = shown(list(found))
    assert "deployments.gpt-4o.context_tokens: the price catalogue does not know gpt-9" in line


def test_a_condition_that_does_not_compile_is_an_error_with_file_line_path_and_column(tmp_path: Path):
    found = problems(tmp_path, ("budget.used > 0.8", "budgets.used > 0.8"))
    (line,) = shown(list(found))
    number = next(at for at, text in enumerate(EXAMPLE.splitlines(), 1) if "budget.used" in text)
    assert line.startswith(
        f"tollway.yaml:{number}: models.auto.rules[1].when: column 8: undeclared reference to 'budgets.used'"
    )


def test_every_problem_is_told_at_once(tmp_path: Path):
    found = problems(
        tmp_path,
        ("model: gpt-4o-2024-11-20", "model: gpt-9"),
        ("    price: {input: 2.50, cached_input: 1.25, output: 10.00}", "    # no price"),
        ("budget.used > 0.8", "budget.used > 1"),
        ("prompt_tokens > 20000", "prompt_tokens > true"),
    )
    assert len(found) == 3
    assert all(problem.line for problem in found)


def test_what_the_loading_found_is_all_that_is_told_of_a_broken_file(tmp_path: Path):
    found = problems(tmp_path, ("zone: external", "zone: outer"))
    assert ["no zone is called" in str(problem) for problem in found] == [True]


def test_a_deployment_that_is_not_in_force_yet_is_left_out_and_its_models_go_on_without_it(tmp_path: Path):
    made = built(tmp_path, ("provider: openai ", "provider: litellm "))
    assert set(made.policy.deployments) == {"llama-4-scout"}
    assert [item.name for item in made.policy.models["auto"].use] == ["llama-4-scout"]
    assert made.policy.models["gpt-4o"].use == ()


def test_a_retired_deployment_is_built_and_no_route_leads_to_it(tmp_path: Path):
    made = built(tmp_path, ("retires_on: 2027-01-14", "retires_on: 2026-11-22"))
    gpt = made.policy.deployments["gpt-4o"]
    assert gpt.retires_at is not None
    assert gpt.retires_at <= datetime.datetime.combine(TODAY, datetime.time(), datetime.UTC).timestamp()


def test_lines_successors_and_licences_come_from_the_whole_file(tmp_path: Path):
    made = built(
        tmp_path,
        ("successor: null", "successor: llama-4-scout"),
        ("org: {", "org: {licensee_eu_domiciled: true, license_conflicts: forbid, "),
    )
    gpt, llama = (made.policy.deployments[name] for name in ("gpt-4o", "llama-4-scout"))
    assert gpt.successors == ("llama-4-scout",)
    assert (gpt.lines["zone"], gpt.lines["accepts"], gpt.lines["retires_on"]) == (29, 31, 36)
    assert llama.license_conflict is not None
    assert llama.marginal_rate == 0
    assert made.policy.zone_lines == {"public": 16, "internal": 17, "confidential": 18, "restricted": 19}
    assert made.policy.models["auto"].line == 55


def test_a_model_as_successor_means_the_deployments_that_it_uses(tmp_path: Path):
    made = built(tmp_path, ("successor: null", "successor: auto"))
    assert made.policy.deployments["gpt-4o"].successors == ("llama-4-scout",)


def test_a_misspelt_pool_in_a_rule_is_told_with_its_line(tmp_path: Path):
    (found,) = problems(tmp_path, ("budget.used > 0.8", 'pool["llama-4-scot"].outstanding > 8'))
    assert str(found).endswith(
        "tollway.yaml:59: models.auto.rules[1].when: column 1: pool has no 'llama-4-scot'; "
        "did you mean 'llama-4-scout'? known are gpt-4o, llama-4-scout"
    )
