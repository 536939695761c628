"""What another policy would do with past requests: told by their rows, or not at all."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from gateway.config.build import Built, build
from gateway.config.load import load
from gateway.core.media import Media
from gateway.core.pricing import NO_VERSIONS
from gateway.core.record import RecordedFacts
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.ledger.past_attempts import PastAnswer, PastAttempt
from gateway.policy.rollout.diff import NOT_RECORDED, Replayed, _Replay
from gateway.policy.rollout.diff_report import DiffReport, report
from gateway.policy.rollout.replay import (
    SEARCH_CHANGED,
    Outcome,
    PastRequest,
    RefusedWith,
    ReplayEvaluator,
    RoutedTo,
    Unknown,
    past_request,
)

Json = dict[str, Any]

NOON = 1_795_435_200_000_000  # 2026-11-23 12:00 UTC, a Monday
BASE: Json = yaml.safe_load("""
zones: {local: {cidrs: [127.0.0.0/8]}, external: {}}
privacy:
  zones: {public: [local, external], internal: [local, external], confidential: [local], restricted: [local]}
  media: {image: internal}
  detect: [{find: [email], raise_to: confidential}]
deployments:
  hosted: {provider: openai, model: gpt-4o, base_url: "https://api.openai.com/v1", zone: external,
    api_key: sk-0123456789012345, context_tokens: 128000, max_output_tokens: 16384, accepts: [text, image],
    price: {input: 2.5, output: 10}}
  own: {provider: vllm, model: scout, zone: local, context_tokens: 32000, max_output_tokens: 8192,
    supports: [tools], replicas: {urls: ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]},
    price: {input: 0.3, output: 1.2}}
models:
  auto: {use: [own, hosted], prefer: order}
  hosted: {use: [hosted]}
teams: {research: {}}
features: {triage: {team: research}, review: {team: research, privacy: confidential}}
keys:
  app: {secret: key-of-the-app-0123456789, feature: triage, features: [review]}
