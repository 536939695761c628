"""What an engine counts, as its page of metrics says it."""

import pytest

from gateway.finance.engine_counters import (
    EngineTokens,
    NotCounters,
    counted_between,
    read_counters,
)

PAGE = """\
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 10.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 1.0e+01
vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 5.0
vllm:generation_tokens_total{engine="0",model_name="m"} 7.0
"""


def test_the_counters_of_all_engines_of_a_server_add_up() -> None:
    assert read_counters(PAGE) == EngineTokens(prompt=20, output=7)


@pytest.mark.parametrize(
    "page", ["", "<html>", PAGE.replace("generation", "other"), PAGE.replace("7.0", "NaN")]
)
def test_a_page_without_counters_says_so(page: str) -> None:
    with pytest.raises(NotCounters):
        read_counters(page)


def test_counters_that_went_back_are_those_of_another_engine() -> None:
    assert counted_between(EngineTokens(1, 2), EngineTokens(5, 2)) == EngineTokens(4, 0)
    with pytest.raises(NotCounters, match="restarted"):
        counted_between(EngineTokens(5, 2), EngineTokens(6, 1))
