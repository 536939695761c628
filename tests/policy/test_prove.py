"""The proof agrees with trying every request, finds the holes that are planted, and names what is no use."""

import dataclasses
import datetime
import itertools
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.config.build import Built, build
from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.catalog import DECLARED_CAPABILITIES, Capability, Modality, Model
from gateway.core.constraints import Constraint
from gateway.core.estimate import Estimate, ask_for
from gateway.core.facts import Moment
from gateway.core.policy import Policy
from gateway.core.route import Refused, Route, Routes
from gateway.core.screening import Classified
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal
from gateway.policy.proof.prove import prove
from gateway.policy.proof.results import Proof
from gateway.policy.proof.space import Case as ProofCase
from gateway.policy.proof.space import RequestKind, Space, call_of, principals
from tests.core.files import ENVIRON, PRICES, built, changed, loaded

CLASSES = ["public", "internal", "confidential"]
JANUARY, MARCH = (
    1_798_761_600.0 + 86_400,
    1_803_859_200.0,
)  # 2027-01-02, 2027-03-01: before and after retirement
SIZES = "context_tokens: 9, max_output_tokens: 9, price: {input: 1, output: 1}}"
CONDITIONS = [
    "true",
    'feature == "f"',
    'feature == "g" && tools',
    'feature == "nobody"',
    'privacy == "confidential"',
    'key == "k" || stream',
    '"image" in modalities',
    "prompt_tokens > 1000",
    "budget.used > 0.8",
    "!tools",
    "size(modalities) > 1",
]


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """A small configuration whose zones do not contradict each other."""
    names = ["a", "b", "c"][: draw(st.integers(2, 3))]
    deployments = {
        name: {
            "provider": "openai-compatible",
            "model": "m",
            "base_url": f"https://{name}.example.com/v1",
            "zone": draw(st.sampled_from(["local", "external"])),
            "accepts": ["text", *draw(st.sampled_from([[], ["image"]]))],
            "supports": draw(st.sampled_from([[], ["tools"]])),
            "context_tokens": 100_000,
            "max_output_tokens": 100,
            "price": {"input": 1, "output": 1},
        }
        for name in names
    }
    if draw(st.booleans()):
        deployments["a"] |= {"retires_on": "2027-02-01", "successor": draw(st.sampled_from(names[1:]))}
    use = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    rule = st.fixed_dictionaries(
        {
            "when": st.sampled_from(CONDITIONS),
            "use": st.lists(st.sampled_from(use), min_size=1, unique=True),
        }
    )
    home = draw(st.sampled_from([["local"], []]))
    return {
        "zones": {"local": {}, "external": {}},
        "privacy": {
            "classes": CLASSES,
            "default": "public",
            "zones": {
                "public": ["local", "external"],
                "internal": draw(st.sampled_from([["local"], ["local", "external"]])),
                "confidential": home,
            },
            "media": {"image": "public"},
        },
        "deployments": deployments,
        "models": {"auto": {"use": use, "rules": draw(st.lists(rule, max_size=3))}},
        "teams": {"t": {}},
        "features": {
            "f": {"team": "t"},
            "g": {"team": "t", "privacy": draw(st.sampled_from(CLASSES))},
        },
        "keys": {"k": {"secret": "secret-of-the-only-key-0", "feature": "f", "features": ["g"]}},
    }


def made(folder: Path, file: dict[str, Any]) -> Built:
    found, problems = build(loaded(folder, yaml.safe_dump(file)), PRICES)
    assert found is not None, problems
    return found


# --- every request tried ---

Violation = tuple[str, str, str]
MakeRoutes = Callable[[Policy, Fleet], Routes]


