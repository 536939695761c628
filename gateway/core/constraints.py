"""Hard constraints: what removes a deployment from a request, each reason with its line of the file."""

import enum

import msgspec

from gateway.core.call import BYTES_PER_TOKEN, Call
from gateway.core.catalog import DECLARED_CAPABILITIES, Capability, Deployment
from gateway.core.errors import (
    GatewayError,
    InvalidRequest,
    PrivacyViolation,
    Unavailable,
    UnsupportedModality,
)
from gateway.core.estimate import REFUSED_ABOVE, Estimate
from gateway.dialects.outgoing import refused_members
from gateway.dialects.table import UNKNOWN


class Constraint(enum.StrEnum):
    """Why a deployment was removed, in the order in which the constraints are checked."""

    ENDPOINT = "endpoint"
    MODALITY = "modality"
    CAPABILITY = "capability"
    FIELD = "field"
    PRIVACY = "privacy"
    LICENSE = "license"
    RETIRED = "retired"
    RULE = "rule"
    CONTEXT = "context"
    OUTPUT = "output"
    HEALTH = "health"


class Excluded(msgspec.Struct, frozen=True):
    """A deployment that may not answer, and the constraint that removed it.

    `line`: where the file says so; None where it does not (health), or the file is not known.
    """

    deployment: str
    constraint: Constraint
    detail: str
    line: int | None = None


class ClassZones(msgspec.Struct, frozen=True):
    """The zones that requests of one privacy class may reach, and the line that says so.

    `may_leave`: they may reach every zone that any class may, so an upstream may fetch for them anywhere.
    """

    privacy: str
    zones: frozenset[str]
    line: int | None = None
    may_leave: bool = True


def checked_capabilities(deployments: tuple[Deployment, ...]) -> frozenset[Capability]:
    """The capabilities that deployments of one model are asked for."""
    always = frozenset(Capability) - DECLARED_CAPABILITIES
    return always.union(*(item.supports for item in deployments))


def static_reason(  # noqa: PLR0911  # one return for each constraint, in the order in which they are checked
    deployment: Deployment, call: Call, allowed: ClassZones, checked: frozenset[Capability]
) -> Excluded | None:
    """The first constraint over closed sets that `deployment` fails: it always fails it for such calls."""
    name, lines = deployment.name, deployment.lines
    if call.api not in deployment.serves:
        detail = f"does not serve {call.api}"
        return Excluded(name, Constraint.ENDPOINT, detail, lines.get("serves"))
    if missing := call.modalities - deployment.accepts:
        detail = f"does not accept {_listed(missing)}"
        return Excluded(name, Constraint.MODALITY, detail, lines.get("accepts"))
    if lacking := (call.needs & checked) - deployment.supports:
        detail = f"does not support {_listed(lacking)}"
        return Excluded(name, Constraint.CAPABILITY, detail, lines.get("supports"))
    if call.members and (refused := refused_members(call.members, deployment.server_dialect)):
        detail = f"refuses {_listed(refused)}, which it does not allow clients to set"
        if UNKNOWN in refused:
            detail += f" ({UNKNOWN}: those that are on no list of Tollway's)"
        return Excluded(name, Constraint.FIELD, detail, lines.get("dialect"))
    if deployment.zone not in allowed.zones:
        detail = f"zone {deployment.zone} is not allowed for {allowed.privacy}"
        return Excluded(name, Constraint.PRIVACY, detail, allowed.line or lines.get("zone"))
    if deployment.license_conflict is not None:
        return Excluded(name, Constraint.LICENSE, deployment.license_conflict, lines.get("license"))
    return _remote_reason(deployment, allowed) if call.media.is_remote else None


def _remote_reason(deployment: Deployment, allowed: ClassZones) -> Excluded | None:
    """Content that is named by its address: who fetches it inside the network may be sent anywhere there, and
    for a class that must not leave the fetch itself would."""
    if deployment.fetches_urls and allowed.may_leave:
        return None
    why = "fetches no URLs" if not deployment.fetches_urls else f"may fetch no URLs for {allowed.privacy}"
    detail = f"{why}; send the content itself, as a data: URL"
    return Excluded(deployment.name, Constraint.MODALITY, detail, deployment.lines.get("fetches_urls"))


