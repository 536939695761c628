"""The straight line of a request, readable in one screen.

receive, authenticate, parse once, classify, decide, hold, forward or stream, meter, settle, record.
"""

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Api, Model
from gateway.core.control_headers import PRIORITY, priority_in, wants_cost_event
from gateway.core.errors import ClientDisconnected, GatewayError, InvalidApiKey, ModelNotFound, Unavailable
from gateway.core.facts import Moment
from gateway.core.json_bounds import LIGHT_BYTES, is_light
from gateway.core.overload import Priority
from gateway.core.parse import Body, parse_call
from gateway.core.policy import model_for
from gateway.core.pricing import PriceBook
from gateway.core.refused_request import KnownRequest
from gateway.core.route import Route, Routes
from gateway.core.screening import Classified, sized_for
from gateway.core.sent import Sent
from gateway.core.tenancy import Principal
from gateway.ports import Admission, Clock, Inbound, Ledger, Sink, Telemetry, TokenCounter
from gateway.proxy.auth import Authenticator
from gateway.proxy.classify import Classifier
from gateway.proxy.inlining import ImageInliner
from gateway.proxy.large_bodies.messages import LargeBody, ReadingRules
from gateway.proxy.large_bodies.reader import LargeBodyReader
from gateway.proxy.left_requests import LeavableRelay
from gateway.proxy.reach import ReachableModel, reachable
from gateway.proxy.unanswered import UnansweredRequests

LEDGER_WAIT_SECONDS = 5.0