def every_plan(of: Built, make: MakeRoutes) -> Iterator[Sent]:
    """Every plan that any request gets, in any circumstances that the conditions can tell apart."""
    names = list(of.policy.deployments)
    model = of.policy.models["auto"]
    kinds = [
        RequestKind(api, frozenset({Modality.TEXT, *image}), frozenset(tools))
        for api in {item for one in of.policy.deployments.values() for item in one.serves}
        for image in ((), (Modality.IMAGE,))
        for tools in ((), (Capability.TOOLS,))
    ]
    for size in range(len(names) + 1):
        for down in itertools.combinations(names, size):
            fleet = Fleet(of.policy.deployments.values())
            for name in down:
                fleet.replica_sets[name].replicas[0].is_up = False
            routes = make(of.policy, fleet)
            for now, used in itertools.product((JANUARY, MARCH), (0.0, 0.9)):
                at = Moment(now, 0.0, budget_used=used)
                for who, kind in itertools.product(principals(of.tenancy), kinds):
                    route = routes.prepare(who, model, now)
                    classes = CLASSES[CLASSES.index(who.floor) :]
                    for privacy, stream, words in itertools.product(classes, (False, True), (1, 10_000)):
                        call = call_of(ProofCase(model, who, privacy, kind, 0))
                        call = msgspec.structs.replace(
                            call, stream=stream, rest=b" " * words, text_bytes=words
                        )
                        found = route.decide("", call, Classified(privacy), at)
                        if isinstance(found, Sent):
                            yield found


def violations(of: Built, make: MakeRoutes) -> set[Violation]:
    allowed = of.settings.privacy.zones
    return {
        (plan.privacy, item.deployment.zone, item.name)
        for plan in every_plan(of, make)
        for item in plan.candidates
        if item.deployment.zone not in allowed[plan.privacy]
    }


# --- routes with a hole ---

Decision = Sent | Refused


class HoledRoute(Route):
    """A route that adds to its candidates where `also` says so."""

    __slots__ = ()

    def decide(
        self, request_id: str, call: Call, classified: Classified, moment: Moment, started: float = 0.0
    ) -> Decision:
        found = super().decide(request_id, call, classified, moment, started)
        names = self.also(found, call, moment)
        kept = found.candidates if isinstance(found, Sent) else ()
        own = {item.name for item in kept}
        more = tuple(
            self.candidate(item)
            for name, item in self._policy.deployments.items()
            if name in names and name not in own
        )
        if not more:
            return found
        candidates, estimates = kept + more, (Estimate(1, 1, 1),) * len(kept + more)
        return Sent(
            request_id=request_id,
            call=call,
            principal=self.principal,
            model=self.model,
            privacy=found.privacy,
            stand_in=None,
            candidates=candidates,
            estimates=estimates,
            excluded=(),
            decision="broken",
            rule=found.rule,
            ask=ask_for(call, self.principal, candidates, estimates),
            tags={},
            started=started,
            named="",
            finds="",
            unit=None,
            draw=0.0,
            budget=0.0,
            pools={},
            candidate=candidates[0],
            estimate=estimates[0],
        )

    def also(self, found: Decision, call: Call, moment: Moment) -> Collection[str]:
        raise NotImplementedError


class RuleWidens(HoledRoute):
    def also(self, found: Decision, call: Call, moment: Moment) -> Collection[str]:
        return found.rule.use if found.rule else ()


class FailsOutward(HoledRoute):
    """When nothing allowed is up, whatever is up will do."""

    def also(self, found: Decision, call: Call, moment: Moment) -> Collection[str]:
        ill = any(item.constraint is Constraint.HEALTH for item in found.excluded)
        return [item.name for item in self.model.use] if ill and isinstance(found, Refused) else ()


class ForgetsImages(HoledRoute):
    def also(self, found: Decision, call: Call, moment: Moment) -> Collection[str]:
        return self._policy.deployments if "image" in call.modalities else ()


class TrustsSuccessors(HoledRoute):
    def also(self, found: Decision, call: Call, moment: Moment) -> Collection[str]:
        retired = [item for item in self.model.use if item.retires_at and moment.now >= item.retires_at]
        return [name for item in retired for name in item.successors]


