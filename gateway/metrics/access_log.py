"""One line for each request: who asked, where it went and why, what came of it, and what it cost.

Lines are made past structlog's processors, at a fraction of their cost. `server.access_log` alone says which
are written, whatever the level of the log. They hold nothing of a request's content, and no secret.
"""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import structlog

from gateway.core.ended import Ended
from gateway.core.money import NANO_PER_USD
from gateway.core.record import Outcome
from gateway.core.refused_request import KnownRequest, RefusedRequest
from gateway.core.sent import Sent
from gateway.http.client_address import ClientAddresses
from gateway.metrics.log_output import LogOutput
from gateway.ports import Inbound

_SUCCESS = Outcome.SUCCESS
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


class RequestLines:
    """Writes events in the form of structlog's."""

    def __init__(
        self, output: LogOutput, marks: Mapping[str, object], renderer: structlog.typing.Processor | None
    ) -> None:
        """Every line has `marks`. `renderer` makes lines for people; without one they are JSON."""
        self.output = output
        self._marks = marks
        self._renderer = renderer

    def info(self, event: str, fields: dict[str, Any]) -> None:
        """Write `event`. `fields` become its line: as arguments they would cost more than all else here."""
        now = datetime.datetime.now(datetime.UTC)
        fields["event"], fields["level"], fields["timestamp"] = event, "info", now
        if self._marks:
            fields |= self._marks
        if self._renderer is None:
            self.output.put(orjson.dumps(fields, option=_OPTIONS))
        else:
            fields["timestamp"] = now.isoformat().replace("+00:00", "Z")
            self.output.write(f"{self._renderer(None, 'info', fields)!s}\n")


class AccessLog:
    """Told of every request once. `writes_all`: of those that went well too, a share of them."""

    def __init__(
        self,
        lines: RequestLines,
        *,
        writes_all: bool,
        sample: float,
        random: Callable[[], float],
        clients: ClientAddresses,
    ) -> None:
        """`sample` is the share of requests that went well of which a line is written."""
        self._log = lines
        self._clients = clients
        self._sample = sample
        self._random = random
        self.writes_all = writes_all

    def answered(self, sent: Sent, ended: Ended, inbound: Inbound, seconds: float) -> None:
        """A request ended with this attempt, after `seconds`."""
        outcome, usage = ended.outcome, ended.usage
        if outcome is _SUCCESS and self._sample < 1 and self._random() >= self._sample:
            return
        payer, candidate, ttft_ms = sent.principal, sent.candidate, ended.ttft_ms
        self._log.info(
            "request.answered",
            {
                "request_id": sent.request_id,
                "endpoint": sent.call.api,
                "key": payer.key,
                "feature": payer.feature,
                "team": payer.team,
                "model": sent.model.name,
                "deployment": candidate.name,
                "zone": candidate.deployment.zone,
                "replica": sent.replica.replica.name,
                "decision": sent.decision,
                "privacy": sent.sent_privacy,
                "raised_by": sent.finds,
                "stream": sent.call.stream,
                "status": ended.progress.status,
                "outcome": outcome,
                "attempts": sent.number,
                "input_tokens": usage.input_tokens,
                "cached_tokens": usage.cached_tokens,
                "output_tokens": usage.output_tokens,
                "estimated": ended.estimated,
                "cost_usd": ended.cost_nano / NANO_PER_USD,
                "duration_ms": _ms(seconds),
                "before_upstream_ms": _ms(ended.progress.sent_at - sent.started),
                "upstream_ms": int(ended.duration_ms * 1000) / 1000,
                "ttft_ms": None if ttft_ms is None else int(ttft_ms * 1000) / 1000,
                "peer": inbound.peer,
                "client": self._clients.of(inbound.peer, inbound.headers),
            },
        )

    def refused(
        self, refused: RefusedRequest, inbound: Inbound, seconds: float | None, left_out: int
    ) -> None:
        """A request was answered with an error, after `seconds`. `left_out` like it had no line before."""
        self._log.info(
            "request.refused",
            {
                "request_id": refused.request_id,
                "endpoint": refused.endpoint,
                "key": refused.key,
                "feature": refused.feature,
                "team": refused.team,
                "model": refused.model,
                "deployment": refused.deployment,
                "privacy": refused.privacy,
                "stream": refused.stream,
                "status": refused.status,
                "code": refused.code,
                "param": refused.param,
                "refused_by": refused.refused_by,
                "scope": refused.scope,
                "limit": refused.limit_name,
                "reason": refused.message,
                "attempts": refused.attempts,
                "duration_ms": None if seconds is None else _ms(seconds),
                "peer": inbound.peer,
                "client": self._clients.of(inbound.peer, inbound.headers),
                "left_out": left_out,
            },
        )

    def abandoned(self, known: KnownRequest, inbound: Inbound, seconds: float | None, left_out: int) -> None:
        """A request ended, after `seconds`, without an answer and before it was sent anywhere.

        `left_out` like it had no line before.
        """
        payer = known.principal
        self._log.info(
            "request.abandoned",
            {
                "request_id": known.request_id,
                "endpoint": known.api,
                "key": "" if payer is None else payer.key,
                "feature": "" if payer is None else payer.feature,
                "team": "" if payer is None else payer.team,
                "model": known.model,
                "duration_ms": None if seconds is None else _ms(seconds),
                "peer": inbound.peer,
                "client": self._clients.of(inbound.peer, inbound.headers),
                "left_out": left_out,
            },
        )


def _ms(seconds: float) -> float:
    """`seconds` in milliseconds, to the microsecond."""
    return int(seconds * 1_000_000) / 1000