class Rulebook(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One version of the configuration, as the pipeline reads it. Swapped whole on a reload."""

    routes: Routes
    classifier: Classifier
    authenticator: Authenticator
    images: ImageInliner | None = None
    max_body_bytes: int
    max_messages: int
    reading: ReadingRules


class Pipeline:
    """Answers requests. Its `rulebook` may be replaced at any time: a request keeps its own."""

    def __init__(
        self,
        *,
        rulebook: Rulebook,
        admission: Admission,
        ledger: Ledger,
        relay: LeavableRelay,
        telemetry: Telemetry,
        clock: Clock,
        random: Callable[[], float],
        unanswered: UnansweredRequests,
        counter: TokenCounter,
        large_bodies: LargeBodyReader,
    ) -> None:
        self.rulebook = rulebook
        # Until it is set, the spending of budgets, or the prices, are not known yet.
        self.opened = asyncio.Event()
        self._admission = admission
        self._ledger = ledger
        self.relay = relay
        self._telemetry = telemetry
        self._clock = clock
        self._random = random
        self.unanswered = unanswered
        self._counter = counter
        self._large_bodies = large_bodies

    async def complete(
        self, api: Api, request_id: str, inbound: Inbound, sink: Sink, model: str | None = None
    ) -> None:
        """Answer one request to `api`, for `model` where its address names one.

        Raises the GatewayError that the client is to see.
        """
        clock, rules = self._clock, self.rulebook
        started = clock.monotonic()
        principal: Principal | None = None
        call: Call | None = None
        route: Route | None = None
        classified: Classified | None = None
        sent: Sent | None = None
        try:
            headers = inbound.headers
            principal = rules.authenticator.authenticate(headers, clock.now())
            if PRIORITY in headers:
                priority_in(headers[PRIORITY])  # a mistake in it is told before the day when it matters
            self._admission.peek(principal)  # before the body costs anything
            raw = await inbound.body(rules.max_body_bytes, principal.key)
            body: Body | LargeBody
            if len(raw) <= LIGHT_BYTES or is_light(raw):
                call, body = parse_call(api, raw, rules.max_messages, model)
            else:
                call, body = await self._large_bodies.read(
                    raw, rules.classifier.question(api, model, principal, headers), rules.reading
                )
            del raw
            if call.stream:
                wants_cost_event(headers)  # a mistake in it is told before anything is paid for
            now = clock.now()
            route = rules.routes.of(principal, call.model, now)
            if call.media.is_remote and rules.images is not None:
                call, body = await rules.images.inline(call, body, principal, headers)
            classified = await rules.classifier.classify(call, body, principal, headers)
            del body  # the prompt is no longer needed as a value: free it while the upstream works
            if classified.stand_in is not None:
                call = sized_for(call, classified.stand_in)
            moment = Moment(
                now, clock.monotonic(), self._random(), self._admission.used_share(principal), headers
            )
            if call.text_bytes > route.roomy_bytes:
                moment = await self._counted(route, call, classified, moment)
            sent = route.begin(request_id, call, classified, moment, started)
            inbound.watch()
            if not (self._ledger.has_room() and self.opened.is_set()):
                await self._wait_for_ledger()
            hold = await self._admission.admit(sent.ask)
            self._telemetry.planned(sent, clock.monotonic() - started)
            relay = self.relay if route.goes_on else self.relay.relay
            await relay.forward(sent, hold, inbound, sink)
        except (GatewayError, ClientDisconnected, asyncio.CancelledError) as error:
            privacy = "" if classified is None else classified.privacy
            known = KnownRequest(request_id, started, api, principal, call, privacy)
            if isinstance(error, GatewayError):
                self._refused(error, known, inbound, route)
            elif sent is None or not sent.attempt_id:  # else its attempt tells
                self.unanswered.abandoned(known, inbound)
            raise

    def take_prices(self, prices: PriceBook) -> None:
        """Price what begins from now on by `prices`."""
        rules = self.rulebook
        self.rulebook = msgspec.structs.replace(rules, routes=rules.routes.at_prices(prices))

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Who asks, for the endpoints that only read."""
        return self.rulebook.authenticator.authenticate(headers, self._clock.now())

    def priority_of(self, headers: Mapping[bytes, bytes]) -> Priority:
        """How urgent a request is that has not begun."""
        return self.rulebook.authenticator.priority_of(headers)

    def models(self, principal: Principal) -> list[ReachableModel]:
        """The models that `principal` may use, and that can answer it now."""
        models = self.rulebook.routes.policy.models
        found = (
            self._reachable(model, principal) for name, model in models.items() if principal.may_use(name)
        )
        return [model for model in found if model is not None]

    def find_model(self, principal: Principal, name: str) -> ReachableModel:
        """One of `models`. Raises ModelNotFound."""
        found = self._reachable(model_for(self.rulebook.routes.policy, principal, name), principal)
        if found is None:
            raise ModelNotFound(
                f"No deployment of the model '{name}' can answer this key now.", param="model"
            )
        return found

    def _reachable(self, model: Model, principal: Principal) -> ReachableModel | None:
        routes, clock = self.rulebook.routes, self._clock
        return reachable(model, principal, routes.policy, routes.fleet, clock.now(), clock.monotonic())

    def moment(self, principal: Principal) -> Moment:
        """The circumstances of a decision now, for explaining one."""
        clock = self._clock
        return Moment(clock.now(), clock.monotonic(), self._random(), self._admission.used_share(principal))

    def _refused(
        self, error: GatewayError, known: KnownRequest, inbound: Inbound, route: Route | None
    ) -> None:
        """Tell of it. Raises what the client is to see in its place, if anything."""
        if isinstance(error, InvalidApiKey):
            self._drop_expired()
        answer = self.unanswered.refused(error, known, inbound)
        self._telemetry.refused(answer, known.principal, route.model.name if route else None)
        if answer is not error:
            raise answer from None

    async def _counted(self, route: Route, call: Call, classified: Classified, moment: Moment) -> Moment:
        """`moment` with the tokens of the prompt, where they matter and somebody can count them in time."""
        near = route.to_count(call, classified, moment.monotonic)
        counted = await self._counter.count(call, classified.stand_in, near) if near else {}
        return msgspec.structs.replace(moment, counted=counted) if counted else moment

    def _drop_expired(self) -> None:
        """Nobody will ask for their routes and accounts any more. What is in flight has its own."""
        rules = self.rulebook
        for expired in rules.authenticator.take_expired():
            rules.routes.drop(expired)
            self._admission.drop(expired)

    async def _wait_for_ledger(self) -> None:
        # Slower is better than forgetting: nothing is sent that could not be written down.
        try:
            async with asyncio.timeout(LEDGER_WAIT_SECONDS):
                await self._ledger.wait_for_room()
                await self.opened.wait()
        except TimeoutError as exc:
            raise Unavailable(
                "The usage ledger is unavailable or cannot keep up. Retry shortly.",
                retry_after_seconds=LEDGER_WAIT_SECONDS,
            ) from exc