class FavoursOneFeature(HoledRoute):
    def also(self, found: Decision, call: Call, moment: Moment) -> Collection[str]:
        return self._policy.deployments if self.principal.feature == "g" else ()


def routes_of(kind: type[Route]) -> MakeRoutes:
    """Makes routes of `kind`."""

    class Made(Routes):
        def prepare(self, principal: Principal, model: Model, now: float) -> Route:
            return kind(principal, model, self.policy, self.fleet, self.prices, datetime.UTC, now)

    return Made


KINDS = [Route, RuleWidens, FailsOutward, ForgetsImages, TrustsSuccessors, FavoursOneFeature]


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(file=files())
@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_agrees_with_trying_every_request(kind: type[Route], file: dict[str, Any], tmp_path: Path):
    of, make = made(tmp_path, file), routes_of(kind)
    proof = prove(of, make)
    tried = violations(of, make)
    found = {(hole.privacy, hole.zone, hole.deployment) for hole in proof.holes}
    assert proof.proven is (not found)
    assert found >= tried
    # A condition that needs the engine is taken as possibly true of every request. So of routes with a
    # hole the proof may name one more: with such a rule, which no request of that kind meets.
    needs_engine = any("size(" in rule["when"] for rule in file["models"]["auto"].get("rules", []))
    if kind is Route or not needs_engine:
        assert found == tried
    if kind is Route:
        assert proof.proven


PLANTED = changed(
    ("successor: null", "successor: llama-4-scout"),
    ("retires_on: 2027-01-14", "retires_on: 2099-01-14"),
    (
        "license: llama-4-community",
        "license: llama-4-community\n    retires_on: 2099-01-14\n    successor: gpt-4o-mini\n"
        "  gpt-4o-mini: {provider: openai, model: gpt-4o-mini, base_url: https://api.openai.com/v1, "
        'api_key: "${OPENAI_API_KEY}", zone: external}',
    ),
    ("features:\n", "features:\n  g: {team: research}\n"),
)
WAYS = {
    RuleWidens: "rule 2 (line 62), failover after llama-4-scout",
    FailsOutward: "while llama-4-scout is down",
    ForgetsImages: "model ",
    TrustsSuccessors: "as successor from 2099-01-15 on",
    FavoursOneFeature: "model ",
}


@pytest.mark.parametrize("kind", WAYS)
def test_each_planted_hole_is_found_with_the_way_there(kind: type[Route], tmp_path: Path):
    text = PLANTED.replace(
        """'budget.used > 0.8', use: [llama-4-scout]""", "'stream', use: [llama-4-scout, gpt-4o]"
    )
    of, problems = build(loaded(tmp_path, text), PRICES)
    assert of is not None, problems
    assert prove(of).proven
    proof = prove(of, routes_of(kind))
    assert not proof.proven
    assert any(WAYS[kind] in hole.path for hole in proof.holes), [hole.path for hole in proof.holes]
    assert all(hole.zone == "external" for hole in proof.holes)
    assert {hole.privacy for hole in proof.holes} <= {"confidential", "restricted"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=files())
def test_a_rule_is_said_never_to_decide_only_when_no_request_meets_it(file: dict[str, Any], tmp_path: Path):
    of = made(tmp_path, file)
    model = of.policy.models["auto"]
    rules = model.rules.rules if model.rules else ()
    proof = prove(of)
    idle = {item.rule for item in (*proof.unreachable_rules, *proof.shadowed_rules)}
    met = {plan.rule.number for plan in every_plan(of, Routes) if plan.rule}
    assert idle.isdisjoint(met)
    assert idle <= {rule.number for rule in rules}


# --- what it says ---


def proof_of(folder: Path, *replacements: tuple[str, str]) -> Proof:
    return prove(built(folder, *replacements))


