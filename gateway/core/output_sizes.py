"""How long the answers of each feature and model really are, for limits that hold a typical answer.

Sizes are output tokens of one choice. What is learned lives as long as its process; every process learns by
itself. Money is always held for the longest answer, so nothing here concerns budgets.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import ceil

import msgspec

from gateway.core.admission import Ask, Hold
from gateway.core.call import Call
from gateway.core.catalog import Api
from gateway.core.histogram import Histogram

# Of 100 answers 99 are no longer than what is held.
TYPICAL_PERCENT = 99
# Fewer answers than these say nothing about the longest one in a hundred.
LEAST_ANSWERS = 100
# Answers are counted in generations of so many; the one under way and the one before it count.
GENERATION_ANSWERS = 1_000
# The quantile is worked out anew after so many answers: a long one moves it little.
REFRESH_ANSWERS = 20
# Each bound is a fifth above the one before, so that much is held too much at most. The last is a million.
_BOUNDS = tuple(float(bound) for bound in sorted({ceil(2 ** (step / 4)) for step in range(81)}))
# Features and models that are remembered. Their names come from the file, and a reload may bring others.
MOST_REMEMBERED = 10_000


class SizeQuantile:
    """The size that 99 of 100 recent answers do not exceed: `tokens`. None: too few have been seen."""

    __slots__ = ("_answers", "_earlier", "_recent", "tokens")

    def __init__(self) -> None:
        self.tokens: int | None = None
        self._recent, self._earlier = Histogram(_BOUNDS), Histogram(_BOUNDS)
        self._answers = 0  # of the recent ones

    def observe(self, tokens: int) -> None:
        """One choice of an answer had `tokens`."""
        self._recent.observe(tokens)
        self._answers += 1
        if self._answers % REFRESH_ANSWERS == 0:
            self.tokens = self._quantile()
        if self._answers == GENERATION_ANSWERS:
            self._earlier, self._recent = self._recent, Histogram(_BOUNDS)
            self._answers = 0

    def _quantile(self) -> int | None:
        counts = zip(self._recent.counts, self._earlier.counts, strict=True)
        upto = list(accumulate(recent + earlier for recent, earlier in counts))
        if upto[-1] < LEAST_ANSWERS:
            return None
        found = bisect_left(upto, ceil(upto[-1] * TYPICAL_PERCENT / 100))
        return int(_BOUNDS[found]) if found < len(_BOUNDS) else None


class AnswerSizes(msgspec.Struct, frozen=True, eq=False):
    """The sizes of one feature's answers from one model. A cap of the client's own makes answers shorter."""

    uncapped: SizeQuantile
    capped: SizeQuantile

    def of(self, call: Call) -> SizeQuantile:
        """Those of requests such as `call`. A completion has a cap of the API's own."""
        is_capped = call.max_output is not None or call.api is Api.COMPLETIONS
        return self.capped if is_capped else self.uncapped


class OutputSizes:
    """The sizes of all features and models that were asked for."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], AnswerSizes] = {}

    def of(self, feature: str, model: str) -> AnswerSizes:
        """Those of `feature` and the model that its clients name, from now on."""
        known = self._known.get((feature, model))
        if known is None:
            if len(self._known) >= MOST_REMEMBERED:
                del self._known[next(iter(self._known))]
            known = self._known[feature, model] = AnswerSizes(SizeQuantile(), SizeQuantile())
        return known

    def learned(self) -> Iterator[tuple[str, str, bool, int]]:
        """Feature, model, whether the client had set a cap, and the typical size, where one is known."""
        for (feature, model), sizes in self._known.items():
            for is_capped, quantile in ((False, sizes.uncapped), (True, sizes.capped)):
                if quantile.tokens is not None:
                    yield feature, model, is_capped, quantile.tokens


class TypicalOutput(msgspec.Struct, frozen=True, eq=False):
    """What limits with `estimate: typical` hold for the requests of one route.

    `per_minute` is the tightest of these limits, in tokens.
    """

    sizes: AnswerSizes
    per_minute: int

    def ask(self, call: Call, most: Ask) -> Ask:
        """`most`, the reservation of `call`, with its typical output where that is known and is less."""
        typical = self.sizes.of(call).tokens
        if typical is None:
            return most
        # What nobody asked for must not keep a request out of a small limit for ever.
        fitting = (self.per_minute - most.prompt_tokens) // most.choices
        typical = max(min(typical, fitting), 1)
        if typical >= most.output_tokens:
            return most
        return msgspec.structs.replace(most, typical_output=typical)

    def learn(self, call: Call, hold: Hold, tokens: int, finish_reason: str | None) -> None:
        """A whole answer to `call`, which `hold` was for, had `tokens` of output in all its choices.

        Of one that a lowered cap has cut nobody knows how long it would have been: as long as it might be.
        """
        if call.api is Api.EMBEDDINGS:
            return
        is_cut = hold.is_capped and finish_reason == "length"
        each = hold.ask.output_tokens if is_cut else ceil(tokens / call.choices)
        self.sizes.of(call).observe(each)
