"""Counts the prompts that are near their context's end: with OpenAI's vocabulary, or at the server itself.

A count is worth a wait of one second and no more. Where there is none, the estimate by bytes does.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog

from gateway.core.call import Call
from gateway.core.catalog import Api
from gateway.core.errors import UpstreamFailure
from gateway.core.heads import request_head
from gateway.core.json_bounds import values_at_most
from gateway.core.replica_state import ReplicaState
from gateway.core.screening import StandIn
from gateway.core.sent import Candidate
from gateway.detect.text import find_text
from gateway.dialects.outgoing import adapted
from gateway.dialects.table import PromptCount
from gateway.ports import Clock, Upstream, UpstreamRequest
from gateway.tokenizers.o200k import TokenizerMissing, count_pieces, load_o200k

_log = structlog.get_logger("tollway.tokens")

COUNT_SECONDS = 1.0
# After a failure a deployment's prompts are estimated for so long.
PAUSE_SECONDS = 60.0
MOST_COUNTED_BYTES = 4 * 1024 * 1024
MOST_COUNTED_VALUES = 50_000
MOST_ANSWER_BYTES = 64 * 1024 * 1024
MOST_AT_ONCE = 8
MOST_THREADS = 2

# What a server's chat template reads.
_READ = ("messages", "prompt", "tools", "chat_template_kwargs", "add_generation_prompt")
_READ_MORE = ("continue_final_message", "add_special_tokens")


class NotCounted(Exception):
    """Why a prompt could not be counted; it holds no prompt text."""


class PromptCounter:
    """Counts prompts for the deployments whose dialect says how. One for the whole process."""

    def __init__(self, upstream: Upstream, clock: Clock, seconds: float = COUNT_SECONDS) -> None:
        """No count takes longer than `seconds`."""
        self._seconds = seconds
        self._upstream = upstream
        self._clock = clock
        self._paused_until: dict[str, float] = {}
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)
        self._threads = asyncio.Semaphore(MOST_THREADS)

    async def count(
        self, call: Call, stand_in: StandIn | None, candidates: Sequence[Candidate]
    ) -> Mapping[str, int]:
        """The prompt's tokens by deployment, for those of `candidates` that could tell in time.

        Each is shown what would be sent to it, so `candidates` may be only those that privacy allows.
        """
        if call.media.bytes or call.prompts != 1 or call.api is Api.EMBEDDINGS:
            return {}
        now = self._clock.monotonic()
        able = [one for one in candidates if self._paused_until.get(one.name, 0.0) <= now]
        counts = await asyncio.gather(*[self._count(call, stand_in, one) for one in able])
        return {one.name: tokens for one, tokens in zip(able, counts, strict=True) if tokens is not None}

    async def _count(self, call: Call, stand_in: StandIn | None, candidate: Candidate) -> int | None:
        rest = _sent_to(call, stand_in, candidate)
        dialect = candidate.replica_set.dialect
        if dialect.counts is PromptCount.ESTIMATE or len(rest) > MOST_COUNTED_BYTES:
            return None
        if values_at_most(rest) > MOST_COUNTED_VALUES:  # reading them again would hold others up
            return None
        try:
            async with asyncio.timeout(self._seconds):
                if dialect.counts is PromptCount.O200K:
                    async with self._threads:
                        return await asyncio.to_thread(_by_vocabulary, rest)
                async with self._at_once:
                    return await self._at_server(adapted(rest, call.members, dialect)[0], candidate)
        except (TimeoutError, UpstreamFailure, NotCounted, TokenizerMissing) as exc:
            self._paused_until[candidate.name] = self._clock.monotonic() + PAUSE_SECONDS
            why = str(exc) or f"no answer within {self._seconds} s"
            _log.info("prompt.not_counted", deployment=candidate.name, detail=why)
            return None

    async def _at_server(self, rest: bytes, candidate: Candidate) -> int:
        """Raises UpstreamFailure or NotCounted."""
        now, replica_set = self._clock.monotonic(), candidate.replica_set
        replica = next((state for state in replica_set.replicas if state.available(now)), None)
        if replica is None:
            raise NotCounted("no replica is available")
        response = await self._upstream.send(_question(rest, candidate, replica))
        try:
            body = await response.read(MOST_ANSWER_BYTES)
        finally:
            response.abort()
        if response.status != 200:
            raise NotCounted(f"/tokenize answered with status {response.status}")
        return _told(body)


def _sent_to(call: Call, stand_in: StandIn | None, candidate: Candidate) -> bytes:
    if stand_in is None or candidate.deployment.zone in stand_in.zones:
        return call.rest
    return stand_in.masked.rest


def _by_vocabulary(rest: bytes) -> int:
    # tiktoken keeps the vocabulary once it is loaded.
    return count_pieces(load_o200k(), find_text(orjson.loads(rest)).pieces)


def _question(rest: bytes, candidate: Candidate, replica: ReplicaState) -> UpstreamRequest:
    server, deployment = replica.replica, candidate.deployment
    target = f"{server.base_path.removesuffix('/v1')}/tokenize{server.query}"
    read: dict[str, Any] = orjson.loads(rest)
    asked = {name: read[name] for name in (*_READ, *_READ_MORE) if name in read}
    return UpstreamRequest(
        head=request_head(server.endpoint, b"POST", target.encode("ascii"), deployment.headers),
        body=orjson.dumps({"model": deployment.model, **asked}),
    )


def _told(body: bytes) -> int:
    """Raises NotCounted where `body` is no answer of `/tokenize`."""
    try:
        answer = orjson.loads(body)
        count = answer["count"] if "count" in answer else len(answer["tokens"])
    except (ValueError, TypeError, KeyError) as exc:
        raise NotCounted("/tokenize told no count") from exc
    if not isinstance(count, int) or count < 1:
        raise NotCounted("/tokenize told no count")
    return count
