"""A plan: hard constraints first, then rules, then the objective; nothing later widens what was narrowed."""

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from gateway.config.cel import CelCompiler
from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.catalog import Api, Capability, Deployment, Modality, Model, Objective, Rule, RuleSet
from gateway.core.constraints import Constraint
from gateway.core.errors import (
    FailureKind,
    GatewayError,
    InvalidRequest,
    PrivacyViolation,
    Unavailable,
    UnsupportedModality,
    UpstreamFailure,
)
from gateway.core.route import Refused, Routes
from gateway.core.screening import Classified
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal
from tests.core.builders import (
    NOVEMBER,
    chat,
    decided,
    deployment,
    local,
    model,
    moment,
    names,
    parsed,
    policy,
    price,
    principal,
    rates,
    route_to,
    routes,
    scope,
)

PAYER = principal()
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100}}
COMPILER = CelCompiler()


def rules(*pairs: tuple[str, tuple[str, ...]]) -> RuleSet:
    return COMPILER.rule_set(
        tuple(Rule(number, 40 + number, when, use) for number, (when, use) in enumerate(pairs, 1))
    )


def plan(
    item: Model,
    body: Mapping[str, Any] | Call | None = None,
    privacy: str = "internal",
    *,
    by: Routes | None = None,
    payer: Principal = PAYER,
    **circumstances: Any,
) -> Sent:
    call = body if isinstance(body, Call) else parsed(chat() if body is None else body)
    return decided(item, call, privacy, by=by, payer=payer, at=moment(**circumstances))


def refused(item: Model, body: Any = None, privacy: str = "internal") -> Refused:
    """The decision that nothing may answer."""
    found = route_to(item, payer=PAYER, now=NOVEMBER).decide(
        "r", parsed(body or chat()), Classified(privacy), moment()
    )
    assert isinstance(found, Refused)
    return found


