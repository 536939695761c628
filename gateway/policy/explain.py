"""Explain a decision: what raised the class, why each deployment is kept or removed, what each would cost.

The classifier and the routes that serve give the reasons, so an explanation cannot differ from the decision.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Deployment, Model, Objective, Rule
from gateway.core.causes import in_words
from gateway.core.constraints import Constraint, Excluded
from gateway.core.errors import (
    GatewayError,
    InvalidApiKey,
    InvalidRequest,
    PermissionDenied,
    PrivacyViolation,
)
from gateway.core.estimate import Estimate, estimate
from gateway.core.facts import Moment
from gateway.core.money import NANO_PER_USD
from gateway.core.ordering import likely_nano
from gateway.core.parse import Body
from gateway.core.route import Refused, Routes
from gateway.core.screening import Classified, StandIn, raise_reasons, sized_for
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal, Tenancy
from gateway.proxy.classify import Classifier

PRIVACY_HEADER = "x-tollway-privacy"
FEATURE_HEADER = "x-tollway-feature"


class DecisionQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose decision is asked for. Header names are in lower case.

    `key` is a key's name; None: no key in particular, so only the floor of the feature counts.
    """

    call: Call
    body: Body
    key: str | None = None
    feature: str | None = None
    headers: Mapping[str, str] = {}

    def wire_headers(self) -> dict[bytes, bytes]:
        """The headers as a client would send them."""
        return {
            name.encode("utf-8", "replace"): value.encode("utf-8", "replace")
            for name, value in self.headers.items()
        }


class ExplainedPrivacy(msgspec.Struct, frozen=True, rename={"privacy": "class"}):
    """The class, and what raised it that far: a header, a detector, or the place in the file that sets it."""

    privacy: str
    raised_by: str


class CandidateVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment. `line` is the line of the file that keeps or removes it.

    `estimated_cost_usd`: for an answer of usual length at its price. `estimated_seconds`: as observed so far.
    """

    deployment: str
    zone: str
    kept: bool
    reason: str
    line: int | None
    constraint: Constraint | None
    estimated_cost_usd: float
    estimated_seconds: float | None


class DecidingRule(msgspec.Struct, frozen=True):
    """The rule that decided."""

    number: int
    line: int
    when: str


class ExplainedRefusal(msgspec.Struct, frozen=True):
    """The error that the client would get."""

    status: int
    code: str
    message: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One decision. `order` are the candidates; `refused` is set when there are none.

    `decision` is what `x-tollway-decision` would say. `privacy` is None when the request does not get so far.
    """

    policy: str
    model: str
    key: str
    feature: str
    team: str
    privacy: ExplainedPrivacy | None = None
    rule: DecidingRule | None = None
    candidates: list[CandidateVerdict] = []
    order: list[str] = []
    decision: str | None = None
    refused: ExplainedRefusal | None = None


class DecisionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided, with everything that it depended on.

    `call` is as large as the larger of the two bodies that may be sent for it.
    """

    call: Call
    principal: Principal
    classified: Classified
    decision: Sent | Refused


class Explainer:
    """Decides samples under one policy, as in service, and says why."""

    def __init__(self, routes: Routes, classifier: Classifier, tenancy: Tenancy) -> None:
        self._routes = routes
        self._classifier = classifier
        self._tenancy = tenancy

    async def explain(self, question: DecisionQuestion, moment: Callable[[Principal], Moment]) -> Explanation:
        """The decision on `question` in the circumstances that `moment` gives. Raises no GatewayError."""
        try:
            principal = self.principal(question)
        except GatewayError as error:
            return self._explanation(question, None, refused=_refusal(error))
        at = moment(principal)
        try:
            self._check_expiry(question, at.now)
            decided = await self.decide(question, principal, at)
        except GatewayError as error:
            return self._explanation(question, principal, refused=_refusal(error))
        decision = decided.decision
        rule = decision.rule
        return self._explanation(
            question,
            principal,
            privacy=self._privacy(question, decided),
            rule=None if rule is None else DecidingRule(rule.number, rule.line, rule.when),
            candidates=self._verdicts(decided, at),
            order=[item.name for item in decision.candidates] if isinstance(decision, Sent) else [],
            decision=decision.decision if isinstance(decision, Sent) else None,
            refused=_refusal(decision.error, decided) if isinstance(decision, Refused) else None,
        )

    async def decide(
        self, question: DecisionQuestion, principal: Principal, moment: Moment
    ) -> DecisionDetails:
        """Raises the GatewayError of a request that does not come as far as a plan."""
        call, headers = question.call, question.wire_headers()
        route = self._routes.of(principal, call.model, moment.now)
        classified = await self._classifier.classify(call, question.body, principal, headers)
        if classified.stand_in is not None:
            call = sized_for(call, classified.stand_in)
        decision = route.decide("", call, classified, msgspec.structs.replace(moment, headers=headers))
        return DecisionDetails(call=call, principal=principal, classified=classified, decision=decision)

    def principal(self, question: DecisionQuestion) -> Principal:
        """Who is meant. Raises PermissionDenied, InvalidApiKey or InvalidRequest."""
        feature = question.headers.get(FEATURE_HEADER, question.feature)
        if question.key is None:
            return self._keyless(feature or "")
        entry = next((item for item in self._tenancy.keys.values() if item.name == question.key), None)
        if entry is None:
            known = ", ".join(sorted(item.name for item in self._tenancy.keys.values()))
            raise InvalidApiKey(f"There is no key '{question.key}'. Known: {known or 'none'}.")
        principal = entry.default if feature is None else entry.by_feature.get(feature)
        if principal is None:
            raise PermissionDenied(f"The key '{question.key}' may not act for the feature '{feature}'.")
        return principal

    def _check_expiry(self, question: DecisionQuestion, now: float) -> None:
        for entry in self._tenancy.keys.values():
            if entry.name == question.key and entry.expires_at is not None and now >= entry.expires_at:
                raise InvalidApiKey(f"The API key '{entry.name}' has expired. Ask its owner for a new one.")

    def _keyless(self, feature: str) -> Principal:
        principal = self._tenancy.keyless.get(feature)
        if principal is None:
            known = ", ".join(sorted(name for name in self._tenancy.keyless if name))
            raise InvalidRequest(f"There is no feature '{feature}'. Known: {known or 'none'}.")
        return principal

    def _explanation(
        self, question: DecisionQuestion, principal: Principal | None, **known: Any
    ) -> Explanation:
        return Explanation(
            policy=self._routes.policy.version,
            model=question.call.model,
            key=principal.key if principal else question.key or "",
            feature=principal.feature if principal else question.feature or "",
            team=principal.team if principal else "",
            **known,
        )

    def _privacy(self, question: DecisionQuestion, decided: DecisionDetails) -> ExplainedPrivacy:
        classified, principal = decided.classified, decided.principal
        if classified.raised_by:
            raised_by = ", ".join(dict.fromkeys(in_words(item.by) for item in classified.raised_by))
        elif classified.privacy != principal.floor:
            raised_by = f"header {PRIVACY_HEADER}"
        else:
            raised_by = principal.floor_from
        if classified.stand_in is not None:
            raised_by += f" ({_masking(classified.stand_in)})"
        return ExplainedPrivacy(classified.privacy, raised_by)

    def _verdicts(self, decided: DecisionDetails, moment: Moment) -> list[CandidateVerdict]:
        decision = decided.decision
        kept = decision.candidates if isinstance(decision, Sent) else ()
        verdicts = [
            self._verdict(decided, item.deployment, moment, _why_kept(decision, number, len(kept)))
            for number, item in enumerate(kept, 1)
        ]
        for excluded in decision.excluded:
            deployment = self._routes.policy.deployments[excluded.deployment]
            verdicts.append(self._verdict(decided, deployment, moment, excluded))
        return verdicts

    def _verdict(
        self,
        decided: DecisionDetails,
        deployment: Deployment,
        moment: Moment,
        verdict: Excluded | tuple[str, int | None],
    ) -> CandidateVerdict:
        route = self._routes.of(decided.principal, decided.call.model, moment.now)
        call, candidate = decided.call, route.candidate(deployment)
        pool = candidate.replica_set
        counted = (moment.counted or {}).get(deployment.name)
        expected: Estimate = estimate(call, pool, moment.monotonic, counted)
        removed = verdict if isinstance(verdict, Excluded) else None
        reason, line = (verdict.detail, verdict.line) if isinstance(verdict, Excluded) else verdict
        return CandidateVerdict(
            deployment=deployment.name,
            zone=deployment.zone,
            kept=removed is None,
            reason=reason,
            line=line,
            constraint=removed.constraint if removed else None,
            estimated_cost_usd=likely_nano(call, candidate, expected) / NANO_PER_USD,
            estimated_seconds=pool.expected_seconds(expected.output, moment.monotonic) or None,
        )


def _why_kept(decision: Sent | Refused, number: int, count: int) -> tuple[str, int | None]:
    by: Model | Rule = decision.rule or decision.model
    line = by.line
    source = f"rule {by.number}" if isinstance(by, Rule) else f"model {by.name}"
    if count == 1:
        return f"the only one that remains ({source})", line
    how = "in the order given" if by.prefer is Objective.ORDER else f"by {by.prefer}"
    return f"number {number} of {count} {how} ({source})", line


def _masking(stand_in: StandIn) -> str:
    count = len(stand_in.masked.originals)
    masked = "1 value" if count == 1 else f"{count} values"
    home = ", ".join(sorted(stand_in.zones)) or "no zone"
    return f"{masked} masked; as it is, of class {stand_in.privacy}, only to {home}"


def _refusal(error: GatewayError, decided: DecisionDetails | None = None) -> ExplainedRefusal:
    message = error.message
    if isinstance(error, PrivacyViolation) and decided is not None:
        message = f"{message} {raise_reasons(decided.classified, decided.principal.feature)}".rstrip()
    return ExplainedRefusal(error.status, error.code, message)
