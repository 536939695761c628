"""The code that one warm chat request touches: `python -m benchmarks.request_trace` counts it.

A whole gateway runs over simulators in this process, with rules, budgets and limits on. After some requests
to warm up, `sys.setprofile` records each call of a function of gateway/ while one more is answered and
settled. These are counts and not times. They do not depend on the machine, so a test can hold them.

Background loops run meanwhile, on a busy machine in every request: what they call is left out. So are the
simulators. The threads that write the ledger's rows are not seen.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import uvloop

import gateway
from tests.e2e.harness import Harness, chat, running

GATEWAY = Path(gateway.__file__).parent
WARM_REQUESTS, TRACED_REQUESTS = 30, 20
PROMPT = "Hello there, tell me about the sea. " * 20

# What a deployment in earnest has: a rule that does not hold, budgets of two scopes, and limits.
CONFIGURATION: dict[str, Any] = {
    "models": {
        "auto": {
            "use": ["scout", "gpt-4o"],
            "prefer": "cost",
            "rules": [{"when": "prompt_tokens > 20000", "use": ["gpt-4o"]}],
        }
    },
    "org": {"budgets": [{"usd": 2000, "per": "month"}]},
    "features": {
        "search": {
            "team": "product",
            "budgets": [{"usd": 50, "per": "day"}],
            "limits": {"requests_per_minute": 60_000, "tokens_per_minute": 20_000_000, "concurrent": 320},
        }
    },
}


class Called(NamedTuple):
    """A function of gateway/, by its file's path within that folder."""

    file: str
    function: str


class Trace(NamedTuple):
    """All calls of one request, in their order."""

    calls: list[Called]

    @property
    def functions(self) -> int:
        return len(set(self.calls))

    @property
    def files(self) -> list[str]:
        """In the order in which the request first meets them."""
        return list(dict.fromkeys(call.file for call in self.calls))

    @property
    def switches(self) -> int:
        """How often a call is in another file than the one before it."""
        return sum(a.file != b.file for a, b in zip(self.calls, self.calls[1:], strict=False))

    def summary(self) -> dict[str, int]:
        return {
            "calls": len(self.calls),
            "functions": self.functions,
            "files": len(self.files),
            "lines": sum(_lines(file) for file in self.files),
            "switches": self.switches,
        }


# Loops that run beside requests: one may have its turn meanwhile, and call what requests call.
BESIDE = frozenset(
    {"supervised.py", "message_channel.py", "ledger/process/client.py", "http/server/listening.py"}
    | {"http/server/shedding.py", "core/overload.py"}
)


class Recorder:
    """Collects the calls between its beginning and its end, for `sys.setprofile`."""

    def __init__(self) -> None:
        self.calls: list[Called] = []

    def __enter__(self) -> "Recorder":
        sys.setprofile(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, _: object) -> None:
        file = _file(frame)
        if event != "call" or file is None or file.startswith("simulators/") or _is_beside(frame):
            return
        caller = frame.f_back
        if caller is not None and "/tests/" in caller.f_code.co_filename:
            return  # the harness asks whether the request is over
        code = frame.f_code
        self.calls.append(Called(file, getattr(code, "co_qualname", code.co_name)))


def _is_beside(frame: FrameType | None) -> bool:
    """Whether a loop of BESIDE has called it."""
    while frame is not None:
        if _file(frame) in BESIDE:
            return True
        frame = frame.f_back
    return False


def _file(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    return path.relative_to(GATEWAY).as_posix() if path.is_relative_to(GATEWAY) else None


def _lines(file: str) -> int:
    return (GATEWAY / file).read_text().count("\n")


async def trace(*, stream: bool) -> Trace:
    """The trace with the fewest files of several warm requests."""
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), CONFIGURATION, writer_process=True) as harness:
            for _ in range(WARM_REQUESTS):
                await _request(harness, stream=stream)
            traces = [await _traced(harness, stream=stream) for _ in range(TRACED_REQUESTS)]
    return min(traces, key=lambda one: (len(one.files), len(one.calls)))


async def _traced(harness: Harness, *, stream: bool) -> Trace:
    with Recorder() as recorder:
        await _request(harness, stream=stream)
    return Trace(recorder.calls)


async def _request(harness: Harness, *, stream: bool) -> None:
    answer = await harness.post(chat(PROMPT, model="auto", stream=stream, max_tokens=32))
    answer.raise_for_status()
    await harness.settled()


def report(title: str, found: Trace) -> str:
    """The counts in a line, then each file with its own, in the order in which they are met."""
    counts = ", ".join(f"{count} {name}" for name, count in found.summary().items())
    lines = [f"{title}: {counts}"]
    for file in found.files:
        calls = [call for call in found.calls if call.file == file]
        lines.append(f"  {file:44} {len(calls):4} calls {len(set(calls)):4} functions {_lines(file):4} lines")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.request_trace", description=__doc__)
    parser.add_argument("--format", choices=["text", "json"], default="text")
    form = parser.parse_args().format
    found = {name: uvloop.run(trace(stream=stream)) for name, stream in (("json", False), ("stream", True))}
    if form == "json":
        print(json.dumps({name: one.summary() | {"met": one.files} for name, one in found.items()}, indent=2))
    else:
        print("\n".join(report(name, one) for name, one in found.items()))


if __name__ == "__main__":
    main()
