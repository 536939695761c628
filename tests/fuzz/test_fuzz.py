"""The bounded run: the corpora and some changes of them, the same in every run. `make fuzz` goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.all_targets import TARGETS
from tests.fuzz.run import Found, Options, fuzz, store
from tests.fuzz.steps import TooManySteps, bounded
from tests.fuzz.target import CORPUS, Target, inputs, seeds, ways_to_cut

BOUNDED = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
every = pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)


@every
def test_every_file_of_the_corpus_holds_however_it_is_cut(target: Target) -> None:
    for seed in seeds(target):
        for cuts in ways_to_cut(seed):
            target.check(seed.data, cuts)


@every
def test_no_file_of_the_corpus_costs_more_steps_than_its_size_allows(target: Target) -> None:
    for seed in seeds(target):
        with bounded(target.most_steps(seed.data, seed.cuts)):
            target.check(seed.data, seed.cuts)


@every
def test_changed_in_a_few_places_it_still_holds(target: Target) -> None:
    @BOUNDED
    @given(inputs(target))
    def holds(given_input: tuple[bytes, list[int]]) -> None:
        data, cuts = given_input
        with bounded(target.most_steps(data, cuts)):
            target.check(data, cuts)

    holds()


def test_each_target_has_a_corpus_and_each_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


# --- the tools themselves ---


def _raises_on(wrong: bytes) -> Callable[..., None]:
    def check(data: bytes, _cuts: object) -> None:
        assert wrong not in data

    return check


def test_a_long_run_finds_a_fault_shrinks_it_and_stores_it(tmp_path: Path) -> None:
    target = TARGETS["redis_replies"]._replace(check=_raises_on(b"*-1"))
    [found] = fuzz(Options(targets=[target], seconds=600.0, seed=1, most_rounds=3))
    assert isinstance(found, Found)
    assert found.data == b"*-1"
    path = store(found, tmp_path)
    assert path.read_bytes() == b"*-1"


def test_work_without_an_end_is_stopped() -> None:
    from gateway.core.sse import StreamReader

    with pytest.raises(TooManySteps), bounded(1_000):
        while True:
            StreamReader(hide_usage=False)
