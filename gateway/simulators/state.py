"""What a running simulator knows and counts. One event loop owns it; nothing here waits."""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from gateway.simulators.attempts import AttemptLog
from gateway.simulators.knobs import ErrorKind, Knobs, checked, merged
from gateway.simulators.prefix_cache import PrefixCache
from gateway.simulators.slots import Slots
from gateway.simulators.tokens import SimulatorTokenizer


class State:
    """Knobs, attempts, slots and the prompt cache of one simulator. Raises InvalidKnob."""

    def __init__(self, knobs: Knobs, tokenizer: SimulatorTokenizer, prefix_cache: PrefixCache) -> None:
        self.knobs = checked(knobs)
        self.tokenizer = tokenizer
        self.attempts = AttemptLog()
        self.slots = Slots()
        self.aborts: set[Callable[[], None]] = set()  # one for each generation under way
        self._prefix_cache = prefix_cache
        self._random = Random(knobs.seed)  # noqa: S311  # reproducible on purpose

    def change(self, changes: Mapping[str, Any]) -> Knobs:
        """Merge changes into the knobs; a seed restarts the draw of faults and jitter. Raises InvalidKnob."""
        self.knobs = merged(self.knobs, changes)
        if "seed" in changes:
            self._random.seed(self.knobs.seed)
        return self.knobs

    def next_fault(self) -> ErrorKind | None:
        """Decide whether the request at hand fails; uses up one of `fail_next`."""
        if self.knobs.fail_next:
            self.knobs = merged(self.knobs, {"fail_next": self.knobs.fail_next - 1})
            return self.knobs.error_kind
        if self.knobs.error_rate and self._random.random() < self.knobs.error_rate:
            return self.knobs.error_kind
        return None

    def cached_tokens(self, ids: Any, prompt_tokens: int, text_factor: float) -> int:
        """Prompt tokens served from the cache, in whole blocks and never the whole prompt."""
        if not self.knobs.prompt_caching:
            return 0
        block = self._prefix_cache.block_tokens
        known = int(self._prefix_cache.visit(ids) * text_factor)
        return min(known, prompt_tokens - 1) // block * block

    def ttft_seconds(self, uncached_tokens: int) -> float:
        knobs = self.knobs
        seconds = knobs.ttft_ms / 1000
        if knobs.ttft_jitter_ms:
            seconds += self._random.uniform(-1, 1) * knobs.ttft_jitter_ms / 1000
        if knobs.prefill_tokens_per_second:
            seconds += uncached_tokens / knobs.prefill_tokens_per_second
        return max(seconds, 0.0)

    def abort_all(self) -> int:
        """End every generation under way as vLLM does when it is told to stop. Returns how many."""
        for abort in list(self.aborts):
            abort()
        return len(self.aborts)
