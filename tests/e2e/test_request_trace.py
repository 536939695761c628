"""One warm chat request touches few files: who follows it from end to end opens no more than these."""

import asyncio

import pytest

from benchmarks.request_trace import trace

# A stream has one more, which reads its events.
FILES_CEILING = {False: 40, True: 41}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_one_warm_chat_request_touches_few_files(stream: bool) -> None:
    files = asyncio.run(trace(stream=stream)).files
    assert len(files) < FILES_CEILING[stream], "\n".join([f"{len(files)} files:", *files])