def refusal(item: Model, *args: Any, **kwargs: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        plan(item, *args, **kwargs)
    return caught.value


def why(found: Sent) -> dict[str, Constraint]:
    return {item.deployment: item.constraint for item in found.excluded}


def down(*deployments: Deployment) -> Routes:
    """Routes for which the replicas of `deployments` are down; the model must be made of all of them."""
    by = routes(model(*deployments))
    for item in deployments:
        for state in by.fleet.replica_sets[item.name].replicas:
            state.is_up = False
    return by


# --- each hard constraint removes, and says so ---

WANTING: dict[Constraint, tuple[Deployment, Any, str]] = {
    Constraint.ENDPOINT: (deployment("other", serves=frozenset({Api.EMBEDDINGS})), chat(), "internal"),
    Constraint.MODALITY: (deployment("other", accepts=frozenset({Modality.TEXT})), chat([IMAGE]), "internal"),
    Constraint.CAPABILITY: (
        deployment("other", supports=frozenset({Capability.LOGPROBS})),
        chat(tools=[{"type": "function"}], logprobs=True),
        "internal",
    ),
    Constraint.PRIVACY: (deployment("other"), chat(), "confidential"),
    Constraint.RETIRED: (deployment("other", retires_at=NOVEMBER), chat(), "internal"),
    Constraint.CONTEXT: (deployment("other", context_tokens=100), chat("word " * 400), "internal"),
    Constraint.OUTPUT: (deployment("other", max_output_tokens=100), chat(max_tokens=101), "internal"),
}


@pytest.mark.parametrize("constraint", WANTING)
def test_each_constraint_removes_the_deployment_that_fails_it_and_names_itself(constraint: Constraint):
    wanting, body, privacy = WANTING[constraint]
    found = plan(model(wanting, local()), body, privacy)
    assert names(found.candidates) == ["llama"]
    assert why(found) == {"other": constraint}
    assert found.excluded[0].detail
    assert found.decision == f"only-{constraint}"


@pytest.mark.parametrize(
    ("constraint", "kind", "code", "status"),
    [
        (Constraint.ENDPOINT, InvalidRequest, "invalid_request", 400),
        (Constraint.MODALITY, UnsupportedModality, "unsupported_modality", 400),
        (Constraint.CAPABILITY, InvalidRequest, "unsupported_capability", 400),
        (Constraint.PRIVACY, PrivacyViolation, "privacy_policy_violation", 403),
        (Constraint.RETIRED, InvalidRequest, "model_retired", 400),
        (Constraint.CONTEXT, InvalidRequest, "context_length_exceeded", 400),
        (Constraint.OUTPUT, InvalidRequest, "invalid_value", 400),
    ],
)
def test_each_constraint_that_removes_the_last_one_has_its_own_refusal(
    constraint: Constraint, kind: type[GatewayError], code: str, status: int
):
    wanting, body, privacy = WANTING[constraint]
    error = refusal(model(wanting), body, privacy)
    assert type(error) is kind
    assert (error.code, error.status) == (code, status)
    assert "other" in error.message


def test_a_pool_without_an_available_replica_is_left_out_and_the_last_one_is_a_503():
    ill, well = local(), deployment()
    by = routes(model(ill, well))
    by.fleet.replica_sets["llama"].replicas[0].is_up = False
    assert why(plan(model(ill, well), by=by)) == {"llama": Constraint.HEALTH}
    error = refusal(model(ill), by=down(ill))
    assert isinstance(error, Unavailable)
    assert error.retry_after_seconds >= 1.0


def test_the_503_says_when_the_first_breaker_closes():
    item = model(local(replicas=2))
    by = routes(item)
    for number, state in enumerate(by.fleet.replica_sets["llama"].replicas):
        for _ in range(3 + number):
            state.breaker.failed(1000.0, weight=3)
            state.breaker.failed(1002.0, weight=3)
            state.breaker.failed(1006.0, weight=3)
    error = refusal(item, by=by, monotonic=1006.0)
    assert isinstance(error, Unavailable)
    assert error.retry_after_seconds == 4.0


def test_a_deployment_that_fails_for_one_key_alone_is_left_out_for_it_and_the_reason_says_so():
    by = routes(item := model(local(), deployment()))
    for _ in range(3):
        failure = UpstreamFailure(FailureKind.RESET, "reset")
        by.fleet.replica_sets["llama"].replicas[0].failed(failure, 1000.0, PAYER.key)
    found = plan(item, by=by)
    assert names(found.candidates) == ["gpt-4o"]
    assert "requests of this key have just failed" in found.excluded[0].detail
    other = msgspec.structs.replace(PAYER, key="another")
    assert names(plan(item, by=by, payer=other).candidates) == ["llama", "gpt-4o"]


def test_all_reasons_for_exclusion_are_kept():
    found = plan(
        model(
            deployment("text-only", accepts=frozenset({Modality.TEXT})),
            deployment("small", context_tokens=500),
            deployment("old", retires_at=NOVEMBER - 1),
            deployment("good"),
        ),
        chat([IMAGE, {"type": "text", "text": "x" * 4000}]),
    )
    assert why(found) == {
        "text-only": Constraint.MODALITY,
        "small": Constraint.CONTEXT,
        "old": Constraint.RETIRED,
    }


def test_a_deployment_is_used_until_the_moment_it_retires():
    item = model(deployment(retires_at=NOVEMBER))
    assert plan(item, now=NOVEMBER - 0.001).candidates
    assert refusal(item, now=NOVEMBER).code == "model_retired"


def test_an_explicit_cap_may_be_as_large_as_the_deployment_allows():
    assert plan(model(deployment(max_output_tokens=100)), chat(max_tokens=100)).estimates[0].output == 100


def test_a_list_of_inputs_may_be_longer_than_the_context_as_each_is_read_by_itself():
    item = model(deployment(serves=frozenset({Api.EMBEDDINGS}), context_tokens=8192))
    batch = parsed({"model": "auto", "input": ["word " * 800] * 100}, Api.EMBEDDINGS)
    assert plan(item, batch).candidates
    one = parsed({"model": "auto", "input": "word " * 80_000}, Api.EMBEDDINGS)
    assert refusal(item, one).code == "context_length_exceeded"


def test_a_document_or_a_recording_is_not_refused_for_its_size_in_bytes():
    item = model(
        deployment(accepts=frozenset({Modality.TEXT, Modality.AUDIO, Modality.FILE}), context_tokens=128_000)
    )
    document = {"type": "file", "file": {"file_data": "A" * 4_000_000, "filename": "paper.pdf"}}
    recording = {"type": "input_audio", "input_audio": {"data": "A" * 20_000_000, "format": "wav"}}
    assert plan(item, chat([document])).candidates
    assert plan(item, chat([recording])).candidates


# --- precedence of refusals ---


def test_health_is_named_before_privacy_because_a_retry_can_mend_it():
    ill, outside = local(), deployment()
    by = routes(model(ill, outside))
    by.fleet.replica_sets["llama"].replicas[0].is_up = False
    assert isinstance(refusal(model(ill, outside), None, "restricted", by=by), Unavailable)


@pytest.mark.parametrize(
    ("wanting", "body", "kind", "code"),
    [
        (local(accepts=frozenset({Modality.TEXT})), chat([IMAGE]), PrivacyViolation, None),
        (local(supports=frozenset()), chat(logprobs=True), PrivacyViolation, None),
    ],
)
def test_privacy_is_named_before_what_the_allowed_deployments_cannot_do(
    wanting: Deployment, body: Any, kind: type[GatewayError], code: str | None
):
    assert isinstance(refusal(model(wanting, deployment()), body, "confidential"), kind)


@pytest.mark.parametrize(
    ("small", "body", "code"),
    [
        (local(context_tokens=10), chat("word " * 400), "context_length_exceeded"),
        (local(max_output_tokens=10), chat(max_tokens=11), "invalid_value"),
    ],
)
def test_size_is_named_where_the_deployment_that_privacy_allows_is_too_small(
    small: Deployment, body: Any, code: str
):
    error = refusal(model(small, deployment()), body, "confidential")
    assert isinstance(error, InvalidRequest)
    assert error.code == code
    assert "zone external is not allowed for confidential" in error.message


@pytest.mark.parametrize(
    ("first", "second", "body", "code"),
    [
        ({"context_tokens": 10}, {"max_output_tokens": 10}, {"max_tokens": 11}, "context_length_exceeded"),
        (
            {"max_output_tokens": 10},
            {"accepts": frozenset({Modality.TEXT})},
            {"max_tokens": 11},
            "invalid_value",
        ),
        (
            {"accepts": frozenset({Modality.TEXT})},
            {"supports": frozenset()},
            {"logprobs": True},
            "unsupported_modality",
        ),
        ({"supports": frozenset()}, {"retires_at": 1.0}, {"logprobs": True}, "unsupported_capability"),
        ({"retires_at": 1.0}, {"serves": frozenset({Api.EMBEDDINGS})}, {}, "model_retired"),
    ],
)
def test_context_comes_before_output_before_modality_before_capability_before_retired_before_endpoint(
    first: dict[str, Any], second: dict[str, Any], body: dict[str, Any], code: str
):
    content = [IMAGE, {"type": "text", "text": "word " * 400}]
    for pair in ((first, second), (second, first)):
        item = model(deployment("a", **pair[0]), deployment("b", **pair[1]))
        assert refusal(item, chat(content, **body)).code == code


# --- rules ---


def test_the_first_rule_that_holds_decides_and_its_order_stands():
    item = model(
        local(),
        deployment(),
        deployment("mini"),
        prefer=Objective.COST,
        rules=rules(
            ("stream", ("mini",)),
            ("prompt_tokens > 5", ("gpt-4o", "mini", "llama")),
            ("true", ("llama",)),
        ),
    )
    found = plan(item)
    assert names(found.candidates) == ["gpt-4o", "mini", "llama"]
    assert found.rule is not None
    assert (found.rule.number, found.decision) == (2, "rule-2")


def test_without_a_rule_that_holds_the_objective_decides():
    item = model(deployment(), local(), prefer=Objective.COST, rules=rules(("stream", ("gpt-4o",))))
    found = plan(item)
    assert names(found.candidates) == ["llama", "gpt-4o"]
    assert (found.rule, found.decision) == (None, "cost")


def test_what_a_rule_leaves_out_is_excluded_with_its_number_and_line():
    found = plan(model(local(), deployment(), rules=rules(("stream", ()), ("true", ("gpt-4o",)))))
    assert names(found.candidates) == ["gpt-4o"]
    assert why(found) == {"llama": Constraint.RULE}
    assert found.excluded[0].detail == "rule 2 (line 42) leaves it out"


def test_a_rule_cannot_bring_back_what_privacy_removed():
    item = model(local(), deployment(), rules=rules(("true", ("gpt-4o", "llama"))))
    found = plan(item, None, "confidential")
    assert names(found.candidates) == ["llama"]
    assert why(found) == {"gpt-4o": Constraint.PRIVACY}


def test_a_rule_for_a_removed_deployment_alone_is_refused_with_what_removed_it():
    item = model(local(), deployment(), rules=rules(("true", ("gpt-4o",))))
    assert isinstance(refusal(item, None, "confidential"), PrivacyViolation)


def test_a_rule_for_a_deployment_that_is_down_is_a_503_and_does_not_widen():
    item = model(local(), deployment(), rules=rules(("true", ("llama",))))
    by = routes(item)
    by.fleet.replica_sets["llama"].replicas[0].is_up = False
    assert isinstance(refusal(item, by=by), Unavailable)


@pytest.mark.parametrize(
    "when",
    [
        'model == "auto"',
        'feature == "triage"',
        'team == "research"',
        'key == "triage-app"',
        'privacy == "internal"',
        '"image" in modalities && "text" in modalities && size(modalities) == 2',
        "tools",
        "stream",
        "prompt_tokens > 5 && prompt_tokens < 100",
        "max_output_tokens == 77",
        'tags.ticket == "A-1"',
        "budget.used > 0.8",
        'pool["llama"].outstanding == 2 && pool["llama"].available == 1 && pool["llama"].replicas == 2',
        "time.hour == 8 && time.weekday == 1",
    ],
)
def test_rules_see_every_fact_of_the_request(when: str):
    item = model(local(replicas=2), deployment(), rules=rules((when, ("gpt-4o",))))
    by = routes(item)
    first, second = by.fleet.replica_sets["llama"].replicas
    first.in_flight, second.is_up = 2, False
    body = chat(
        [IMAGE, {"type": "text", "text": "Hi"}],
        stream=True,
        max_tokens=77,
        tools=[{"type": "function"}],
        metadata={"ticket": "A-1"},
    )
    assert plan(item, body, by=by, budget_used=0.9).decision == "rule-1"


def test_the_largest_cap_that_rules_see_for_a_request_without_one_is_zero():
    item = model(local(), rules=rules(("max_output_tokens == 0", ("llama",))))
    assert plan(item).decision == "rule-1"


class Unasked(datetime.tzinfo):
    """A time zone in which nobody may look at the clock."""

    def fromutc(self, at: datetime.datetime) -> datetime.datetime:
        raise AssertionError("nobody asked")


def test_the_clock_is_read_only_where_a_rule_names_it():
    unasked = model(local(), deployment(), rules=rules(("stream", ("llama",))))
    asked = model(local(), deployment(), rules=rules(("time.hour == 8", ("llama",))))
    assert plan(unasked, by=routes(unasked, zone=Unasked())).candidates
    with pytest.raises(AssertionError, match="nobody asked"):
        plan(asked, by=routes(asked, zone=Unasked()))


# --- objectives ---


def test_order_is_that_of_the_file():
    found = plan(model(deployment("c"), deployment("a"), deployment("b")))
    assert names(found.candidates) == ["c", "a", "b"]
    assert found.decision == "order"


def test_cost_puts_the_cheapest_for_this_request_first():
    reads_cheaply = deployment("reader", price=price(rates("1", "100")))
    writes_cheaply = deployment("writer", price=price(rates("50", "2")))
    item = model(reads_cheaply, writes_cheaply, prefer=Objective.COST)
    assert names(plan(item, chat("word " * 4000, max_tokens=10)).candidates) == ["reader", "writer"]
    assert names(plan(item, chat("Hi", max_tokens=10_000)).candidates) == ["writer", "reader"]
    assert plan(item).decision == "cost"


def test_latency_puts_the_quickest_first_and_tries_what_was_never_used():
    item = model(local("slow"), local("quick"), local("new"), prefer=Objective.LATENCY)
    by = routes(item)
    by.fleet.replica_sets["slow"].learn_speed(2.0, 10.0, 1000.0)
    by.fleet.replica_sets["quick"].learn_speed(0.2, 100.0, 1000.0)
    found = plan(item, by=by)
    assert names(found.candidates) == ["new", "quick", "slow"]
    assert found.decision == "latency"


def test_candidates_keep_their_own_estimates_when_they_are_sorted():
    small = local("small", max_output_tokens=50, price=price(rates("9", "9")))
    large = local("large", max_output_tokens=5000)
    found = plan(model(small, large, prefer=Objective.COST))
    pairs = {
        item.name: estimate.output for item, estimate in zip(found.candidates, found.estimates, strict=True)
    }
    assert pairs == {"small": 50, "large": 5000}
    assert names(found.candidates) == ["large", "small"]


def test_weights_share_the_first_place_in_proportion_over_all_draws():
    item = model(
        local("a"), local("b"), local("c"), prefer=Objective.WEIGHTS, weights={"a": 1.0, "b": 2.0, "c": 5.0}
    )
    by = routes(item)
    call = parsed(chat())
    draws = 800
    first = Counter(
        plan(item, call, by=by, random=number / draws).candidates[0].name for number in range(draws)
    )
    assert first == {"a": 100, "b": 200, "c": 500}


def test_after_the_one_that_was_drawn_the_others_follow_by_weight():
    item = model(
        local("a"), local("b"), local("c"), prefer=Objective.WEIGHTS, weights={"a": 1.0, "b": 2.0, "c": 5.0}
    )
    orders = {tuple(names(plan(item, random=number / 100).candidates)) for number in range(100)}
    assert orders == {("c", "b", "a"), ("b", "c", "a"), ("a", "c", "b")}


def test_weights_count_among_those_that_are_left():
    ill = local("ill")
    item = model(
        ill, local("a"), local("b"), prefer=Objective.WEIGHTS, weights={"ill": 97.0, "a": 1.0, "b": 3.0}
    )
    by = routes(item)
    by.fleet.replica_sets["ill"].replicas[0].is_up = False
    first = Counter(plan(item, by=by, random=n / 100).candidates[0].name for n in range(100))
    assert first == {"a": 25, "b": 75}


@pytest.mark.parametrize("weights", [{}, {"a": 0.0, "b": 0.0}])
def test_without_any_weight_the_order_of_the_file_stands(weights: dict[str, float]):
    item = model(local("a"), local("b"), prefer=Objective.WEIGHTS, weights=weights)
    assert names(plan(item, random=0.99).candidates) == ["a", "b"]


def test_a_weight_of_zero_is_only_a_fallback():
    item = model(local("a"), local("b"), prefer=Objective.WEIGHTS, weights={"a": 0.0, "b": 1.0})
    assert {tuple(names(plan(item, random=n / 50).candidates)) for n in range(50)} == {("b", "a")}


# --- decision codes ---


def test_a_model_of_one_deployment_is_decided_by_being_the_only_one():
    assert plan(model(deployment(), prefer=Objective.COST)).decision == "only"


def test_of_several_constraints_privacy_is_the_one_that_is_named():
    found = plan(model(deployment("a"), local("b", context_tokens=9), local("c")), None, "confidential")
    assert found.decision == "only-privacy"


def test_a_rule_whose_other_choices_were_removed_did_not_decide():
    item = model(local(), deployment(), rules=rules(("true", ("gpt-4o", "llama"))))
    assert plan(item).decision == "rule-1"
    assert plan(item, None, "confidential").decision == "only-privacy"


# --- what is remembered ---


def test_what_is_remembered_is_what_would_be_worked_out_anew():
    item = model(
        local(accepts=frozenset({Modality.TEXT})), deployment(), deployment("plain", supports=frozenset())
    )
    by = routes(item)
    bodies = [chat(), chat([IMAGE]), chat(logprobs=True), chat([IMAGE], logprobs=True)]
    for _ in range(2):
        for body in bodies:
            for privacy in ("public", "internal"):
                again, anew = plan(item, body, privacy, by=by), plan(item, body, privacy)
                assert names(again.candidates) == names(anew.candidates)
                assert again.excluded == anew.excluded


def test_health_is_never_remembered():
    item = model(local(), deployment())
    by = routes(item)
    assert len(plan(item, by=by).candidates) == 2
    state = by.fleet.replica_sets["llama"].replicas[0]
    state.failed(UpstreamFailure(FailureKind.CONNECT, "refused"), 1000.0)
    assert names(plan(item, by=by).candidates) == ["gpt-4o"]
    state.breaker.succeeded()
    assert len(plan(item, by=by).candidates) == 2


def test_where_all_that_is_left_answers_badly_it_is_asked_all_the_same_and_only_then():
    ill, well = local(), deployment()
    by = routes(model(ill, well))
    trouble = UpstreamFailure(FailureKind.STATUS, "status 500", status=500)
    for _ in range(3):
        by.fleet.replica_sets["llama"].replicas[0].failed(trouble, 1000.0)
    assert names(plan(model(ill, well), by=by).candidates) == ["gpt-4o"]
    assert names(plan(model(ill, well), None, "restricted", by=by).candidates) == ["llama"]
    by.fleet.replica_sets["llama"].replicas[0].is_up = False
    assert isinstance(refusal(model(ill, well), None, "restricted", by=by), Unavailable)


def test_the_most_sensitive_class_is_the_one_furthest_up():
    rules_of = routes(model(local())).policy
    assert rules_of.most_sensitive("internal") == "internal"
    assert rules_of.most_sensitive("public", "confidential", "internal") == "confidential"
    with pytest.raises(ValueError, match="not in tuple"):
        rules_of.most_sensitive("public", "secret")


def test_a_plan_says_what_it_is_a_plan_for():
    item = model(local())
    found = plan(item, None, "restricted", payer=principal(scope()))
    assert (found.model, found.privacy) == (item, "restricted")


# --- reasons and their lines ---


def test_each_reason_has_the_line_of_the_file_that_gives_it():
    lines = {"accepts": 31, "supports": 32, "zone": 29, "context_tokens": 33, "retires_on": 35, "license": 36}
    for constraint, (wanting, body, privacy) in WANTING.items():
        found = plan(model(msgspec.structs.replace(wanting, lines=lines), local()), body, privacy)
        (reason,) = found.excluded
        field = {
            "modality": "accepts",
            "capability": "supports",
            "privacy": "zone",
            "context": "context_tokens",
        }
        field |= {"retired": "retires_on"}
        assert reason.line == lines.get(field.get(str(constraint), ""))


def test_what_privacy_forbids_is_said_by_the_line_of_the_class_where_there_is_one():
    item = model(deployment(lines={"zone": 29}), local())
    rules_of = msgspec.structs.replace(policy(item), zone_lines={"confidential": 17})
    by = Routes(rules_of, Fleet(rules_of.deployments.values()))
    assert plan(item, None, "confidential", by=by).excluded[0].line == 17
    assert plan(item, None, "restricted", by=by).excluded[0].line == 29


def test_a_refused_request_has_the_same_reasons_as_a_planned_one():
    wanting, body, privacy = WANTING[Constraint.MODALITY]
    found = refused(model(wanting), body, privacy)
    assert [(one.deployment, one.constraint) for one in found.excluded] == [("other", Constraint.MODALITY)]
    assert isinstance(found.error, UnsupportedModality)


# --- capabilities that a file need not mention ---


@pytest.mark.parametrize(
    ("capability", "members"),
    [
        (Capability.CHOICES, {"n": 2}),
        (Capability.REASONING, {"reasoning_effort": "high"}),
    ],
)
def test_n_and_reasoning_are_asked_for_where_a_deployment_of_the_model_has_them(
    capability: Capability, members: dict[str, Any]
):
    able, plain = deployment(supports=frozenset({capability})), local(supports=frozenset())
    assert why(plan(model(plain, able), chat(**members))) == {"llama": Constraint.CAPABILITY}
    assert names(plan(model(plain), chat(**members)).candidates) == ["llama"]


def test_one_choice_and_no_effort_ask_for_nothing():
    plain, able = local(supports=frozenset()), deployment()
    found = plan(model(plain, able), chat(n=1, reasoning_effort="none"))
    assert names(found.candidates) == ["llama", "gpt-4o"]


# --- licences ---


def test_a_deployment_whose_licence_is_withheld_is_never_a_candidate():
    withheld = local(license_conflict="no rights in the EU", lines={"license": 48})
    found = plan(model(withheld, deployment()))
    assert why(found) == {"llama": Constraint.LICENSE}
    assert (found.excluded[0].detail, found.excluded[0].line) == ("no rights in the EU", 48)
    assert refusal(model(withheld)).code == "license_forbids"


# --- successors ---

OLD = deployment("old", retires_at=NOVEMBER, successors=("new",))
NEW = deployment("new")


def of(item: Model, *others: Deployment) -> Routes:
    """Routes to `item` whose policy knows `others` as well."""
    return routes(item, model(*others, name="others"))


def test_a_successor_takes_the_place_from_the_moment_of_retirement_on():
    item = model(OLD, local())
    by = of(item, NEW)
    before = plan(item, by=by, now=NOVEMBER - 0.001)
    after = plan(item, by=by, now=NOVEMBER)
    assert names(before.candidates) == ["old", "llama"]
    assert names(after.candidates) == ["new", "llama"]
    assert after.excluded[0].detail == "retired on None; new took its place"
    again = plan(item, by=by, now=NOVEMBER - 1)  # the clock was set back
    assert names(again.candidates) == ["old", "llama"]


def test_a_successor_has_to_pass_every_constraint_itself():
    outside = deployment("outside")
    item = model(local("old", retires_at=NOVEMBER, successors=("outside",)), local())
    found = plan(item, None, "confidential", by=of(item, outside))
    assert names(found.candidates) == ["llama"]
    assert why(found) == {"old": Constraint.RETIRED, "outside": Constraint.PRIVACY}


def test_successors_of_successors_are_found_and_a_circle_ends():
    middle = deployment("middle", retires_at=NOVEMBER, successors=("new", "old"))
    first = deployment("old", retires_at=NOVEMBER, successors=("middle",))
    item = model(first)
    assert names(plan(item, by=of(item, middle, NEW)).candidates) == ["new"]
    round_about = deployment("middle", retires_at=NOVEMBER, successors=("old",))
    assert refusal(item, by=of(item, round_about)).code == "model_retired"


def test_a_successor_that_the_model_already_has_is_there_once():
    item = model(OLD, NEW)
    assert names(plan(item).candidates) == ["new"]


def test_a_rule_that_names_the_retired_one_means_its_successor():
    item = model(OLD, local(), rules=rules(("true", ("llama", "old"))))
    assert names(plan(item, by=of(item, NEW)).candidates) == ["llama", "new"]
    only = model(OLD, local(), rules=rules(("true", ("old",))))
    found = plan(only, by=of(only, NEW))
    assert names(found.candidates) == ["new"]
    assert why(found) == {"old": Constraint.RETIRED, "llama": Constraint.RULE}


def test_a_successor_takes_over_the_share_and_the_rating():
    item = model(OLD, local(), prefer=Objective.WEIGHTS, weights={"old": 3.0, "llama": 1.0})
    by = of(item, NEW)
    first = Counter(plan(item, by=by, random=n / 100).candidates[0].name for n in range(100))
    assert first == {"new": 75, "llama": 25}
    rated = msgspec.structs.replace(item, prefer=Objective.QUALITY, quality={"old": 0.9, "llama": 0.7})
    assert names(plan(rated, by=of(rated, NEW)).candidates) == ["new", "llama"]


# --- what else a rule can do ---


def one_rule(**fields: Any) -> RuleSet:
    return COMPILER.rule_set((Rule(1, 41, "true", fields.pop("use", ()), **fields),))


def test_a_rule_can_refuse_in_its_own_words():
    item = model(local(), deployment(), rules=one_rule(refuse="Not before Monday."))
    error = refusal(item)
    assert (error.code, error.status, error.message) == ("refused_by_rule", 403, "Not before Monday.")
    assert {one.detail for one in refused(item).excluded} == {"rule 1 (line 41) refuses"}


def test_a_rule_can_have_an_objective_of_its_own():
    item = model(deployment(), local(), rules=one_rule(use=("gpt-4o", "llama"), prefer=Objective.COST))
    assert names(plan(item).candidates) == ["llama", "gpt-4o"]


def test_a_canary_is_a_rule_with_shares():
    canary = one_rule(
        use=("llama", "gpt-4o"), prefer=Objective.WEIGHTS, weights={"llama": 95.0, "gpt-4o": 5.0}
    )
    item = model(local(), deployment(), rules=canary)
    first = Counter(plan(item, random=n / 100).candidates[0].name for n in range(100))
    assert first == {"llama": 95, "gpt-4o": 5}
    assert plan(item).decision == "rule-1"


# --- quality, marginal cost ---


def test_quality_puts_the_best_rated_first_and_cost_breaks_ties():
    item = msgspec.structs.replace(
        model(deployment("dear"), deployment("best"), local(), prefer=Objective.QUALITY),
        quality={"dear": 0.8, "best": 0.9, "llama": 0.8},
    )
    assert names(plan(item).candidates) == ["best", "llama", "dear"]


def test_own_gpus_that_run_anyway_can_count_for_what_more_tokens_add():
    dear_at_full_cost = local(price=price(rates("90", "90")), marginal_rate=0)
    item = model(deployment(), dear_at_full_cost, prefer=Objective.COST)
    assert names(plan(item).candidates) == ["gpt-4o", "llama"]
    assert names(plan(msgspec.structs.replace(item, marginal=True)).candidates) == ["llama", "gpt-4o"]


# --- sticky shares ---

SHARED = msgspec.structs.replace(
    model(local("a"), local("b"), local("c"), prefer=Objective.WEIGHTS, weights={"a": 1, "b": 2, "c": 5}),
    sticky=True,
)


def order_for(item: Model, *, session: str | None = None, user: str | None = None, random: float = 0.0):
    headers = {b"x-tollway-session": session.encode()} if session else {}
    body = chat(**({"user": user} if user else {}))
    return names(plan(item, body, random=random, headers=headers).candidates)


def test_a_session_or_a_user_stays_with_its_deployment():
    for number in range(20):
        orders = {tuple(order_for(SHARED, session=f"s{number}", random=draw / 7)) for draw in range(7)}
        assert len(orders) == 1
        assert order_for(SHARED, user=f"u{number}") == order_for(SHARED, user=f"u{number}", random=0.9)


def test_without_a_session_or_a_user_each_request_is_drawn_by_itself():
    assert {order_for(SHARED, random=draw / 10)[0] for draw in range(10)} == {"a", "b", "c"}


def test_sticky_shares_are_in_proportion_over_many_sessions():
    first = Counter(order_for(SHARED, session=f"s{number}")[0] for number in range(2000))
    assert {name: round(8 * count / 2000, 0) for name, count in first.items()} == {"a": 1, "b": 2, "c": 5}


def test_a_share_that_grows_moves_only_sessions_towards_it():
    grown = msgspec.structs.replace(SHARED, weights={"a": 2, "b": 2, "c": 5})
    moved = [
        (before, after)
        for number in range(500)
        if (before := order_for(SHARED, session=f"s{number}")[0])
        != (after := order_for(grown, session=f"s{number}")[0])
    ]
    assert moved
    assert {after for _, after in moved} == {"a"}


def test_when_one_is_down_only_its_own_sessions_go_elsewhere():
    for number in range(100):
        order = order_for(SHARED, session=f"s{number}")
        without = msgspec.structs.replace(SHARED, use=tuple(i for i in SHARED.use if i.name != order[0]))
        assert order_for(without, session=f"s{number}") == order[1:]


# --- tags of the header ---


def test_rules_see_the_tags_of_the_header_over_those_of_the_body():
    item = model(
        local(), deployment(), rules=rules(('tags.ticket == "B" && tags.locale == "ja"', ("gpt-4o",)))
    )
    headers = {b"x-tollway-tags": b"ticket=B, locale = ja"}
    found = plan(item, chat(metadata={"ticket": "A"}), headers=headers)
    assert found.decision == "rule-1"
    assert found.tags == {"ticket": "B", "locale": "ja"}


# --- addresses ---

REMOTE = chat([{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}])
INLINE = chat([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])


def test_an_address_goes_only_to_a_deployment_that_may_fetch():
    own, hosted = local(), deployment(fetches_urls=True)
    assert names(plan(model(own, hosted), REMOTE).candidates) == ["gpt-4o"]
    assert names(plan(model(own, hosted), INLINE).candidates) == ["llama", "gpt-4o"]


def test_where_nobody_may_fetch_the_refusal_says_what_to_send_instead():
    error = refusal(model(local()), REMOTE)
    assert isinstance(error, UnsupportedModality)
    assert (error.status, error.code) == (400, "unsupported_modality")
    assert "data: URL" in error.message


def test_for_a_class_that_must_not_leave_not_even_a_deployment_that_may_fetch_does():
    fetching = local(fetches_urls=True)
    assert names(plan(model(fetching), REMOTE, "internal").candidates) == ["llama"]
    assert names(plan(model(fetching), INLINE, "confidential").candidates) == ["llama"]
    assert isinstance(refusal(model(fetching), REMOTE, "confidential"), UnsupportedModality)
