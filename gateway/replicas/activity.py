"""Whether an engine behind its server moves: by its own counters, and by a request of one token."""

import asyncio
import re

import orjson
import structlog

from gateway.core.balancing import ReplicaSet
from gateway.core.catalog import Api
from gateway.core.endpoint import Endpoint
from gateway.core.errors import UpstreamFailure
from gateway.core.heads import request_head
from gateway.core.replica_state import ReplicaState
from gateway.ports import Upstream, UpstreamRequest

_log = structlog.get_logger("tollway.health")

MAX_PAGE_BYTES = 8 * 1024 * 1024
MAX_ANSWER_BYTES = 1024 * 1024
TRIAL_SECONDS = 10.0
PATH = b"/metrics"

# Series of vLLM that its engine moves: tokens with each answer, the rest with each step of a long prefill.
_MOVES = re.compile(
    rb"^vllm:(?:generation_tokens_total|prompt_tokens_total|iteration_tokens_total_sum|kv_cache_usage_perc"
    rb"|num_requests_running|num_requests_waiting)\{[^}]*\} \S+",
    re.MULTILINE,
)


class ActivityReader:
    """The counters of one server. `moved_at`: when they were last seen to change (monotonic seconds)."""

    def __init__(self, upstream: Upstream, endpoint: Endpoint) -> None:
        self.moved_at = 0.0
        self._upstream = upstream
        self._head = request_head(endpoint, b"GET", PATH)
        self._seen: list[bytes] | None = None

    async def read(self, now: float, timeout_seconds: float) -> bool:
        """Look at them at `now`. False: this server does not tell."""
        try:
            async with asyncio.timeout(timeout_seconds):
                found = _MOVES.findall(await self._page())
        except (TimeoutError, UpstreamFailure):
            return False
        if not found:
            return False
        if self._seen is not None and found != self._seen:
            self.moved_at = now
        self._seen = found
        return True

    async def _page(self) -> bytes:
        response = await self._upstream.send(UpstreamRequest(head=self._head, body=b""))
        try:
            page = await response.read(MAX_PAGE_BYTES)
        finally:
            response.abort()
        return page if response.status == 200 else b""


class Trial:
    """A completion of one token, for a replica that was found stuck. Nobody is charged for it."""

    def __init__(self, upstream: Upstream, replica_set: ReplicaSet, state: ReplicaState) -> None:
        self._upstream = upstream
        self._state = state
        body = orjson.dumps({"model": replica_set.deployment.model, "prompt": "1", "max_tokens": 1})
        self._request = UpstreamRequest(head=replica_set.heads[state][Api.COMPLETIONS], body=body)

    async def run(self) -> None:
        """Bring the replica back if it answers."""
        state = self._state
        if state.is_stuck and await self._is_answered():
            state.is_stuck, state.is_up = False, True  # the next probe may know better
            state.succeeded()
            _log.info("replica.unstuck", replica=state.replica.name)

    async def _is_answered(self) -> bool:
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                response = await self._upstream.send(self._request)
                try:
                    await response.read(MAX_ANSWER_BYTES)
                finally:
                    response.abort()
        except (TimeoutError, UpstreamFailure):
            return False
        # A refusal of the request says nothing of the engine: it gets requests again, and is watched again.
        return response.status < 500 and response.status != 429