def test_the_example_is_proven_and_told_what_is_no_use_in_it(tmp_path: Path):
    proof = proof_of(tmp_path)
    assert (proof.proven, proof.holes) == (True, [])
    assert proof.cases > 10_000
    assert [(item.rule, item.line) for item in proof.unreachable_rules] == [(1, 58)]
    assert [(item.feature, item.model) for item in proof.unusable_models] == [
        ("literature-triage", "llama-4-scout")
    ]


def test_a_class_above_that_reopens_a_zone_is_a_hole(tmp_path: Path):
    proof = proof_of(tmp_path, ("    restricted: [local]", "    restricted: [local, external]"))
    (hole,) = proof.holes
    assert (hole.privacy, hole.zone, hole.deployment, hole.line) == ("confidential", "external", "gpt-4o", 19)
    assert hole.request["headers"] == {"x-tollway-privacy": "restricted"}


def test_a_zone_for_the_upper_classes_only_is_none(tmp_path: Path):
    assert proof_of(tmp_path, ("public: [local, external]", "public: [external]")).proven


def test_one_server_under_two_zones_is_a_hole(tmp_path: Path):
    same = (
        "models:\n",
        "  copy: {provider: openai-compatible, model: m, base_url: https://api.openai.com/v1, zone: vendor, "
        f"{SIZES}\nmodels:\n  copy: {{use: [copy]}}\n",
    )
    zones = ("  external: {}", "  external: {}\n  vendor: {}")
    allowed = ("confidential: [local]", "confidential: [local, vendor]")
    proof = proof_of(tmp_path, same, zones, allowed)
    (hole,) = proof.holes
    assert (hole.privacy, hole.zone, hole.deployment) == ("confidential", "external", "copy")
    assert hole.path == "api.openai.com:443 is zone external as gpt-4o, and vendor as copy"


def test_an_address_of_another_zone_is_a_hole(tmp_path: Path):
    zones = ("  external: {}", "  external: {cidrs: [52.0.0.0/8]}\n  vendor: {}")
    allowed = ("confidential: [local]", "confidential: [local, vendor]")
    other = (
        "models:\n",
        "  there: {provider: openai-compatible, model: m, base_url: https://52.1.2.3/v1, zone: vendor, "
        f"{SIZES}\nmodels:\n  t: {{use: [there]}}\n",
    )
    (hole,) = proof_of(tmp_path, zones, allowed, other).holes
    assert hole.path == "52.1.2.3 lies in the cidrs of zone external, and there calls it vendor"


OPEN_HOME = ("  local:    {cidrs: [127.0.0.0/8, 10.0.0.0/8]}", "  local:    {}")


@pytest.mark.parametrize("host", ["api.openai.com", "us.api.openai.com", "8.8.8.8"])
def test_a_hosted_service_that_is_called_local_is_a_hole(host: str, tmp_path: Path):
    called = ("    zone: external\n", "    zone: local\n")
    at = ("https://api.openai.com/v1", f"https://{host}/v1")
    (hole,) = proof_of(tmp_path, OPEN_HOME, called, at).holes
    assert (hole.privacy, hole.deployment, hole.line) == ("confidential", "gpt-4o", 29)
    assert hole.path == f"{host} is no server of one's own, and gpt-4o calls it local"


@pytest.mark.parametrize("host", ["llama.svc", "10.0.0.9", "notopenai.com"])
def test_a_server_of_ones_own_in_the_zone_local_is_none(host: str, tmp_path: Path):
    called = ("    zone: external\n", "    zone: local\n")
    at = ("https://api.openai.com/v1", f"https://{host}/v1")
    assert proof_of(tmp_path, OPEN_HOME, called, at).proven


def test_a_policy_that_was_built_wrong_is_found_against_the_file(tmp_path: Path):
    good = built(tmp_path)
    zones = {**good.policy.zones, "confidential": frozenset({"local", "external"})}
    bad = dataclasses.replace(good, policy=msgspec.structs.replace(good.policy, zones=zones))
    holes = prove(bad).holes
    assert {(hole.privacy, hole.zone) for hole in holes} == {("confidential", "external")}
    assert holes[0].line == 18


