"""Starting and stopping: in a loop, as a process, from the command line."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from gateway.simulators.command import simulate_app
from gateway.simulators.knobs import ErrorKind, ErrorShape, InvalidKnob, Knobs, RetryAfter
from gateway.simulators.running import (
    SimulatorKind,
    SimulatorPortTaken,
    SimulatorProcess,
    openai_simulator,
    vllm_simulator,
)

SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
CHAT = {"model": SCOUT, "messages": [{"role": "user", "content": "x"}]}


def test_two_simulators_in_one_loop_stop_at_once_and_free_their_ports():
    async def scenario() -> float:
        async with openai_simulator() as first, vllm_simulator(Knobs(ttft_ms=60_000)) as second:
            assert first.url != second.url
            async with httpx.AsyncClient() as client:
                hanging = asyncio.create_task(client.post(f"{second.url}/v1/chat/completions", json=CHAT))
                while not second.attempts():
                    await asyncio.sleep(0.001)
                began = time.monotonic()
                await second.__aexit__(None, None, None)
                with pytest.raises(httpx.TransportError):
                    await hanging
            stopped_after = time.monotonic() - began
            async with vllm_simulator(port=second.port):
                pass
        return stopped_after

    assert asyncio.run(scenario()) < 1.5  # uvicorn's own shutdown would wait for the client


def test_a_taken_port_raises():
    async def scenario() -> None:
        async with openai_simulator() as first:
            with pytest.raises(SimulatorPortTaken, match=f"127.0.0.1:{first.port}: Address already in use"):
                await vllm_simulator(port=first.port).__aenter__()

    asyncio.run(scenario())


def test_knobs_made_in_python_are_checked():
    async def scenario() -> None:
        with pytest.raises(InvalidKnob, match="error_rate"):
            await openai_simulator(Knobs(error_rate=1.5)).__aenter__()
        async with openai_simulator() as sim:
            with pytest.raises(InvalidKnob, match="tftt"):
                sim.set_knobs(tftt=1)
            assert sim.set_knobs(output_tokens=7).output_tokens == 7

    asyncio.run(scenario())


def test_sigterm_can_leave_streams_open_and_silent():
    knobs = Knobs(tokens_per_second=200, output_tokens=100_000, silent_on_sigterm=True)
    with SimulatorProcess(SimulatorKind.VLLM, knobs) as sim:
        body = CHAT | {"stream": True}
        timeout = httpx.Timeout(30, read=5)
        with (
            httpx.Client(base_url=sim.url, timeout=timeout) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            chunks = response.iter_bytes()
            assert b"data: " in next(chunks)
            sim.process.terminate()
            with pytest.raises(httpx.ReadTimeout):
                for chunk in chunks:
                    assert b"[DONE]" not in chunk
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{sim.url}/health")
            assert sim.process.poll() is None
        assert sim.process.wait(30) == 0


def test_process_takes_every_knob_on_its_command_line():
    knobs = Knobs(
        models=("a", "b"),
        api_key="key-0123456",
        seed=3,
        ttft_ms=1.5,
        ttft_jitter_ms=0.5,
        prefill_tokens_per_second=1000.0,
        tokens_per_second=200.0,
        output_tokens=9,
        max_model_len=4096,
        max_concurrency=8,
        max_num_seqs=4,
        bills_to_the_end=True,
        opening_first=True,
        comment_every_ms=250.0,
        odd_values=True,
        break_after_tokens=3,
        prompt_caching=False,
        healthy=False,
        frozen=True,
        silent_on_sigterm=True,
        error_rate=0.25,
        error_kind=ErrorKind.ABORT,
        fail_next=2,
        retry_after_ms=50,
        retry_after=RetryAfter.DATE,
        error_shape=ErrorShape.AZURE,
        refusal_status=422,
        refusal_code="content_filter",
        refusal_message="No",
    )
    changed = [
        field.name for field in msgspec.structs.fields(Knobs) if getattr(knobs, field.name) == field.default
    ]
    assert changed == []
    with SimulatorProcess(SimulatorKind.VLLM, knobs) as sim:
        served = httpx.get(f"{sim.url}/_sim/knobs").content
    assert msgspec.json.decode(served, type=Knobs) == knobs
    assert sim.process.returncode == 0


def test_sigterm_ends_vllms_streams_with_abort():
    body = {**CHAT, "stream": True}
    with (
        SimulatorProcess(SimulatorKind.VLLM, Knobs(tokens_per_second=10, output_tokens=500)) as sim,
        httpx.stream("POST", f"{sim.url}/v1/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        os.kill(sim.process.pid, signal.SIGTERM)
        rest = [line for line in lines if line]
    assert '"finish_reason":"abort"' in rest[-2]
    assert rest[-1] == "data: [DONE]"


def test_command_line_errors_are_one_line_and_exit_1():
    with SimulatorProcess(SimulatorKind.OPENAI, Knobs()) as sim:
        port = sim.url.rpartition(":")[2]
        command = [sys.executable, "-m", "gateway.simulators", "vllm", "--port", port]
        taken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert taken.returncode == 1
    assert (
        taken.stderr == f"tollway simulate vllm: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["openai", "--error-rate", "2"], 1, "error_rate"),
        (["vllm", "--error-kind", "flood"], 2, "rate_limit"),
        (["vllm", "--port", "99999"], 2, "65535"),
        (["martian"], 2, "martian"),
    ],
)
def test_wrong_flags(flags, code, said):
    result = CliRunner().invoke(simulate_app, flags)
    assert result.exit_code == code
    assert said in result.output


def test_help_names_a_flag_for_each_knob():
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    page = CliRunner().invoke(simulate_app, ["vllm", "--help"], env=environment).output
    for field in msgspec.structs.fields(Knobs):
        assert ("--model " if field.name == "models" else f"--{field.name.replace('_', '-')}") in page
    assert "--max-num-queued-reqs" in page
