"""Run the file's `policy_tests`: each sample request is planned as in service, without any upstream."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from gateway.core.balancing import Fleet
from gateway.core.call import BYTES_PER_TOKEN, Call, Media
from gateway.core.catalog import Api, Capability, Modality
from gateway.core.errors import GatewayError, ModelNotFound, PermissionDenied
from gateway.core.facts import Moment, local_time
from gateway.core.policy import Plan, Planner
from gateway.core.screening import screen
from gateway.core.tenancy import Principal
from gateway.settings.build import Built
from gateway.settings.tenancy import Expectation, PolicyTest, SampleRequest


@dataclass(frozen=True, slots=True)
class Failure:
    """A test whose decision came out differently."""

    test: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"policy test '{self.test}' failed: expected {self.expected}, found {self.found}"


def run_policy_tests(built: Built) -> list[Failure]:
    """Every expectation that does not hold, in the order of the file."""
    planner = Planner(built.policy, Fleet(built.policy.deployments.values()))
    return [failure for test in built.settings.policy_tests for failure in _run(test, built, planner)]


def _run(test: PolicyTest, built: Built, planner: Planner) -> list[Failure]:
    decision: Plan | GatewayError
    try:
        decision = _decide(test.request, built, planner)
    except GatewayError as error:
        decision = error
    return [Failure(test.name, wanted, found) for wanted, found in _differences(test.expect, decision, built)]


def _decide(sample: SampleRequest, built: Built, planner: Planner) -> Plan:
    policy = built.policy
    principal = _principal(sample, built)
    if sample.key is not None and not principal.may_use(sample.model):
        raise ModelNotFound(f"the key '{sample.key}' may not use the model '{sample.model}'")
    call = _call(sample)
    privacy = principal.floor
    if sample.privacy is not None:
        privacy = policy.most_sensitive(privacy, sample.privacy)
    privacy = screen(call, built.screenings.of(principal.feature), privacy).privacy
    now = time.time()
    moment = Moment(now, time.monotonic(), 0.0, lambda: 0.0, lambda: local_time(now, built.tenancy.time_zone))
    return planner.plan(call, principal, policy.models[sample.model], privacy, moment)


def _principal(sample: SampleRequest, built: Built) -> Principal:
    """The key that the sample names, else any key of its feature, else one made up for the feature.

    Raises PermissionDenied when the key may not act for the feature.
    """
    for entry in built.tenancy.keys.values():
        if sample.key in (None, entry.name):
            feature = sample.feature or entry.default.feature
            if (principal := entry.by_feature.get(feature)) is not None:
                return principal
    feature_name = sample.feature or ""
    if sample.key is not None:
        raise PermissionDenied(f"the key '{sample.key}' may not act for the feature '{feature_name}'")
    settings = built.settings
    feature_settings = settings.features.get(feature_name)
    return Principal(
        key="",
        feature=feature_name,
        team=feature_settings.team if feature_settings else "",
        org=settings.org.name,
        floor=(feature_settings.privacy if feature_settings else None) or settings.privacy.default,
        models=None,
        scopes=(),
    )


def _call(sample: SampleRequest) -> Call:
    text = sample.text or "sample"
    body = {"messages": [{"role": "user", "content": text}]}
    rest = orjson.dumps(body)
    if sample.prompt_tokens is not None:
        # Only its length is looked at: the longest text that counts as so many tokens.
        length = sample.prompt_tokens * BYTES_PER_TOKEN - 1
        rest = rest.ljust(length, b" ")[:length]
    return Call(
        api=Api.CHAT,
        model=sample.model,
        stream=sample.stream,
        include_usage=False,
        stream_options={},
        max_output=sample.max_output_tokens,
        choices=1,
        modalities=frozenset({Modality.TEXT, *map(Modality, sample.modalities)}),
        needs=frozenset(Capability(item) for item in sample.needs if item in set(Capability)),
        media=Media(),
        service_tier=None,
        tags=dict(sample.tags),
        rest=rest,
        body=body,
    )


def _differences(expect: Expectation, decision: Plan | GatewayError, built: Built) -> list[tuple[str, str]]:
    if isinstance(decision, GatewayError):
        found = f"refused with {decision.code} ({decision.message})"
        if expect.refused == decision.code:
            return []
        wanted = f"refused with {expect.refused}" if expect.refused else _wanted(expect)
        return [(wanted, found)]
    names = tuple(deployment.name for deployment in decision.candidates)
    order = f"the order {', '.join(names)}"
    found_zones = ", ".join(sorted({deployment.zone for deployment in decision.candidates}))
    differences = []
    if expect.refused is not None:
        differences.append((f"refused with {expect.refused}", order))
    if expect.deployment is not None and names[0] != expect.deployment:
        differences.append((f"deployment {expect.deployment}", order))
    if expect.order is not None and names != expect.order:
        differences.append((f"the order {', '.join(expect.order) or '(none)'}", order))
    if unwanted := [name for name in expect.never if name in names]:
        differences.append((f"never {', '.join(unwanted)}", order))
    if expect.privacy is not None and decision.privacy != expect.privacy:
        differences.append((f"privacy class {expect.privacy}", decision.privacy))
    if expect.zone is not None and {item.zone for item in decision.candidates} != {expect.zone}:
        differences.append((f"only zone {expect.zone}", f"zones {found_zones}"))
    return differences


def _wanted(expect: Expectation) -> str:
    stated: Mapping[str, object] = {
        name: value for name, value in expect.model_dump().items() if value not in (None, ())
    }
    return ", ".join(f"{name} {value}" for name, value in stated.items()) or "a decision"
