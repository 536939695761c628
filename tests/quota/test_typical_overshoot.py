"""How far a limit with `estimate: typical` can be passed: never beyond its formula, and mostly by little.

Traffic is simulated against the store in memory: more than the limit lets through, each answer at 50 tokens
a second. What counts is what answers really had, at the moment when they were let through. docs/budgets.md
has the numbers.
"""

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from gateway.core.admission import GcraLimit, Hold, Settlement
from gateway.core.errors import LimitExceeded
from gateway.core.output_sizes import OutputSizes, TypicalOutput
from tests.core.builders import ask, chat, parsed, principal, scope
from tests.quota.memory_stage import Stage, at_once

LIMIT = 400_000
PROMPT = 100
CAP = 16_384
TOKENS_PER_SECOND = 50.0
PLAIN = parsed(chat())


class Passed(msgspec.Struct):
    """What a limit let through. `beyond` it at most, in tokens, where `possible` was no more than that."""

    answers: int = 0
    refused: int = 0
    tokens: int = 0
    beyond: float = 0.0
    possible: float = 0.0


class Traffic:
    """Requests at random moments, under a clock that is told. `size` draws the length of an answer."""

    def __init__(self, size: Callable[[Random, float], int], per_second: float, **limits: Any) -> None:
        self.size = size
        self.per_second = per_second
        self.random = Random(12)
        triage = scope(tokens=LIMIT, **limits)
        self.stage = Stage(triage)
        self.payer = principal(triage)
        self.typical = TypicalOutput(OutputSizes().of("triage", "auto"), LIMIT)
        self.under_way: list[tuple[float, int, Hold, int]] = []
        self.numbers = itertools.count()
        self.true = GcraLimit(LIMIT)
        self.true_drained_at = 0.0
        self.most_under_way = 0
        self.passed = Passed()

    def run(self, seconds: float) -> Passed:
        begin = self.stage.clock.monotonic()
        while (elapsed := self.stage.clock.monotonic() - begin) < seconds:
            self.stage.clock.forward(self.random.expovariate(self.per_second))
            self.end_what_is_over()
            self.arrive(self.size(self.random, elapsed))
        return self.passed

    def arrive(self, wanted: int) -> None:
        most = ask(self.payer, prompt_tokens=PROMPT, output_tokens=CAP, output_is_explicit=False)
        passed = self.passed
        try:
            hold = at_once(self.stage.store.admit(self.typical.ask(PLAIN, most)))
        except LimitExceeded:
            passed.refused += 1
            return
        now, wrote = self.stage.clock.monotonic(), min(wanted, hold.output_tokens)
        over = (now + wrote / TOKENS_PER_SECOND, next(self.numbers), hold, wrote)
        heapq.heappush(self.under_way, over)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        self.true_drained_at = self.true.take(self.true_drained_at, PROMPT + wrote, now)
        passed.answers += 1
        passed.tokens += PROMPT + wrote
        passed.beyond = max(passed.beyond, (self.true_drained_at - now) * LIMIT / 60 - LIMIT)
        passed.possible = self.most_under_way * (PROMPT + CAP)
        assert passed.beyond <= passed.possible

    def end_what_is_over(self) -> None:
        while self.under_way and self.under_way[0][0] <= self.stage.clock.monotonic():
            _, _, hold, wrote = heapq.heappop(self.under_way)
            self.stage.store.settle(hold, Settlement(spent_nano=0, rate_tokens=PROMPT + wrote))
            is_cut = wrote == hold.output_tokens
            self.typical.learn(PLAIN, hold, wrote, "length" if is_cut else "stop")


def usual(random: Random, _elapsed: float) -> int:
    """A median of 300 tokens, and 3,070 in one of a hundred."""
    return max(int(random.lognormvariate(5.7, 1.0)), 1)


def suddenly_long(random: Random, elapsed: float) -> int:
    """After two minutes of short answers every one is as long as it can be."""
    return random.randint(20, 60) if elapsed < 120 else CAP


def test_usual_answers_use_all_of_the_limit_and_pass_it_by_a_twentieth_at_most():
    by_size = Traffic(usual, per_second=30.0, typical=True).run(900)
    by_cap = Traffic(usual, per_second=30.0, typical=False).run(900)
    # In 15 minutes, and what a full bucket had at the start.
    assert by_size.tokens == pytest.approx(16 * LIMIT, rel=0.05)
    assert by_size.beyond <= LIMIT / 20
    # By their caps fewer get through, and no longer ones than the least cap.
    assert (by_cap.tokens < by_size.tokens / 2, by_cap.beyond) == (True, 0)


def test_when_all_answers_turn_long_at_once_those_under_way_pass_the_limit_and_the_next_wait_for_it():
    traffic = Traffic(suddenly_long, per_second=20.0, typical=True, concurrent=120)
    passed = traffic.run(1_200)
    assert 0.7 * passed.possible <= passed.beyond <= passed.possible
    # By then it is paid back, and long answers are held as long ones.
    assert passed.tokens <= LIMIT * (1 + 1_200 / 60)
    assert traffic.typical.sizes.uncapped.tokens == CAP
