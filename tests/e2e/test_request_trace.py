"""One warm chat request touches few files: who follows it from end to end opens no more than these."""

import asyncio

import pytest

from benchmarks.request_trace import trace

# A stream has nine more: they read its events, wait for its first content, and hide usage nobody asked for.
FILES_CEILING = {False: 45, True: 54}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_one_warm_chat_request_touches_few_files(stream: bool) -> None:
    files = asyncio.run(trace(stream=stream)).files
    assert len(files) < FILES_CEILING[stream], "\n".join([f"{len(files)} files:", *files])


def test_a_warm_request_asks_for_the_used_share_once_and_looks_at_no_limit_twice() -> None:
    functions = [call.function for call in asyncio.run(trace(stream=False)).calls]
    assert functions.count("MemoryAdmission.used_share") == 1
    # Nothing ends and nothing is near its limit, so no budget rolls and no scope is asked by itself.
    assert not {"Account.roll", "BudgetCounter.roll", "ScopeState.refusal"} & set(functions)
