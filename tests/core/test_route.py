"""A route is made once for a key and a model: it holds while nothing changes, and decides the same."""

import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.cel import CelCompiler
from gateway.core.catalog import Deployment, Objective, Rule, RuleSet
from gateway.core.errors import ModelNotFound
from gateway.core.facts import Facts, Moment
from gateway.core.pricing import HORIZON, PriceBook, PriceVersion
from gateway.core.route import Refused, Route
from gateway.core.screening import Classified
from gateway.core.tenancy import Principal
from tests.core.builders import (
    NOVEMBER,
    chat,
    decided,
    deployment,
    held,
    local,
    model,
    moment,
    names,
    parsed,
    principal,
    rates,
    routes,
)

PAYER = principal()
SECOND = 1_000_000  # microseconds


def version(item: Deployment, name: str, starts: float) -> PriceVersion:
    """A price of `item` from `starts` (UTC seconds) on."""
    return PriceVersion(
        provider=item.provider,
        model=item.model,
        tier="standard",
        effective_from=round(starts * SECOND),
        version=name,
        rates=rates("5", "20"),
        entered_at=1,
    )


# --- how long it holds ---


def test_without_changes_to_come_a_route_is_made_once() -> None:
    by = routes(model(local()))
    first = by.of(PAYER, "auto", NOVEMBER)
    assert by.of(PAYER, "auto", NOVEMBER + 10**9) is first
    assert by.of(PAYER, "auto", 0.0) is first


def test_each_key_and_each_model_has_a_route_of_its_own() -> None:
    by = routes(model(local()), model(deployment(), name="other"))
    made = {by.of(who, name, NOVEMBER) for who in (PAYER, principal()) for name in ("auto", "other")}
    assert len(made) == 4


def test_a_route_ends_when_a_deployment_of_the_policy_retires() -> None:
    item = model(deployment("old", retires_at=NOVEMBER), local())
    by = routes(item)
    before = by.of(PAYER, "auto", NOVEMBER - 1)
    assert before.valid_until == NOVEMBER
    assert by.of(PAYER, "auto", NOVEMBER - 0.001) is before
    after = by.of(PAYER, "auto", NOVEMBER)
    assert after is not before
    assert (after.valid_from, after.is_valid(NOVEMBER - 0.001)) == (NOVEMBER, False)
    assert by.of(PAYER, "auto", NOVEMBER + 10**6) is after


def test_a_route_ends_when_a_price_begins_and_when_holds_have_to_cover_it() -> None:
    item = model(local(), deployment())
    starts, horizon = NOVEMBER + 2 * HORIZON / SECOND, HORIZON / SECOND
    by = routes(item, prices=PriceBook([version(item.use[0], "next", starts)]))
    found = [
        by.of(PAYER, "auto", now)
        for now in (
            NOVEMBER,
            starts - horizon - 0.001,
            starts - horizon,
            starts - 0.001,
            starts,
            starts + 10**6,
        )
    ]
    plain, again, covering, still, new, later = found
    assert (plain is again, covering is still, new is later) == (True, True, True)
    assert len({plain, covering, new}) == 3
    assert [one.valid_until for one in (plain, covering, new)] == [starts - horizon, starts, float("inf")]


def test_holds_grow_with_a_dearer_price_an_hour_before_it_begins() -> None:
    item = model(local())
    starts = NOVEMBER + HORIZON / SECOND
    by = routes(item, prices=PriceBook([version(item.use[0], "dear", starts)]))

    def rate(now: float) -> int:
        return decided(item, by=by, payer=PAYER, at=moment(now)).ask.output_nano_per_million

    plain, dear = rates("0.50", "1").output, rates("5", "20").output
    assert [rate(now) for now in (NOVEMBER - 0.001, NOVEMBER, starts)] == [plain, dear, dear]