def retired_reason(deployment: Deployment) -> Excluded:
    """Says that `deployment` has retired, and who has taken its place."""
    detail = f"retired on {deployment.retires_on}"
    if deployment.successors:
        detail += f"; {', '.join(deployment.successors)} took its place"
    return Excluded(deployment.name, Constraint.RETIRED, detail, deployment.lines.get("retires_on"))


def is_too_large(deployment: Deployment, call: Call, expected: Estimate) -> bool:
    """Whether the request surely exceeds `deployment`.

    A guess says so only where any text of this length would be far too long. The server knows better, and
    what it refuses may still go to another candidate.
    """
    if (call.max_output or 0) > deployment.max_output_tokens:
        return True
    context, prompt = deployment.context_tokens * call.prompts, expected.prompt
    if expected.is_counted:
        return prompt > context
    if not call.media.bytes:
        prompt = min(prompt, call.text_bytes // BYTES_PER_TOKEN)
    return prompt > context * REFUSED_ABOVE


def size_reason(deployment: Deployment, call: Call, expected: Estimate) -> Excluded:
    """Why the request, which is too large for `deployment`, is."""
    name, lines = deployment.name, deployment.lines
    if expected.prompt > deployment.context_tokens * call.prompts:
        about = "" if expected.is_counted else "about "
        detail = f"{about}{expected.prompt} prompt tokens, and its context is {deployment.context_tokens}"
        return Excluded(name, Constraint.CONTEXT, detail, lines.get("context_tokens"))
    detail = f"{call.max_output} output tokens asked, at most {deployment.max_output_tokens} possible"
    return Excluded(name, Constraint.OUTPUT, detail, lines.get("max_output_tokens"))


def _listed(items: frozenset[enum.StrEnum] | frozenset[str]) -> str:
    return ", ".join(sorted(str(item) for item in items))


def refusal(  # noqa: PLR0911  # one return for each constraint, in the order in which they are named
    name: str, privacy: str, excluded: tuple[Excluded, ...], retry_after_seconds: float
) -> GatewayError:
    """The error when no deployment of the model `name` is left.

    What a retry or a change can mend is named first: health, then size. A deployment that is too small was
    allowed by everything before, privacy included, so privacy is not why nothing answers.
    """
    why = "; ".join(f"{item.deployment}: {item.detail}" for item in excluded)
    seen = {item.constraint for item in excluded}
    if Constraint.HEALTH in seen:
        return Unavailable(
            f"No deployment of model '{name}' can answer now ({why}).",
            retry_after_seconds=retry_after_seconds,
        )
    if Constraint.CONTEXT in seen:
        return InvalidRequest(
            f"This request is too long for every deployment of '{name}' that may answer it ({why}).",
            param="messages",
            code="context_length_exceeded",
        )
    if Constraint.OUTPUT in seen:
        return InvalidRequest(
            f"Too many output tokens for every deployment of '{name}' that may answer it ({why}).",
            param="max_completion_tokens",
            code="invalid_value",
        )
    if Constraint.PRIVACY in seen:
        return PrivacyViolation(
            f"Requests of privacy class '{privacy}' may not go to any deployment of '{name}' that could "
            f"answer this one ({why})."
        )
    if Constraint.FIELD in seen:
        return InvalidRequest(
            f"No deployment of '{name}' takes this request ({why}). Leave the field out.",
            code="field_not_allowed",
        )
    if Constraint.MODALITY in seen:
        return UnsupportedModality(f"No deployment of '{name}' reads this content ({why}).", param="messages")
    if Constraint.CAPABILITY in seen:
        return InvalidRequest(
            f"No deployment of '{name}' can do this ({why}).", code="unsupported_capability"
        )
    if Constraint.LICENSE in seen:
        return InvalidRequest(
            f"Licences forbid the use of '{name}' here ({why}).", param="model", code="license_forbids"
        )
    if Constraint.RETIRED in seen:
        return InvalidRequest(f"Model '{name}' is retired ({why}).", param="model", code="model_retired")
    return InvalidRequest(f"Model '{name}' does not serve this endpoint ({why}).", param="model")
