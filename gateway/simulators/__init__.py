"""Stand-ins for OpenAI and vLLM, for tests, the demo and benchmarks. Never part of the request path."""

from gateway.simulators.attempts import Attempt
from gateway.simulators.knobs import ErrorKind, InvalidKnob, Knobs
from gateway.simulators.running import (
    Kind,
    PortTaken,
    Simulator,
    SimulatorProcess,
    openai_simulator,
    run_blocking,
    vllm_simulator,
)

__all__ = [
    "Attempt",
    "ErrorKind",
    "InvalidKnob",
    "Kind",
    "Knobs",
    "PortTaken",
    "Simulator",
    "SimulatorProcess",
    "openai_simulator",
    "run_blocking",
    "vllm_simulator",
]