@pytest.mark.parametrize(
    ("first", "second", "is_shadowed"),
    [
        ("true", "stream", True),
        ("prompt_tokens > 10", "prompt_tokens > 20", True),
        ("prompt_tokens > 20", "prompt_tokens > 10", False),
        ("prompt_tokens >= 20", "prompt_tokens > 20", True),
        ("prompt_tokens > 20", "prompt_tokens >= 20", False),
        ("prompt_tokens < 20", "prompt_tokens <= 19", True),
        ("prompt_tokens > 10", "prompt_tokens == 11", True),
        ("stream", "stream && tools", True),
        ("stream && tools", "stream", False),
        ("stream || tools", "stream", True),
        ("stream", "stream || tools", False),
        ("size(tags) > 1", "size(tags) > 1", True),
        ("size(tags) > 1", "size(tags) > 2", False),
        ('feature == "literature-triage"', 'team == "research"', True),
        ("tools", "!tools", False),
    ],
)
def test_a_rule_that_an_earlier_one_always_precedes_is_shadowed(
    first: str, second: str, is_shadowed: bool, tmp_path: Path
):
    rules = (
        ("""'feature == "contract-review" && prompt_tokens > 20000'""", f"'{first}'"),
        ("'budget.used > 0.8'", f"'{second}'"),
    )
    proof = proof_of(tmp_path, *rules)
    assert [item.rule for item in proof.shadowed_rules] == ([2] if is_shadowed else [])
    assert proof.unreachable_rules == []


def test_a_rule_that_leaves_only_what_a_class_may_not_reach_is_a_dead_end(tmp_path: Path):
    (found,) = proof_of(tmp_path, ('feature == "contract-review" && ', "")).dead_ends
    assert found.reason == (
        "requests of class confidential, restricted that match it are refused: none may reach gpt-4o"
    )


def test_a_model_that_privacy_shuts_to_a_feature_is_unusable(tmp_path: Path):
    found = proof_of(tmp_path, ("privacy: internal, budgets", "privacy: confidential, budgets"))
    reasons = {item.model: item.reason for item in found.unusable_models}
    assert "may not go to any deployment of 'gpt-4o'" in reasons["gpt-4o"]


COMPANY = """
zones: {local: {cidrs: [127.0.0.0/8]}, outside: {}}
privacy:
  classes: [public, internal]
  default: internal
  zones: {public: [local, outside], internal: [local]}
deployments:
  near: {provider: vllm, model: scout, base_url: "http://127.0.0.1:9301/v1", zone: local, serves: [chat],
    context_tokens: 8192, max_output_tokens: 1024, price: {input: 1, output: 1}}
  far: {provider: openai-compatible, model: far, base_url: "https://far.example/v1", zone: outside,
    serves: [chat],
    context_tokens: 8192, max_output_tokens: 1024, price: {input: 1, output: 1}}
  vectors: {provider: openai-compatible, model: vectors, base_url: "https://far.example/v1", zone: outside,
    serves: [embeddings], context_tokens: 8192, max_output_tokens: 1024, price: {input: 1, output: 0}}
models: {auto: {use: [near, far]}, far: {use: [far]}, vectors: {use: [vectors]}}
teams: {all: {}}
features: {site: {team: all, privacy: public}, notes: {team: all}, mail: {team: all}}
keys:
  site-app: {secret: "key-of-the-site-app-1", feature: site, models: [auto, far, vectors]}
  notes-app: {secret: "key-of-the-notes-app-1", feature: notes, features: [mail], models: [auto]}
"""


def findings_of(folder: Path, text: str) -> Proof:
    found, problems = build(loaded(folder, text), PRICES)
    assert found is not None, problems
    return prove(found)


