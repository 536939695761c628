"""Which models a key can reach now: as they are listed to it."""

import datetime
from typing import Any

from gateway.core.balancing import Fleet
from gateway.core.catalog import Api, Capability, Deployment, Modality, Model, Rule, RuleSet
from gateway.core.conditions import Compared, Joined
from gateway.core.tenancy import Principal
from gateway.proxy.model_list import model_object
from gateway.proxy.reach import ReachableModel, reachable
from tests.core.builders import NOVEMBER, deployment, local, model, names, policy, principal

DAY = 86_400.0
BEFORE, AFTER = datetime.date(2026, 11, 22), datetime.date(2026, 12, 24)


def reach(
    item: Model, payer: Principal | None = None, *others: Deployment, down: tuple[str, ...] = ()
) -> ReachableModel | None:
    rules = policy(item, *(model(other, name=f"of {other.name}") for other in others))
    fleet = Fleet(rules.deployments.values())
    for name in down:
        for state in fleet.replica_sets[name].replicas:
            state.is_up = False
    return reachable(item, payer or principal(), rules, fleet, NOVEMBER, 1000.0)


def reached(*arguments: Any, **options: Any) -> list[str]:
    found = reach(*arguments, **options)
    return [] if found is None else names(found.deployments)


def retiring(name: str, day: datetime.date, *successors: str, **changes: Any) -> Deployment:
    ends = datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp() + DAY
    return deployment(name, retires_on=day, retires_at=ends, successors=successors, **changes)


def last_day(*arguments: Any) -> datetime.date | None:
    found = reach(*arguments)
    assert found
    return found.last_day


# --- who may answer ---


def test_all_deployments_of_a_model_that_are_well_and_allowed():
    assert reached(model(local(), deployment())) == ["llama", "gpt-4o"]


def test_a_key_whose_least_class_must_not_leave_does_not_see_what_lies_outside():
    sensitive = principal(floor="confidential")
    assert reached(model(local(), deployment()), sensitive) == ["llama"]
    assert reach(model(deployment()), sensitive) is None


def test_who_is_down_or_has_no_licence_is_not_reached():
    assert reached(model(local(), deployment()), down=("llama",)) == ["gpt-4o"]
    assert reach(model(local()), down=("llama",)) is None
    assert reach(model(local(license_conflict="not in the EU"))) is None


def test_a_retired_deployment_is_not_reached_and_its_successor_is():
    old, new = retiring("old", BEFORE, "new"), deployment("new")
    assert reached(model(old), None, new) == ["new"]
    assert reach(model(retiring("old", BEFORE))) is None


def ruled(*rules_given: tuple[Any, tuple[str, ...]], use: tuple[Deployment, ...]) -> Model:
    """A model whose rules are these conditions, each with what it leaves; nothing: it refuses."""
    rules = tuple(
        Rule(number, number, "", names_left, refuse=None if names_left else "no")
        for number, (_, names_left) in enumerate(rules_given, 1)
    )
    conditions = tuple(condition for condition, _ in rules_given)
    return model(*use, rules=RuleSet(rules, (), lambda facts: 0, conditions))


def test_rules_that_ask_only_who_it_is_narrow_what_is_reached():
    triage = Compared(("feature",), "==", "triage")
    other = Compared(("feature",), "==", "billing")
    tagged = Compared(("tags", "x"), "==", "1")
    use = (local(), deployment())
    assert reached(ruled((triage, ("llama",)), use=use)) == ["llama"]
    assert reached(ruled((triage, ()), use=use)) == []
    assert reached(ruled((other, ()), use=use)) == ["llama", "gpt-4o"]
    assert reached(ruled((tagged, ()), use=use)) == ["llama", "gpt-4o"]
    assert reached(ruled((tagged, ("gpt-4o",)), (triage, ("llama",)), use=use)) == ["llama", "gpt-4o"]
    assert reached(ruled((None, ("gpt-4o",)), (triage, ()), use=use)) == ["gpt-4o"]
    assert reached(ruled((Joined(True, (triage, tagged)), ()), use=use)) == ["llama", "gpt-4o"]


# --- until when ---


def test_a_model_ends_with_the_last_of_its_deployments():
    later = AFTER + datetime.timedelta(days=7)
    assert last_day(model(retiring("a", AFTER), retiring("b", later))) == later
    assert last_day(model(retiring("a", AFTER), deployment("b"))) is None


def test_a_model_whose_successor_stays_does_not_end():
    assert last_day(model(retiring("a", AFTER, "b")), None, deployment("b")) is None
    later = AFTER + datetime.timedelta(days=7)
    assert last_day(model(retiring("a", AFTER, "b")), None, retiring("b", later, "a")) == later


def test_what_the_key_cannot_reach_does_not_keep_a_model_alive():
    sensitive = principal(floor="confidential")
    use = (retiring("a", AFTER, zone="local"), deployment("b"))
    assert last_day(model(*use)) is None
    assert last_day(model(*use), sensitive) == AFTER
    assert last_day(model(retiring("a", AFTER, "b", zone="local")), sensitive, deployment("b")) == AFTER


# --- as it is told ---


def test_a_model_is_described_by_all_that_may_answer():
    small = local(
        context_tokens=8_000,
        max_output_tokens=1_000,
        serves=frozenset({Api.CHAT, Api.COMPLETIONS}),
        accepts=frozenset({Modality.TEXT}),
        supports=frozenset({Capability.TOOLS}),
    )
    large = retiring("large", AFTER, supports=frozenset({Capability.LOGPROBS}))
    found = reach(model(small, large))
    assert found
    assert model_object(found) == {
        "id": "auto",
        "object": "model",
        "created": 0,
        "owned_by": "tollway",
        "context_length": 128_000,
        "max_output_tokens": 16_384,
        "endpoints": ["chat", "completions"],
        "input_modalities": ["image", "text"],
        "capabilities": ["logprobs", "tools"],
    }
    alone = reach(model(large))
    assert alone
    assert model_object(alone)["shutdown_date"] == "2026-12-24"