""")

Policies = Callable[..., Built]


@pytest.fixture
def policy(tmp_path: Path) -> Policies:
    prices = PriceCatalogue()

    def made(**changes: Any) -> Built:
        """BASE with `changes`: keys are paths with two underscores for each dot; None takes a key out."""
        tree = msgspec.json.decode(msgspec.json.encode(BASE))
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = tree
            for name in parents:
                place = place[name]
            if value is None:
                del place[last]
            else:
                place[last] = value
        file = tmp_path / "tollway.yaml"
        file.write_text(yaml.safe_dump(tree))
        built, problems = build(load(file, {}), prices)
        assert built is not None, [str(problem) for problem in problems]
        return built

    return made


def row(number: int = 1, **changes: Any) -> PastAttempt:
    """A text request of `triage` that was answered at home. `facts__*` are fields of its facts."""
    facts = {key[7:]: value for key, value in changes.items() if key.startswith("facts__")}
    rest = {key: value for key, value in changes.items() if not key.startswith("facts__")}
    fields: Json = {
        "attempt_id": f"req_{number}:1",
        "at": NOON,
        "feature": "triage",
        "key": "app",
        "model": "auto",
        "endpoint": "chat",
        "deployment": "own",
        "privacy": "internal",
        "modalities": "text",
        "stream": 0,
        "service_tier": None,
        "input_text": 1000,
        "input_image": 0,
        "input_audio": 0,
        "input_cached": 0,
        "output_text": 100,
        "output_audio": 0,
        "output_reasoning": 0,
        "cost_nano_usd": 420_000,
        "tags": "{}",
        "policy_version": "another",
        "facts": msgspec.json.encode(RecordedFacts(**({"text_bytes": 4000} | facts))).decode(),
        "units": "{}",
    }
    return PastAttempt(**(fields | rest))


def asked(one: PastAttempt) -> PastRequest:
    return past_request(one, msgspec.json.decode(one.facts, type=RecordedFacts))


def judge(
    built: Built, reference: Built | None = None, latest: tuple[PastAnswer, ...] = ()
) -> ReplayEvaluator:
    return ReplayEvaluator(built, reference or built, NO_VERSIONS, latest, NOON / 1e6)


def outcome(built: Built, one: PastAttempt, reference: Built | None = None) -> Outcome:
    return judge(built, reference).evaluate(asked(one)).outcome


def compare(old: Built, new: Built, rows: list[PastAttempt]) -> DiffReport:
    before, after = judge(old), judge(new, old)
    replaying = _Replay(before, after)
    for one in rows:
        replaying.take(one)
    return report(
        Replayed(
            old=before,
            new=after,
            cells=replaying.cells,
            not_judged=dict(replaying.not_judged),
            attempts=len(rows),
        )
    )


# --- one request under one policy ---


def test_the_facts_of_its_row_decide(policy: Policies) -> None:
    plain = policy()
    assert outcome(plain, row()) == RoutedTo("own")
    assert outcome(
        plain, row(modalities="image,text", facts__media=Media(images_high=1, bytes=9))
    ) == RoutedTo("hosted")
    assert outcome(plain, row(facts__text_bytes=300_000)) == RoutedTo("hosted")
    assert outcome(plain, row(facts__max_output=9_000)) == RoutedTo("hosted")
    assert outcome(plain, row(facts__needs="tools")) == RoutedTo("own")
    assert outcome(plain, row(model="hosted", facts__named="confidential")) == RefusedWith(
        "privacy_policy_violation"
    )
    assert outcome(plain, row(model="gone")) == RefusedWith("model_not_found")


@pytest.mark.parametrize(
    ("when", "change"),
    [
        ('tags.tier == "gold"', {"tags": '{"tier":"gold"}'}),
        ("budget.used > 0.8", {"facts__budget": 0.81}),
        ('pool["own"].outstanding > 5', {"facts__pools": {"own": (6, 2, 2)}}),
        ('pool["own"].available < 2', {"facts__pools": {"own": (0, 1, 2)}}),
        ("time.hour >= 13", {"at": NOON + 3_600_000_000}),
        ("stream", {"stream": 1}),
        ('feature == "review"', {"feature": "review", "facts__named": ""}),
    ],
)
def test_rules_see_what_was_recorded(policy: Policies, when: str, change: Json) -> None:
    built = policy(
        models__auto__rules=[{"when": when, "use": ["hosted"]}],
        features__review={"team": "research", "privacy": "internal"},
    )
    assert outcome(built, row()) == RoutedTo("own")
    assert outcome(built, row(**change)) == RoutedTo("hosted")


def test_a_pool_that_was_away_is_left_out_and_is_the_last_resort(policy: Policies) -> None:
    assert outcome(policy(), row(facts__pools={"own": (0, 0, 2)})) == RoutedTo("hosted")
    only = policy(models__auto__use=["own"])
    assert outcome(only, row(facts__pools={"own": (0, 0, 2)})) == RoutedTo("own")
    assert outcome(only, row()) == RoutedTo("own")


def test_shares_go_by_the_draw_and_sticky_ones_by_whom_they_keep_together(policy: Policies) -> None:
    shares: Json = {"prefer": "weights", "weights": {"own": 75, "hosted": 25}, "use": ["own", "hosted"]}
    split = policy(models__auto=shares)
    assert outcome(split, row(facts__draw=0.74)) == RoutedTo("own")
    assert outcome(split, row(facts__draw=0.76)) == RoutedTo("hosted")
    sticky = policy(models__auto=shares | {"sticky": True})
    units = [f"{number:010x}" for number in range(200)]
    went = [outcome(sticky, row(facts__unit=unit, facts__draw=0.99)) for unit in units]
    assert went == [outcome(sticky, row(facts__unit=unit, facts__draw=0.0)) for unit in units]
    assert 120 <= went.count(RoutedTo("own")) <= 180


def test_keys_that_the_policy_does_not_have_or_that_have_expired_are_refused(policy: Policies) -> None:
    other = {"secret": "key-of-another-0123456789", "feature": "triage"}
    assert outcome(policy(keys={"other": other}), row()) == RefusedWith("invalid_api_key")
    assert outcome(policy(keys__app__expires_on="2026-11-01"), row()) == RefusedWith("invalid_api_key")
    narrow = policy(keys__app__features=None)
    assert outcome(narrow, row(feature="review")) == RefusedWith("permission_denied")


# --- what cannot be told ---


def test_a_lower_floor_is_no_guess_when_nothing_was_found(policy: Policies) -> None:
    """A detector that raises to `confidential` would have raised it beyond the floor that it had."""
    old, new = policy(), policy(features__triage={"team": "research", "privacy": "public"})
    assert outcome(new, row(), old) == RoutedTo("own")


def test_what_hid_below_a_floor_is_not_known_once_the_floor_is_lower(policy: Policies) -> None:
    old = policy()
    new = policy(
        features__review={"team": "research", "privacy": "internal"}, models__auto__use=["hosted", "own"]
    )
    was = row(feature="review", privacy="confidential")
    assert outcome(old, was) == RoutedTo("own")
    assert outcome(new, was, old) == Unknown(SEARCH_CHANGED)
    # Where both classes go to the same place it does not matter.
    same = policy(features__review={"team": "research", "privacy": "internal"})
    assert outcome(same, was, old) == RoutedTo("own")


def test_another_detector_makes_it_unknown_where_its_finds_would_matter(policy: Policies) -> None:
    old = policy(models__auto__use=["hosted", "own"])
    new = policy(
        models__auto__use=["hosted", "own"],
        privacy__detect=[{"find": ["email", "iban"], "raise_to": "confidential"}],
    )
    assert outcome(new, row(), old) == Unknown(SEARCH_CHANGED)
    assert outcome(new, row(privacy="confidential", facts__finds="email"), old) == RoutedTo("own")
    assert outcome(new, row(privacy="restricted", facts__named="restricted"), old) == RoutedTo("own")


def test_finds_of_the_second_stage_count_as_they_were_recorded_and_not_where_it_is_new(
    policy: Policies,
) -> None:
    entities = {"find": ["PERSON"], "raise_to": "confidential", "by_default": True}
    order: Json = {"models__auto__use": ["hosted", "own"]}
    old = policy(**order, privacy__entities=entities)
    late = row(privacy="confidential", facts__finds="named entities (late)")
    assert outcome(old, late) == RoutedTo("own")
    assert outcome(old, row()) == RoutedTo("hosted")
    without = policy(**order)
    assert outcome(without, late, old) == Unknown(SEARCH_CHANGED)
    assert outcome(old, row(), without) == Unknown(SEARCH_CHANGED)


def test_token_ids_that_nobody_could_read_count_as_each_version_says(policy: Policies) -> None:
    order: Json = {"models__auto__use": ["hosted", "own"]}
    old = policy(**order)
    hidden = row(privacy="restricted", facts__finds="token ids")
    assert outcome(old, hidden) == RoutedTo("own")
    near = policy(**order, privacy__media__tokens="confidential")
    assert outcome(near, hidden, old) == RoutedTo("own")
    # What text stood beside them was not kept, nor what a tokenizer would have found in them.
    assert outcome(policy(**order, privacy__media__tokens="internal"), hidden, old) == Unknown(SEARCH_CHANGED)
    known = policy(**order, deployments__hosted__tokenizer="o200k_base", privacy__media__tokens="internal")
    assert outcome(known, hidden, old) == Unknown(SEARCH_CHANGED)


def test_what_masking_would_leave_of_a_text_is_not_known(policy: Policies) -> None:
    old = policy(models__auto__use=["hosted", "own"])
    masking = policy(
        models__auto__use=["hosted", "own"], features__triage={"team": "research", "mask": ["email"]}
    )
    found = row(privacy="confidential", facts__finds="email")
    assert outcome(old, found) == RoutedTo("own")
    assert outcome(masking, found, old) == Unknown(SEARCH_CHANGED)


def test_a_class_that_the_policy_does_not_know_is_not_judged(policy: Policies) -> None:
    found = outcome(policy(), row(privacy="secret"))
    assert isinstance(found, Unknown)
    assert "secret" in found.reason


def test_the_speed_of_a_deployment_that_never_answered_is_not_guessed(policy: Policies) -> None:
    fast = policy(models__auto={"use": ["hosted", "own"], "prefer": "latency"})

    def seen(name: str, model: str, ms: float) -> PastAnswer:
        facts = msgspec.json.encode(RecordedFacts(text_bytes=4000)).decode()
        return PastAnswer(name, model, 1, 1000, 100, ms, ms + 1000, facts)

    own = seen("own", "scout", 50)
    unknown = judge(fast, latest=(own, seen("hosted", "another-model", 9))).evaluate(asked(row())).outcome
    assert unknown == Unknown("how fast hosted answers is not recorded yet")
    both = judge(fast, latest=(own, seen("hosted", "gpt-4o", 900))).evaluate(asked(row())).outcome
    assert both == RoutedTo("own")


# --- many requests under two policies ---


def test_the_report_counts_what_moves_what_it_costs_and_what_must_bear_it(policy: Policies) -> None:
    rules = [{"when": "prompt_tokens > 2000", "use": ["hosted"]}]
    new = policy(models__auto__rules=rules, models__hosted=None)
    rows = [
        *(row(number) for number in range(6)),
        *(row(number, facts__text_bytes=9_000, input_text=3_000) for number in range(6, 9)),
        row(9, model="hosted", deployment="hosted", at=NOON + 3_600_000_000),
    ]
    found = compare(policy(), new, rows)
    assert (found.requests, found.judged, found.unchanged) == (10, 10, 6)
    (moved,) = found.moved
    assert (moved.feature, moved.source, moved.target, moved.requests) == ("triage", "own", "hosted", 3)
    assert moved.cost_usd_old == pytest.approx(3 * (3_000 * 0.3 + 100 * 1.2) / 1e6, abs=1e-9)
    assert moved.cost_usd_new == pytest.approx(3 * (3_000 * 2.5 + 100 * 10) / 1e6, abs=1e-9)
    (refused,) = found.refused
    assert (refused.deployment, refused.code, refused.requests) == ("hosted", "model_not_found", 1)
    own, hosted = sorted(found.deployments, key=lambda one: one.name, reverse=True)
    assert (own.old.requests, own.new.requests) == (9, 6)
    assert (hosted.old.requests, hosted.new.requests) == (1, 3)
    assert own.new.input_tokens == 6_000
    assert own.old.peak_tokens_per_second == round((6 * 1_100 + 3 * 3_100) / 3600, 3)
    assert found.cost_usd_new - found.cost_usd_old == pytest.approx(
        moved.cost_usd_new - moved.cost_usd_old - hosted.old.cost_usd, abs=1e-9
    )


def test_retries_add_what_they_used_and_are_no_requests(policy: Policies) -> None:
    again = row(1)._replace(attempt_id="req_1:2", deployment="hosted", input_text=500)
    found = compare(policy(), policy(models__auto__use=["hosted"]), [row(1), again])
    assert (found.requests, found.judged) == (1, 1)
    assert found.moved[0].requests == 1
    assert found.deployments[0].new.input_tokens == 1_500


def test_rows_from_before_facts_were_kept_are_counted_and_not_judged(policy: Policies) -> None:
    found = compare(policy(), policy(), [row(1), row(2, facts="{}")])
    assert (found.requests, found.judged) == (2, 1)
    assert [(one.reason, one.requests) for one in found.not_judged] == [(NOT_RECORDED, 1)]


def test_a_replay_that_differs_from_what_was_recorded_is_told(policy: Policies) -> None:
    old = policy()
    rows = [row(1, policy_version=old.version), row(2, policy_version=old.version, deployment="hosted")]
    assert compare(old, policy(), rows).replayed_otherwise == 1


def test_requests_that_are_judged_together_are_judged_as_each_by_itself(policy: Policies) -> None:
    """Over rules that can be taken apart and rules that cannot, sizes at every limit, shares and pools."""
    weights = {"own": 3, "hosted": 1}
    plain = [
        {"when": "prompt_tokens >= 5000 && prompt_tokens != 5001", "use": ["hosted", "own"]},
        {"when": '!("tier" in tags) && budget.used > 0.5', "use": ["own"]},
        {"when": 'tags.tier in ["gold", "silver"] || time.hour == 13', "use": ["hosted"]},
        {"when": 'pool["own"].outstanding > 2', "use": ["own", "hosted"], "prefer": "weights",
         "weights": weights},
        {"when": 'feature == "review"', "use": ["hosted", "own"], "prefer": "weights", "weights": weights,
         "sticky": True},
    ]  # fmt: skip
    engine = [
        {"when": "prompt_tokens % 7 == 3", "use": ["hosted", "own"]},
        {"when": 'tags.exists(name, tags[name] == "gold")', "use": ["hosted"]},
    ]
    old = policy(models__auto={"use": ["own", "hosted"], "prefer": "cost", "rules": plain})
    new = policy(
        models__auto={"use": ["hosted", "own"], "prefer": "cost", "rules": engine},
        deployments__hosted__price={"input": 0.2, "output": 3},
    )
    chance = random.Random(11)
    sizes = [1, 19_999, 20_000, 20_001, 20_003, 20_004, 127_999, 128_000, 128_004, 511_996, 511_997, 600_000]
    rows = [
        row(
            number,
            feature=chance.choice(("triage", "review")),
            at=NOON + chance.randrange(0, 7_200_000_000),
            privacy="confidential" if number % 5 == 0 else "internal",
            stream=chance.randrange(2),
            tags=chance.choice(("{}", '{"tier":"gold"}', '{"tier":"tin"}', '{"other":"gold"}')),
            facts__text_bytes=chance.choice(sizes) if number % 3 else chance.randrange(1, 600_000),
            facts__max_output=chance.choice((None, 100, 9_000)),
            facts__finds="email" if number % 5 == 0 else "",
            facts__draw=round(chance.random(), 2),
            facts__unit=chance.choice((None, "0000000001", "0000000002")),
            facts__budget=chance.choice((0.0, 0.5, 0.51)),
            facts__pools=chance.choice(({}, {"own": (3, 2, 2)}, {"own": (2, 1, 2)}, {"own": (0, 0, 2)})),
        )
        for number in range(4_000)
    ]
    before, after = judge(old), judge(new, old)
    replaying = _Replay(before, after)
    alone, lone_after = judge(old), judge(new, old)
    verdicts = set()
    for one in rows:
        facts = msgspec.json.decode(one.facts, type=RecordedFacts)
        verdict = replaying._verdict(one, facts)
        assert verdict.old == alone.evaluate(asked(one)).outcome, one
        assert verdict.new == lone_after.evaluate(asked(one)).outcome, one
        verdicts.add(verdict)
    assert len(verdicts) > 4