def test_a_clock_that_is_set_back_meets_the_price_of_its_moment() -> None:
    item = model(local())
    by = routes(item, prices=PriceBook([version(item.use[0], "new", NOVEMBER)]))

    def booked(now: float) -> str:
        sent = decided(item, by=by, payer=PAYER, at=moment(now))
        return held(sent, at=round(now * SECOND)).candidate.price.version

    assert [booked(now) for now in (NOVEMBER + 1, NOVEMBER - 1, NOVEMBER)] == ["new", "test-1", "new"]
    late = decided(item, by=by, payer=PAYER, at=moment(NOVEMBER + 1))
    assert held(late, at=round((NOVEMBER - 1) * SECOND)).candidate.price.version == "test-1"


def test_other_prices_make_other_routes() -> None:
    item = model(local())
    by = routes(item)
    new = by.at_prices(PriceBook([version(item.use[0], "new", 0)]))
    assert new.of(PAYER, "auto", NOVEMBER).candidate(item.use[0]).price.version == "new"
    assert by.of(PAYER, "auto", NOVEMBER).candidate(item.use[0]).price.version == "test-1"
    assert new.fleet is by.fleet


def test_what_is_dropped_of_a_key_is_made_anew_and_nothing_else() -> None:
    by = routes(model(local()), model(local(), name="other"))
    other = principal()
    kept = by.of(other, "auto", NOVEMBER)
    dropped = [by.of(PAYER, name, NOVEMBER) for name in ("auto", "other")]
    by.drop(PAYER)
    assert by.of(other, "auto", NOVEMBER) is kept
    for name, before in zip(("auto", "other"), dropped, strict=True):
        assert by.of(PAYER, name, NOVEMBER) is not before


@pytest.mark.parametrize(("name", "models"), [("unknown", None), ("auto", frozenset({"other"}))])
def test_there_is_no_route_to_a_model_that_is_unknown_or_not_allowed(
    name: str, models: frozenset[str] | None
) -> None:
    by = routes(model(local()), model(local(), name="other"))
    with pytest.raises(ModelNotFound, match=f"'{name}' does not exist or you do not have access to it"):
        by.of(principal(models=models), name, NOVEMBER)


retirements = st.none() | st.integers(-3, 3).map(lambda hours: NOVEMBER + 3600 * hours)


@given(
    retires=st.tuples(retirements, retirements),
    starts=st.lists(st.integers(-3, 3), max_size=3),
    times=st.lists(st.floats(-4, 4).map(lambda hours: NOVEMBER + 3600 * hours), min_size=1, max_size=10),
)
def test_at_any_moment_a_kept_route_decides_as_one_that_is_made_for_it(
    retires: tuple[float | None, float | None], starts: list[int], times: list[float]
) -> None:
    a, b = (local(name, retires_at=at) for name, at in zip("ab", retires, strict=True))
    item = model(a, b, local("c"), prefer=Objective.COST)
    book = PriceBook(
        [version(one, f"{one.name}{at}", NOVEMBER + 3600 * at) for at in starts for one in (a, b)]
    )
    kept = routes(item, prices=book)
    for now in times:
        found = decided(item, by=kept, payer=PAYER, at=moment(now))
        anew = decided(item, by=routes(item, prices=book), payer=PAYER, at=moment(now))
        assert names(found.candidates) == names(anew.candidates)
        assert (found.excluded, found.ask) == (anew.excluded, anew.ask)
        assert [one.price for one in found.candidates] == [one.price for one in anew.candidates]
        assert [one.others for one in found.candidates] == [one.others for one in anew.candidates]


# --- rules that can never hold for it ---

