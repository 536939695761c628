"""The app that both simulators are: routing, refusals, faults, and handing a checked call to a generation."""

import time
from typing import Any

import msgspec
import orjson

from gateway.simulators import faults
from gateway.simulators.answers import Answer, Composer
from gateway.simulators.attempts import Recorder, SeenAttempt
from gateway.simulators.control import Control
from gateway.simulators.dialect import Dialect
from gateway.simulators.error_shapes import error_reply
from gateway.simulators.exchange import Receive, Reply, Scope, Send, SimulatedExchange, received
from gateway.simulators.generation import Generation, Job
from gateway.simulators.knobs import ErrorKind
from gateway.simulators.prompts import Prompt, PromptReader
from gateway.simulators.refusals import SimulatedRefusal
from gateway.simulators.requests import Json, SimulatedCall, SimulatedEndpoint, parsed, read_call
from gateway.simulators.state import State
from gateway.simulators.wire import Wire

_ENDPOINTS = {endpoint.value: endpoint for endpoint in SimulatedEndpoint}


class SimulatorApp:
    """Plain ASGI. Needs a server that puts a `Connection` into the scope: SimulatorProtocol."""

    def __init__(self, dialect: Dialect, state: State) -> None:
        self._dialect = dialect
        self._state = state
        self._control = Control(state)
        self._reader = PromptReader(state.tokenizer, dialect.modalities)
        self._composer = Composer(state.tokenizer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = await received(scope, receive, send)
        if exchange is None:
            return
        if exchange.path.startswith("/_sim/"):
            await exchange.reply(self._control.answer(exchange))
        elif exchange.method == "POST":
            recorder = self._state.attempts.register(exchange.path, exchange.headers, exchange.body)
            await self._attempt(exchange, recorder)
        else:
            await self._reply(exchange)

    async def _reply(self, exchange: SimulatedExchange) -> None:
        """Answer what is no attempt: lists, health, metrics."""
        try:
            self._dialect.authorize(exchange, self._state.knobs)
            reply = self._dialect.answer(exchange, self._state)
        except SimulatedRefusal as refused:
            reply = self._refusal(refused)
        await exchange.reply(reply, self._dialect.headers(exchange, self._state))

    async def _attempt(self, exchange: SimulatedExchange, recorder: Recorder) -> None:
        try:
            self._dialect.authorize(exchange, self._state.knobs)
            endpoint = _ENDPOINTS.get(exchange.path)
            if endpoint is None:
                await self._plain(exchange, recorder)
            else:
                await self._generate(exchange, recorder, endpoint)
        except SimulatedRefusal as refused:
            recorder.attempt.status = refused.status
            recorder.finish(f"rejected:{refused.status}")
            await exchange.reply(self._refusal(refused), self._dialect.headers(exchange, self._state))

    def _refusal(self, refused: SimulatedRefusal) -> Reply:
        return error_reply(refused, self._dialect.envelope(refused), self._state.knobs)

    # Answers in one piece: embeddings, tokenize

    async def _plain(self, exchange: SimulatedExchange, recorder: Recorder) -> None:
        reply = self._dialect.answer(exchange, self._state)
        attempt = recorder.attempt
        attempt.model, attempt.prompt_tokens = _model_in(exchange.body), reply.prompt_tokens
        self._admit(attempt, 1)
        fault = self._state.next_fault()
        if fault is not None and await self._struck(fault, exchange, recorder):
            return
        attempt.status = reply.status
        headers = self._dialect.headers(exchange, self._state)
        recorder.finish("completed" if fault is None else f"error:{fault}")
        if fault is not None and fault in faults.MIDWAY:
            await faults.broken_reply(fault, exchange, reply.body, headers)
            return
        body = _without_usage(reply.body) if fault is ErrorKind.NO_USAGE else reply.body
        attempt.usage_sent = fault is not ErrorKind.NO_USAGE
        await exchange.reply(msgspec.structs.replace(reply, body=body), headers)

    # Generations

    async def _generate(
        self, exchange: SimulatedExchange, recorder: Recorder, endpoint: SimulatedEndpoint
    ) -> None:
        attempt = recorder.attempt
        document = parsed(exchange.body)
        attempt.model, attempt.stream = _text(document.get("model")), document.get("stream") is True
        call = read_call(endpoint, document)
        if call.model not in self._dialect.models(self._state.knobs):
            raise self._dialect.unknown_model(call.model)
        prompt = self._reader.read(call)
        limit = self._dialect.check(call, document, prompt, self._state.knobs)
        attempt.prompt_tokens = prompt.tokens
        self._admit(attempt, self._dialect.sequences(call))
        fault = self._state.next_fault()
        if fault is not None and await self._struck(fault, exchange, recorder):
            return
        factor = self._dialect.modalities.text_factor
        attempt.cached_tokens = self._state.cached_tokens(prompt.ids, prompt.tokens, factor)
        job = Job(
            exchange=exchange,
            recorder=recorder,
            call=call,
            prompt=prompt,
            cached_tokens=attempt.cached_tokens,
            answers=self._answers(call, prompt, limit),
            wire=self._wire(exchange, call, prompt, attempt.cached_tokens),
            headers=self._dialect.headers(exchange, self._state),
            fault=fault,
        )
        await Generation(job, self._state, self._dialect).run()

    def _admit(self, attempt: SeenAttempt, sequences: int) -> None:
        """Raises Refused when the server is down or full. A refusal here uses up no fault."""
        knobs = self._state.knobs
        if not knobs.healthy:
            raise self._dialect.fault(ErrorKind.SERVER_ERROR, knobs, attempt.model or "")
        if knobs.max_concurrency and self._state.slots.sequences + sequences > knobs.max_concurrency:
            raise self._dialect.fault(self._dialect.overload, knobs, attempt.model or "")

    async def _struck(self, fault: ErrorKind, exchange: SimulatedExchange, recorder: Recorder) -> bool:
        """True when the fault took the place of the answer."""
        attempt = recorder.attempt
        if fault is ErrorKind.ERROR_BODY:
            error = self._refusal(faults.refusal(self._state.knobs)).body
            attempt.status = 200
            recorder.finish(f"error:{fault}")
            await faults.error_in_place(exchange, error, stream=attempt.stream)
            return True
        if fault in faults.REFUSALS or (fault is ErrorKind.ERROR_EVENT and not attempt.stream):
            kind = fault if fault in faults.REFUSALS else ErrorKind.SERVER_ERROR
            refused = (
                faults.refusal(self._state.knobs)
                if kind is ErrorKind.REFUSAL
                else self._dialect.fault(kind, self._state.knobs, attempt.model or "")
            )
            attempt.status = refused.status
            recorder.finish(f"error:{fault}")
            await exchange.reply(self._refusal(refused), self._dialect.headers(exchange, self._state))
            return True
        if fault not in faults.INSTEAD:
            return False
        recorder.finish(f"error:{fault}")
        attempt.status = await faults.instead_of_answer(fault, exchange)
        if fault is ErrorKind.TIMEOUT:
            recorder.disconnected()
        return True

    def _answers(self, call: SimulatedCall, prompt: Prompt, limit: int) -> list[Answer]:
        knobs = self._state.knobs
        choices = call.choices_per_prompt * max(len(call.prompts), 1)
        return [
            self._composer.compose(
                call, prompt, index=index, seed=knobs.seed, output_tokens=knobs.output_tokens, limit=limit
            )
            for index in range(choices)
        ]

    def _wire(
        self, exchange: SimulatedExchange, call: SimulatedCall, prompt: Prompt, cached_tokens: int
    ) -> Wire:
        dialect = self._dialect
        return Wire(
            call,
            dialect.shape(call),
            ident=dialect.ident(exchange, call),
            created=int(time.time()),
            model=dialect.reported_model(call.model),
            usage_of=dialect.usage(prompt, cached_tokens),
            odd_values=self._state.knobs.odd_values,
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _model_in(body: bytes) -> str | None:
    try:
        return _text(parsed(body).get("model"))
    except SimulatedRefusal:
        return None


def _without_usage(body: bytes) -> bytes:
    document: Json = orjson.loads(body)
    document.pop("usage", None)
    return orjson.dumps(document)