def test_what_the_file_rules_out_on_purpose_is_no_finding(tmp_path: Path):
    proof = findings_of(tmp_path, COMPANY)
    assert proof.findings == 0
    assert {(item.feature, item.model) for item in proof.unusable_models} == {
        (feature, model) for feature in ("notes", "mail") for model in ("far", "vectors")
    }
    assert all(item.on_purpose for item in proof.unusable_models)


def test_a_key_that_names_a_model_in_vain_is_a_finding(tmp_path: Path):
    proof = findings_of(
        tmp_path, COMPANY.replace("[mail], models: [auto]", "[mail], models: [auto, vectors]")
    )
    (finding,) = [item for item in proof.unusable_models if not item.on_purpose]
    assert (finding.feature, finding.model, proof.findings) == ("notes", "vectors", 1)
    assert "zone outside is not allowed for internal" in finding.reason


def test_a_model_that_nobody_can_use_is_one_finding_with_its_reason(tmp_path: Path):
    proof = findings_of(tmp_path, COMPANY.replace("privacy: public}", "privacy: internal}"))
    found = [(item.feature, item.model) for item in proof.unusable_models if not item.on_purpose]
    assert found == [("", "far"), ("", "vectors")]
    reasons = {item.model: item.reason for item in proof.unusable_models if not item.feature}
    assert "zone outside is not allowed for internal" in reasons["vectors"]


# --- the command ---


def run(folder: Path, text: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(folder)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    Path("tollway.yaml").write_text(text)
    return CliRunner().invoke(app, ["policy", "prove", "tollway.yaml", *words])


def test_the_command_exits_0_for_a_proof_and_1_for_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = run(tmp_path, changed(), monkeypatch=monkeypatch)
    assert good.exit_code == 0
    assert "tollway.yaml: proven: no class reaches a zone that it must not" in good.stdout
    assert run(tmp_path, changed(), "--strict", monkeypatch=monkeypatch).exit_code == 1
    text = changed(("    restricted: [local]", "    restricted: [local, external]"))
    bad = run(tmp_path, text, monkeypatch=monkeypatch)
    assert bad.exit_code == 1
    assert "tollway.yaml:19: a request of class confidential can reach gpt-4o in zone external" in bad.stdout
    assert "  header   x-tollway-privacy: restricted" in bad.stdout


def test_the_proof_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = changed(("    restricted: [local]", "    restricted: [local, external]"))
    found = json.loads(run(tmp_path, text, "--format", "json", monkeypatch=monkeypatch).stdout)
    assert found["proven"] is False
    (hole,) = found["holes"]
    assert (hole["class"], hole["zone"], hole["key"]) == ("confidential", "external", "triage-app")
    assert hole["request"]["body"]["model"] == "gpt-4o"


def test_a_deployment_that_is_not_in_force_yet_is_in_no_plan(tmp_path: Path):
    proof = proof_of(tmp_path, ("provider: openai ", "provider: litellm "))
    assert proof.proven
    unusable = {item.model for item in proof.unusable_models}
    assert "gpt-4o" in unusable
    assert "auto" not in unusable


def test_progress_is_told_by_model(tmp_path: Path):
    told: list[tuple[int, int]] = []
    prove(built(tmp_path), progress=lambda done, models: told.append((done, models)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_every_kind_of_request_is_in_the_space(tmp_path: Path):
    of = built(tmp_path)
    space = Space(of.policy, of.tenancy, of.policy.models["auto"], lambda _: None)
    mixes = {kind.modalities for kind in space.kinds()}
    needs = {kind.needs for kind in space.kinds()}
    assert len(mixes) == 2 ** (len(Modality) - 1)
    # Capabilities that the same deployments have decide alike: one of them stands for the others.
    alike = {
        (
            frozenset(name for name, item in of.policy.deployments.items() if one in item.supports),
            one is Capability.TOOLS,
            one in DECLARED_CAPABILITIES,
        )
        for one in Capability
    }
    assert len(needs) == 2 ** len(alike)
