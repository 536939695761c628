"""Whatever policy, request and fault: nothing reaches a deployment that a hard constraint removed.

Each example tries every privacy class under every rule, so a run decides some thousands of cases.
"""

import itertools
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.catalog import Api, Capability, Deployment, Modality, Model, Objective, Rule, RuleSet
from gateway.core.constraints import Constraint
from gateway.core.errors import GatewayError, PrivacyViolation
from gateway.core.estimate import Estimate, estimate
from gateway.core.policy import Policy
from gateway.core.route import Routes
from gateway.core.sent import Sent
from gateway.dialects.table import TABLE, Steering
from tests.core.builders import (
    CLASSES,
    NOVEMBER,
    ZONES,
    chat,
    decided,
    deployment,
    model,
    moment,
    parsed,
    principal,
)

PAYER = principal()
REFUSES_STEERING = msgspec.structs.replace(TABLE["openai"], steering=Steering.REFUSE)
NAMES = ("a", "b", "c", "d")
MONOTONIC = 1000.0
PARTS = (
    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 60}},
    {"type": "input_audio", "input_audio": {"data": "A" * 60, "format": "wav"}},
    {"type": "file", "file": {"file_data": "A" * 60}},
)


def some(kind: Any) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(sorted(kind)), min_size=len(kind) - 2)


deployments = st.builds(
    deployment,
    zone=st.sampled_from(["local", "external"]),
    serves=st.sampled_from([frozenset({Api.CHAT}), frozenset({Api.CHAT}), frozenset({Api.EMBEDDINGS})]),
    accepts=some(set(Modality) - {Modality.TEXT}).map(lambda kinds: kinds | {Modality.TEXT}),
    supports=some(Capability),
    context_tokens=st.sampled_from([300, 100_000]),
    max_output_tokens=st.sampled_from([50, 5000]),
    retires_at=st.sampled_from([None, None, NOVEMBER, NOVEMBER + 1]),
    license_conflict=st.sampled_from([None, None, None, "not for us"]),
    dialect=st.sampled_from([None, None, REFUSES_STEERING]),
    replicas=st.integers(1, 2),
)


@st.composite
def uses(draw: st.DrawFn) -> tuple[Deployment, ...]:
    count = draw(st.integers(1, 4))
    return tuple(msgspec.structs.replace(draw(deployments), name=NAMES[number]) for number in range(count))


calls = st.builds(
    lambda parts, words, members: parsed(
        chat([{"type": "text", "text": "word " * words}, *parts], **members)
    ),
    st.lists(st.sampled_from(PARTS), max_size=2),
    st.sampled_from([1, 700]),
    st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.sampled_from([10, 100]),
            "logprobs": st.booleans(),
            "tools": st.just([{"type": "function"}]),
            "priority": st.just(-1),
        },
    ),
)
# For each deployment in turn: are its replicas down, or tripped.
faults = st.lists(st.sampled_from(["none", "none", "down", "tripped"]), min_size=4, max_size=4)
chosen = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple)


def with_faults(use: tuple[Deployment, ...], fault_of: list[str]) -> Fleet:
    fleet = Fleet(use)
    for item, fault in zip(use, fault_of, strict=False):
        for state in fleet.replica_sets[item.name].replicas:
            state.is_up = fault != "down"
            if fault == "tripped":
                state.breaker.failed(MONOTONIC, weight=3)
    return fleet


def passes(item: Deployment, call: Call, privacy: str, fleet: Fleet) -> bool:
    """The hard constraints, worked out anew."""
    pool = fleet.replica_sets[item.name]
    expected = estimate(call, pool, 1000.0)
    return (
        item.zone in ZONES[privacy]
        and call.api in item.serves
        and call.modalities <= item.accepts
        and call.needs <= item.supports
        and item.license_conflict is None
        and (item.retires_at is None or item.retires_at > NOVEMBER)
        and not is_too_long(expected, call, item)
        and (item.dialect is None or "priority" not in call.members)
        and (call.max_output is None or call.max_output <= item.max_output_tokens)
        and any(state.available(MONOTONIC) for state in pool.replicas)
    )


