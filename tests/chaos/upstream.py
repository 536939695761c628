"""A simulator in a process of its own that forgets no attempt: on SIGTERM it writes down all that it saw.

    python -m tests.chaos.upstream vllm FILE

It prints where it listens. The ordinary simulator keeps the last 20,000 attempts.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import uvloop

from gateway.simulators.attempts import AttemptLog, Recorder, SeenAttempt
from gateway.simulators.knobs import Knobs
from gateway.simulators.refusals import Header
from gateway.simulators.running import Simulator, SimulatorKind

SETTLE_SECONDS = 20.0

KNOBS = {
    SimulatorKind.OPENAI: Knobs(ttft_ms=3, ttft_jitter_ms=3, tokens_per_second=2000, output_tokens=10),
    SimulatorKind.VLLM: Knobs(ttft_ms=2, ttft_jitter_ms=2, output_tokens=8, max_model_len=8192),
}


class Seen(msgspec.Struct, frozen=True, gc=False):
    """One attempt, as the upstream bills it."""

    attempt_id: str | None
    outcome: str
    status: int | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class WholeLog(AttemptLog):
    """Keeps every attempt, without headers and body."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[SeenAttempt] = []

    def register(self, path: str, headers: Sequence[Header], body: bytes) -> Recorder:
        del body
        attempt_id = next((value.decode() for name, value in headers if name == b"x-tollway-attempt"), None)
        attempt = SeenAttempt(
            n=len(self.all) + 1, request_id=None, attempt_id=attempt_id, path=path, headers={}
        )
        self.all.append(attempt)
        return Recorder(attempt, time.monotonic())


def read_seen(path: Path) -> list[Seen]:
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Seen])


async def serve(kind: SimulatorKind, path: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Simulator(kind, KNOBS[kind]) as simulator:
        log = simulator.state.attempts = WholeLog()
        print(simulator.url, flush=True)
        await stop.wait()
        with suppress(TimeoutError):  # the books will say which attempts still run
            async with asyncio.timeout(SETTLE_SECONDS):
                while any(attempt.is_running for attempt in log.all):
                    await asyncio.sleep(0.05)
        path.write_bytes(msgspec.msgpack.encode([_seen(attempt) for attempt in log.all]))


def _seen(attempt: SeenAttempt) -> Seen:
    return Seen(
        attempt.attempt_id,
        attempt.outcome,
        attempt.status,
        attempt.prompt_tokens,
        attempt.cached_tokens,
        attempt.completion_tokens,
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(SimulatorKind(sys.argv[1]), Path(sys.argv[2])))
