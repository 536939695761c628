"""A client of the gateway: sends a sample in OpenAI's wire format and says what became of it.

What went where is read off the outside: response headers, the usage in the body, and what the simulators saw.
"""

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import orjson

from gateway.core.catalog import Api
from gateway.core.causes import written
from gateway.core.parse import parse_call
from gateway.core.pricing import cost
from gateway.core.tenancy import Principal
from gateway.core.usage import Usage
from gateway.core.wire_usage import WireUsage, usage_from_wire
from gateway.demo.failure import DemoFailed
from gateway.demo.samples import Sample
from gateway.demo.stage import Stage

REQUEST_SECONDS = 15.0
_PRIVACY_HEADER = "x-tollway-privacy"


class Visit(msgspec.Struct, frozen=True):
    """One server that saw a request. `replica` counts from 1; 0 for GPT-4o. `status` None: still at it."""

    replica: int
    status: int | None


class Class(msgspec.Struct, frozen=True):
    """A request's privacy class, and in words what made it so."""

    privacy: str
    raised_by: str


class SampleOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one sample. Without an answer, `deployment` is empty and `problem` says why."""

    sample: Sample
    status: int
    request_id: str
    classified: Class
    deployment: str
    zone: str
    decision: str
    visits: tuple[Visit, ...]
    usage: Usage
    cost_nano: int
    seconds: float
    problem: str
    tool_call: Mapping[str, Any] | None

    @property
    def is_answered(self) -> bool:
        return self.status == 200 and not self.problem

    @property
    def is_as_expected(self) -> bool:
        return self.status == 403 if self.sample.is_refused else self.is_answered


class _Body(msgspec.Struct):
    """The parts of an answer that the demo shows, from a whole body or put together from a stream."""

    usage: WireUsage
    problem: str = ""
    tool_call: dict[str, Any] | None = None


class Client:
    """The applications of all features, and the operator who reads the metrics: `async with Client(...)`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        # trust_env: a proxy in the environment must not get to see what is meant for loopback.
        self._http = httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def send(self, sample: Sample) -> SampleOutcome:
        """Raises DemoFailed when the gateway cannot be talked to at all."""
        raw = orjson.dumps(sample.body)
        headers = {
            "authorization": f"Bearer {self._stage.keys[sample.feature]}",
            "content-type": "application/json",
        }
        if sample.privacy is not None:
            headers[_PRIVACY_HEADER] = sample.privacy
        classified = await self._classify(sample, raw)
        started = time.monotonic()
        url = f"{self._stage.gateway.data_url}/v1/chat/completions"
        try:
            response = await self._http.post(url, content=raw, headers=headers)
        except httpx.HTTPError as exc:
            raise DemoFailed(f"{sample.feature}, {sample.title}: {exc or type(exc).__name__}") from exc
        return self._outcome(sample, classified, response, time.monotonic() - started)

    async def metrics(self) -> str:
        """The page that Prometheus reads."""
        headers = {"authorization": f"Bearer {self._stage.admin_token}"}
        try:
            response = await self._http.get(f"{self._stage.gateway.admin_url}/metrics", headers=headers)
        except httpx.HTTPError as exc:
            raise DemoFailed(f"/metrics: {exc or type(exc).__name__}") from exc
        if response.status_code != 200:
            raise DemoFailed(f"/metrics answered {response.status_code}")
        return response.text

    async def _classify(self, sample: Sample, raw: bytes) -> Class:
        """The gateway's own classifier, asked once more: no header tells a client what was found."""
        rules = self._stage.gateway.pipeline.rulebook
        call, body = parse_call(Api.CHAT, raw, rules.max_messages)
        principal = _principal(self._stage, sample.feature)
        headers = {} if sample.privacy is None else {_PRIVACY_HEADER.encode(): sample.privacy.encode()}
        classified = await rules.classifier.classify(call, body, principal, headers)
        if classified.raised_by:
            found = sorted(written(item.by) for item in classified.raised_by)
            return Class(classified.privacy, f"found {', '.join(found)}")
        if classified.privacy != principal.floor:
            return Class(classified.privacy, f"header {_PRIVACY_HEADER}")
        return Class(classified.privacy, "its feature's class")

    def _outcome(
        self, sample: Sample, classified: Class, response: httpx.Response, seconds: float
    ) -> SampleOutcome:
        headers = response.headers
        body = _body(response)
        deployment = headers.get("x-tollway-deployment", "")
        usage = usage_from_wire(body.usage).usage
        request_id = headers.get("x-request-id", "")
        return SampleOutcome(
            sample=sample,
            status=response.status_code,
            request_id=request_id,
            classified=classified,
            deployment=deployment,
            zone=headers.get("x-tollway-zone", ""),
            decision=headers.get("x-tollway-decision", ""),
            visits=_visits(self._stage, request_id),
            usage=usage,
            cost_nano=self._cost_nano(deployment, usage),
            seconds=seconds,
            problem=body.problem,
            tool_call=body.tool_call,
        )

    def _cost_nano(self, deployment: str, usage: Usage) -> int:
        """As the ledger has it. A stream's headers come before its cost is known, so it is computed again."""
        if not deployment:
            return 0
        return cost(self._stage.built.policy.deployments[deployment].price.standard, usage)


def _principal(stage: Stage, feature: str) -> Principal:
    return next(
        entry.default for entry in stage.built.tenancy.keys.values() if entry.default.feature == feature
    )


def _visits(stage: Stage, request_id: str) -> tuple[Visit, ...]:
    """The servers that saw the request, in the order of its attempts."""
    seen = [
        (attempt.attempt_id or "", Visit(replica, attempt.status))
        for replica, simulator in enumerate((stage.gpt_4o, *stage.llama_4))
        for attempt in simulator.attempts()
        if attempt.request_id == request_id
    ]
    return tuple(visit for _, visit in sorted(seen, key=lambda pair: pair[0]))


def _body(response: httpx.Response) -> _Body:
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return _from_stream(response.text)
    answer = response.json()
    if response.status_code != 200:
        return _Body({}, problem=str(answer["error"]["message"]))
    message = answer["choices"][0]["message"]
    tool_call = next(iter(message.get("tool_calls") or ()), None)
    return _Body(_wire_usage(answer), tool_call=tool_call)


def _from_stream(text: str) -> _Body:
    body = _Body({}, problem="the stream ended without [DONE]")
    for line in text.splitlines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            body.problem = ""
            break
        _add_event(body, json.loads(line[len("data: ") :]))
    return body


def _add_event(body: _Body, event: Mapping[str, Any]) -> None:
    if "error" in event:
        body.problem = str(event["error"]["message"])
    if event.get("usage"):
        body.usage = _wire_usage(event)
    for choice in event.get("choices", ()):
        for part in choice["delta"].get("tool_calls") or ():
            body.tool_call = _joined(body.tool_call, part)


def _joined(so_far: dict[str, Any] | None, part: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call's name comes with its first piece, its arguments bit by bit."""
    if so_far is None:
        return {"id": part["id"], "type": "function", "function": dict(part["function"])}
    so_far["function"]["arguments"] += part["function"].get("arguments", "")
    return so_far


def _wire_usage(answer: Mapping[str, Any]) -> WireUsage:
    return dict(answer.get("usage") or {})
