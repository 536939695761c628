"""The straight line of a request, readable in one screen.

receive, authenticate, parse once, classify, plan, hold, forward or stream, meter, settle, record.
"""

import asyncio
from collections.abc import Callable
from zoneinfo import ZoneInfo

import msgspec
import structlog

from gateway.core.admission import Hold
from gateway.core.audit import Denial
from gateway.core.call import Call
from gateway.core.catalog import Api, Model
from gateway.core.errors import GatewayError, ModelNotFound, PrivacyViolation, Unavailable
from gateway.core.estimate import ask_for
from gateway.core.facts import Moment, local_time, no_header, recorded_facts, tags_of
from gateway.core.parse import parse_call
from gateway.core.policy import Plan, Planner, Policy
from gateway.core.pricing import NO_VERSIONS, PriceBook
from gateway.core.screening import Classified, raise_reasons, sized_for
from gateway.core.tenancy import Principal
from gateway.ports import Admission, Clock, Inbound, Ledger, Sink, Telemetry
from gateway.proxy.auth import Authenticator
from gateway.proxy.classify import Classifier
from gateway.proxy.failover import Relay
from gateway.proxy.target import Request

_log = structlog.get_logger("tollway.pipeline")

LEDGER_WAIT_SECONDS = 5.0


class Rulebook(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One version of the configuration, as the pipeline reads it. Swapped whole on a reload."""

    planner: Planner
    classifier: Classifier
    authenticator: Authenticator
    time_zone: ZoneInfo
    org: str
    max_body_bytes: int
    max_messages: int


class Pipeline:
    """Answers requests. `rulebook` and `prices` may be replaced at any time: a request keeps its own."""

    def __init__(
        self,
        *,
        rulebook: Rulebook,
        admission: Admission,
        ledger: Ledger,
        relay: Relay,
        telemetry: Telemetry,
        clock: Clock,
        random: Callable[[], float],
        denied: Callable[[Denial], None],
    ) -> None:
        """`denied` is told of each request that privacy kept in."""
        self.rulebook = rulebook
        self.prices = NO_VERSIONS
        # Until it is set, the spending of budgets, or the prices, are not known yet.
        self.opened = asyncio.Event()
        self._admission = admission
        self._ledger = ledger
        self._relay = relay
        self._telemetry = telemetry
        self._clock = clock
        self._random = random
        self._denied = denied

    async def complete(self, api: Api, request_id: str, inbound: Inbound, sink: Sink) -> None:
        """Answer one request to `api`. Raises the GatewayError that the client is to see."""
        started = self._clock.monotonic()
        rules, prices = self.rulebook, self.prices
        principal: Principal | None = None
        model: Model | None = None
        try:
            principal = rules.authenticator.authenticate(inbound, self._clock.now())
            call, body = parse_call(api, await inbound.body(rules.max_body_bytes), rules.max_messages)
            model = find_model(rules.planner.policy, principal, call.model)
            named = inbound.header(b"x-tollway-privacy")
            classified = await rules.classifier.classify(call, body, principal, named)
            del body  # the prompt is no longer needed as a value: free it while the upstream works
            if classified.stand_in is not None:
                call = sized_for(call, classified.stand_in)
            moment = self._moment(principal, rules.time_zone, prices, inbound.header)
            plan = _plan(rules.planner, call, principal, model, classified, moment)
            facts = recorded_facts(call, principal, classified, named, moment, rules.planner.fleet)
            inbound.watch()
            hold = await self._hold(call, principal, plan, prices)
            self._telemetry.planned(
                model.name, plan.candidates[0].name, plan.decision, self._clock.monotonic() - started
            )
            request = Request(
                id=request_id,
                org=rules.org,
                principal=principal,
                call=call,
                plan=plan,
                policy_version=rules.planner.policy.version,
                tags=tags_of(call, inbound.header(b"x-tollway-tags")),
                facts=facts,
                started=started,
                prices=prices,
                stand_in=classified.stand_in,
            )
            await self._relay.forward(request, hold, rules.planner.fleet, inbound, sink)
        except GatewayError as error:
            self._telemetry.refused(error, principal, model.name if model else None)
            if isinstance(error, PrivacyViolation) and principal is not None:
                name = model.name if model else ""
                self._denied(Denial(request_id, principal.key, principal.feature, name, error.message))
            _log.info("request.refused", request_id=request_id, code=error.code, status=error.status)
            raise

    def authenticate(self, inbound: Inbound) -> Principal:
        """Who asks, for the endpoints that only read."""
        return self.rulebook.authenticator.authenticate(inbound, self._clock.now())

    def models(self, principal: Principal) -> list[Model]:
        """The models that `principal` may use."""
        models = self.rulebook.planner.policy.models
        return [model for name, model in models.items() if principal.may_use(name)]

    def find_model(self, principal: Principal, name: str) -> Model:
        """As `find_model`, under the policy in force."""
        return find_model(self.rulebook.planner.policy, principal, name)

    def moment(self, principal: Principal) -> Moment:
        """The circumstances of a decision now, for explaining one."""
        return self._moment(principal, self.rulebook.time_zone, self.prices, no_header)

    async def _hold(self, call: Call, principal: Principal, plan: Plan, prices: PriceBook) -> Hold:
        if not (self._ledger.has_room() and self.opened.is_set()):
            await self._wait_for_ledger()
        at = int(self._clock.now() * 1_000_000)
        return await self._admission.admit(
            ask_for(call, principal, plan.candidates, plan.estimates, prices, at)
        )

    async def _wait_for_ledger(self) -> None:
        # Slower is better than forgetting: nothing is sent that could not be written down.
        try:
            async with asyncio.timeout(LEDGER_WAIT_SECONDS):
                await self.opened.wait()
                await self._ledger.wait_for_room()
        except TimeoutError as exc:
            raise Unavailable(
                "The usage ledger is unavailable or cannot keep up. Retry shortly.",
                retry_after_seconds=LEDGER_WAIT_SECONDS,
            ) from exc

    def _moment(
        self,
        principal: Principal,
        zone: ZoneInfo,
        prices: PriceBook,
        header: Callable[[bytes], str | None],
    ) -> Moment:
        now = self._clock.now()
        # Once a request: a rule's condition and the recorded facts read it, and nothing is held in between.
        budget_used = self._admission.used_share(principal)
        return Moment(
            now=now,
            monotonic=self._clock.monotonic(),
            random=self._random(),
            budget_used=lambda: budget_used,
            local_time=lambda: local_time(now, zone),
            prices=prices,
            header=header,
        )


def _plan(
    planner: Planner, call: Call, principal: Principal, model: Model, classified: Classified, moment: Moment
) -> Plan:
    try:
        return planner.plan(call, principal, model, classified.privacy, moment)
    except PrivacyViolation as error:
        message = f"{error.message} {raise_reasons(classified, principal.feature)}"
        raise PrivacyViolation(message.rstrip(), param=error.param) from error


def find_model(policy: Policy, principal: Principal, name: str) -> Model:
    """Raises ModelNotFound, in the same words for a model that is unknown and one that is not allowed."""
    model = policy.models.get(name)
    allowed = principal.models
    if model is None or (allowed is not None and name not in allowed):
        raise ModelNotFound(
            f"The model '{name[:100]}' does not exist or you do not have access to it.", param="model"
        )
    return model