def is_too_long(expected: Estimate, call: Call, item: Deployment) -> bool:
    prompt = expected.prompt if call.media.bytes else min(expected.prompt, call.text_bytes // 4)
    return prompt > 1.25 * item.context_tokens


def decide(by: Routes, item: Model, call: Call, privacy: str, random: float) -> Sent | GatewayError:
    at = moment(random=random, monotonic=MONOTONIC)
    try:
        return decided(item, call, privacy, by=by, payer=PAYER, at=at)
    except GatewayError as error:
        return error


def deployments_of(sent: Sent) -> list[Deployment]:
    return [candidate.deployment for candidate in sent.candidates]


@settings(max_examples=300)
@given(
    use=uses(),
    call=calls,
    fault_of=faults,
    ruled=chosen,
    prefer=st.sampled_from(Objective),
    weights=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 9)),
    random=st.floats(0, 1, exclude_max=True),
)
def test_every_candidate_passes_every_hard_constraint_and_none_is_left_out_without_a_reason(
    use: tuple[Deployment, ...],
    call: Call,
    fault_of: list[str],
    ruled: tuple[str, ...],
    prefer: Objective,
    weights: dict[str, float],
    random: float,
):
    rule = Rule(1, 1, "true", ruled)
    plain = model(*use, prefer=prefer, weights=weights)
    with_rule = model(
        *use,
        name="ruled",
        prefer=prefer,
        weights=weights,
        rules=RuleSet((rule,), ("stream",), lambda facts: 1),
    )
    policy = Policy(
        version="v1",
        classes=CLASSES,
        default_class="internal",
        zones=ZONES,
        models={"auto": plain, "ruled": with_rule},
        deployments={item.name: item for item in use},
    )
    fleet = with_faults(use, fault_of)
    remembering = Routes(policy, fleet)
    for privacy, item in itertools.product(CLASSES, (plain, with_rule)):
        allowed = [
            one.name
            for one in use
            if passes(one, call, privacy, fleet) and (item is plain or one.name in ruled)
        ]
        found = decide(remembering, item, call, privacy, random)
        anew = decide(Routes(policy, fleet), item, call, privacy, random)
        if isinstance(found, GatewayError):
            assert allowed == []
            assert isinstance(anew, GatewayError)
            assert (found.code, found.message) == (anew.code, anew.message)
            continue
        assert isinstance(anew, Sent)
        assert (deployments_of(found), found.excluded, found.decision) == (
            deployments_of(anew),
            anew.excluded,
            anew.decision,
        )
        kept = [one.name for one in found.candidates]
        assert sorted(kept) == sorted(allowed)
        assert {one.deployment.zone for one in found.candidates} <= ZONES[privacy]
        removed = [one.deployment for one in found.excluded]
        assert sorted(kept + removed) == sorted(one.name for one in use)
        for one, expected in zip(found.candidates, found.estimates, strict=True):
            assert expected == estimate(call, fleet.replica_sets[one.name], 1000.0)
        if item is with_rule:
            assert kept == [name for name in ruled if name in kept]


@given(use=uses(), call=calls, fault_of=faults)
def test_when_only_forbidden_zones_could_answer_the_refusal_is_privacy_and_never_a_candidate(
    use: tuple[Deployment, ...], call: Call, fault_of: list[str]
):
    outside = tuple(item for item in use if item.zone == "external")
    if not outside:
        return
    item = model(*outside)
    policy = Policy(
        version="v1",
        classes=CLASSES,
        default_class="internal",
        zones=ZONES,
        models={"auto": item},
        deployments={one.name: one for one in outside},
    )
    for privacy in ("confidential", "restricted"):
        found = decide(Routes(policy, with_faults(outside, fault_of)), item, call, privacy, 0.5)
        assert isinstance(found, GatewayError)
        able = [
            one
            for one in outside
            if call.api in one.serves
            and call.modalities <= one.accepts
            and call.needs <= one.supports
            and (one.dialect is None or "priority" not in call.members)
        ]
        assert isinstance(found, PrivacyViolation) is bool(able)


def test_every_constraint_is_checked_by_the_property_above():
    checked = {
        "ENDPOINT",
        "MODALITY",
        "CAPABILITY",
        "FIELD",
        "PRIVACY",
        "RULE",
        "LICENSE",
        "RETIRED",
        "CONTEXT",
        "OUTPUT",
        "HEALTH",
    }
    assert {constraint.name for constraint in Constraint} == checked
