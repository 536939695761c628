"""The ledger against the counters of an engine: every token that a replica made must be in a row.

An engine and its usage count prompts differently. Each choice of `n` is a request of its own to the engine,
so `vllm:prompt_tokens_total` has the prompt once for each. Usage has it once, and so have ledger and bill.
"""

import re
from collections.abc import Iterable

import msgspec

from gateway.core.record import RecordedFacts
from gateway.ledger.past_attempts import EngineAttempt

_COUNTER = re.compile(r"^vllm:(prompt|generation)_tokens_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class NotCounters(ValueError):
    """A page of metrics that cannot be compared. The message says why."""


class EngineTokens(msgspec.Struct, frozen=True):
    """Tokens as an engine counts them: a prompt once for each choice."""

    prompt: int
    output: int


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides. `attempts` are those of the ledger, `estimated` those of them whose usage never came."""

    engine: EngineTokens
    ledger: EngineTokens
    attempts: int
    estimated: int

    @property
    def drift(self) -> EngineTokens:
        """What the engine counted beyond the ledger."""
        return EngineTokens(self.engine.prompt - self.ledger.prompt, self.engine.output - self.ledger.output)

    @property
    def agrees(self) -> bool:
        return self.drift == EngineTokens(0, 0)


def read_counters(page: str) -> EngineTokens:
    """The counters of a page of `/metrics`, all engines of the server added up. Raises NotCounters."""
    sums: dict[str, int] = {}
    for name, value in _COUNTER.findall(page):
        try:
            sums[name] = sums.get(name, 0) + int(float(value))
        except (ValueError, OverflowError):
            raise NotCounters(f"vllm:{name}_tokens_total is no number: {value}") from None
    if sums.keys() != {"prompt", "generation"}:
        raise NotCounters("no vllm:prompt_tokens_total and vllm:generation_tokens_total: not a page of vLLM")
    return EngineTokens(sums["prompt"], sums["generation"])


def counted_between(before: EngineTokens, after: EngineTokens) -> EngineTokens:
    """What was counted in between. Raises NotCounters where the engine began anew."""
    if after.prompt < before.prompt or after.output < before.output:
        raise NotCounters("the counters went back: the engine was restarted in between")
    return EngineTokens(after.prompt - before.prompt, after.output - before.output)


def reconcile(engine: EngineTokens, attempts: Iterable[EngineAttempt]) -> Reconciled:
    """`engine` against what the ledger says of the same time."""
    prompt = output = count = estimated = 0
    for attempt in attempts:
        count += 1
        estimated += bool(attempt.estimated)
        prompt += attempt.input_tokens * _choices(attempt.facts)
        output += attempt.output_tokens
    return Reconciled(engine=engine, ledger=EngineTokens(prompt, output), attempts=count, estimated=estimated)


def _choices(facts: str) -> int:
    return msgspec.json.decode(facts, type=RecordedFacts).choices