COMPILER = CelCompiler(pools=("llama", "gpt-4o", "mini"))
OURS = (
    'feature == "search"',
    'feature != "search"',
    'feature in ["search", "other"]',
    'team == "research"',
    '!(team == "research")',
    'key == "app" && stream',
    'key == "app" || prompt_tokens > 20',
    'model == "auto" && feature == "triage"',
    'model == "other"',
    "false",
    "true",
)
CIRCUMSTANCES = (
    "stream",
    "tools || budget.used > 0.8",
    'pool["llama"].available == 0',
    'privacy == "confidential" && !(key in ["app"])',
    "time.hour == 8",
    'key.startsWith("oth")',
    'tags.ticket == "A-1"',
    'size(modalities) > 1 || team == "sales"',
)
USES = (("llama",), ("gpt-4o", "mini"), ("mini", "llama"), ())


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSet:
    conditions = draw(st.lists(st.sampled_from(OURS + CIRCUMSTANCES), min_size=1, max_size=6))
    return COMPILER.rule_set(
        tuple(Rule(n, n, when, draw(st.sampled_from(USES))) for n, when in enumerate(conditions, 1))
    )


people = st.builds(
    principal,
    key=st.sampled_from(["app", "other-app"]),
    feature=st.sampled_from(["search", "triage"]),
    team=st.sampled_from(["research", "sales"]),
)
bodies = st.builds(
    chat,
    st.sampled_from(["Hi", "word " * 40]),
    stream=st.booleans(),
    tools=st.sampled_from([None, [{"type": "function"}]]),
    metadata=st.sampled_from([None, {"ticket": "A-1"}]),
)
moments = st.builds(
    moment, st.sampled_from([NOVEMBER, NOVEMBER + 3600]), budget_used=st.sampled_from([0.1, 0.9])
)


def first_rule(route: Route, facts: Facts) -> int:
    """The number of the rule that `route` takes to hold; 0 where it has none left."""
    return 0 if route._first_match is None else route._first_match(facts)


def said(route: Route, body: dict[str, Any], privacy: str, at: Moment) -> tuple[Any, ...]:
    found = route.decide("r", parsed(body), Classified(privacy), at)
    if isinstance(found, Refused):
        return found.error.code, found.error.message, found.excluded, found.rule
    return names(found.candidates), found.decision, found.excluded, found.rule


@settings(max_examples=300)
@given(
    rules=rule_sets(),
    payer=people,
    body=bodies,
    privacy=st.sampled_from(["internal", "confidential"]),
    at=moments,
    is_up=st.booleans(),
)
def test_rules_that_can_never_hold_are_left_out_and_no_decision_changes(
    rules: RuleSet, payer: Principal, body: dict[str, Any], privacy: str, at: Moment, is_up: bool
) -> None:
    item = model(local(), deployment(), local("mini"), prefer=Objective.COST, rules=rules)
    by = routes(item)
    by.fleet.replica_sets["llama"].replicas[0].is_up = is_up
    route = by.of(payer, "auto", at.now)
    facts = Facts(parsed(body), payer, privacy, at, by.fleet, datetime.UTC)
    assert first_rule(route, facts) == rules.first_match(facts)
    whole = msgspec.structs.replace(item, rules=msgspec.structs.replace(rules, conditions=()))
    assert said(route, body, privacy, at) == said(by.prepare(payer, whole, at.now), body, privacy, at)


@pytest.mark.parametrize(
    "when", ['feature == "search"', 'team == "sales"', 'key != "triage-app"', 'model == "other"', "false"]
)
def test_where_no_rule_can_ever_hold_none_is_asked(when: str) -> None:
    def never(_: object) -> int:
        raise AssertionError("nobody asked")

    rules = COMPILER.rule_set((Rule(1, 1, when, ("gpt-4o",)), Rule(2, 2, f"{when} && stream", ("gpt-4o",))))
    item = model(local(), deployment(), rules=msgspec.structs.replace(rules, first_match=never))
    assert names(decided(item, payer=PAYER).candidates) == ["llama", "gpt-4o"]


def test_a_rule_for_another_key_is_kept_for_that_key() -> None:
    rules = COMPILER.rule_set((Rule(1, 1, 'key == "other-app"', ("gpt-4o",)),))
    by = routes(item := model(local(), deployment(), rules=rules))
    other = principal(key="other-app")
    assert decided(item, by=by, payer=PAYER).decision == "order"
    assert decided(item, by=by, payer=other).decision == "rule-1"
