"""A concrete request that shows a hole."""

import datetime as dt
from typing import Any, Final

from gateway.config.build import Built
from gateway.core.catalog import Api, Capability, Modality
from gateway.core.facts import Moment
from gateway.core.sent import Sent
from gateway.policy.explain import FEATURE_HEADER, PRIVACY_HEADER
from gateway.policy.proof.results import Hole
from gateway.policy.proof.space import NO_RULE, Case

# Each payload is the beginning of its format, and so counts as what its part says.
PARTS: Final[dict[Modality, dict[str, Any]]] = {
    Modality.IMAGE: {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    Modality.AUDIO: {"type": "input_audio", "input_audio": {"data": "UklGRgAAAABXQVZF", "format": "wav"}},
    Modality.VIDEO: {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAAGGZ0eXBtcDQy"}},
    Modality.FILE: {
        "type": "file",
        "file": {"file_data": "data:application/pdf;base64,JVBERi0xLjcKJeLjz9M="},
    },
}
MEMBERS: Final[dict[Capability, dict[str, Any]]] = {
    Capability.TOOLS: {"tools": [{"type": "function", "function": {"name": "sample"}}]},
    Capability.JSON_SCHEMA: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "sample", "schema": {}}}
    },
    Capability.LOGPROBS: {"logprobs": True},
    Capability.CHOICES: {"n": 2},
    Capability.REASONING: {"reasoning_effort": "high"},
    Capability.FUNCTIONS: {"functions": [{"name": "sample"}]},
    Capability.CUSTOM_TOOLS: {"tools": [{"type": "custom", "custom": {"name": "sample"}}]},
    Capability.WEB_SEARCH: {"web_search_options": {}},
    Capability.AUDIO_OUTPUT: {
        "modalities": ["text", "audio"],
        "audio": {"voice": "alloy", "format": "wav"},
    },
}


def hole(built: Built, case: Case, plan: Sent, index: int, moment: Moment, down: frozenset[str]) -> Hole:
    """The hole that `plan` opens with its candidate at `index`."""
    reached = plan.candidates[index]
    line = built.policy.zone_lines.get(case.privacy)
    return Hole(
        privacy=case.privacy,
        zone=built.settings.deployments[reached.name].zone,
        deployment=reached.name,
        path=_path(case, plan, index, moment, down),
        line=line if line is not None else reached.deployment.lines.get("zone"),
        model=case.model.name,
        key=case.principal.key,
        feature=case.principal.feature,
        request={"headers": headers(case), "body": body(case)},
    )


def headers(case: Case) -> dict[str, str]:
    """What raises a request of the case to its class, and charges its feature."""
    found = {PRIVACY_HEADER: case.privacy}
    return found | ({FEATURE_HEADER: case.principal.feature} if case.principal.feature else {})


def body(case: Case) -> dict[str, Any]:
    """A body of the case's kind."""
    kind = case.kind
    made: dict[str, Any] = {"model": case.model.name}
    if kind.api is Api.EMBEDDINGS:
        return made | {"input": "sample"}
    if kind.api is Api.COMPLETIONS:
        made["prompt"] = "sample"
    else:
        parts = [PARTS[item] for item in Modality if item in kind.modalities and item in PARTS]
        content: Any = [{"type": "text", "text": "sample"}, *parts] if parts else "sample"
        made["messages"] = [{"role": "user", "content": content}]
    for need in Capability:
        if need in kind.needs:
            add_members(made, MEMBERS[need])
    return made


def add_members(made: dict[str, Any], members: dict[str, Any]) -> None:
    """Add `members` to a body; lists of both are joined."""
    for name, value in members.items():
        made[name] = [*made.get(name, ()), *value] if isinstance(value, list) else value


def _path(case: Case, plan: Sent, index: int, moment: Moment, down: frozenset[str]) -> str:
    rules = case.model.rules
    if case.rule == NO_RULE or rules is None:
        by = f"model {case.model.name} by {case.model.prefer}"
    else:
        rule = rules.rules[case.rule - 1]
        by = f"rule {rule.number} (line {rule.line})"
    steps = [by]
    reached = plan.candidates[index].name
    if reached not in {item.name for item in case.model.use}:
        day = dt.datetime.fromtimestamp(moment.now, dt.UTC).date()
        steps.append(f"as successor from {day} on")
    if index:
        steps.append(f"failover after {', '.join(item.name for item in plan.candidates[:index])}")
    if down:
        steps.append(f"while {', '.join(sorted(down))} is down")
    return ", ".join(steps)
