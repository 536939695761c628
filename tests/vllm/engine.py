"""One vLLM server on CPU: its process, its counters, and what can be done to it."""

import asyncio
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx

MODEL = "llama"
CONTEXT_TOKENS = 2048
IN_SERVER = 4  # requests, those that run included
START_SECONDS = 1200  # two minutes of processor time each, on a machine that may be busy with other things
LOOK_SECONDS = 0.2

_ENVIRON = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
_ARGUMENTS = (
    "--host 127.0.0.1 --dtype bfloat16 --enforce-eager --enable-prompt-tokens-details "
    f"--enable-request-id-headers --served-model-name {MODEL} --max-model-len {CONTEXT_TOKENS} "
    f"--max-num-batched-tokens 2048 --max-num-seqs {IN_SERVER} --max-num-queued-reqs {IN_SERVER}"
)
_COUNTER = re.compile(r"^vllm:(\w+)\{[^}]*\} (\S+)$", re.MULTILINE)


class Engine:
    """Not started yet. `python` is one that has vLLM; what the server prints goes to the file `log`."""

    def __init__(self, python: str, checkpoint: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)]
        self._command += [*_ARGUMENTS.split(), "--port", str(self.port)]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        """As the gateway names its replica."""
        return f"127.0.0.1:{self.port}"

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "not started"
        return self._process

    def attempts(self) -> list[object]:
        """What the harness asks simulators for. A real server keeps no such list."""
        return []

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | _ENVIRON, start_new_session=True
            )

    async def ready(self) -> None:
        """Return once it answers."""
        async with asyncio.timeout(START_SECONDS):
            while not await self.is_well():
                assert self.process.poll() is None, self._log.read_text()[-4000:]
                await asyncio.sleep(LOOK_SECONDS)

    async def is_well(self) -> bool:
        """Whether it answers probes."""
        async with httpx.AsyncClient(timeout=60) as client:
            try:
                return (await client.get(f"{self.url}/health")).status_code == 200
            except httpx.HTTPError:
                return False

    def end(self) -> None:
        """Kill it with all that it has started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    # What can be done to it

    def terminate(self) -> None:
        """As a supervisor does, without anything that makes it graceful."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """All of it at once: sockets close, and nobody counts any more."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the engine. The server in front of it goes on answering."""
        os.kill(self._engine_core(), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._engine_core(), signal.SIGCONT)

    def _engine_core(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (found,) = [int(pid) for pid in children if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text()]
        return found

    # What it says of itself

    async def page(self) -> str:
        """Its metrics."""
        async with httpx.AsyncClient(timeout=60) as client:
            return (await client.get(f"{self.url}/metrics")).text

    async def value(self, name: str) -> float:
        """The sum of its series with this name, without `vllm:`."""
        return sum(float(value) for found, value in _COUNTER.findall(await self.page()) if found == name)

    async def count(self, text: str) -> int:
        """Tokens of a chat of one message, its template included."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "add_generation_prompt": True,
        }
        async with httpx.AsyncClient(timeout=60) as client:
            return int((await client.post(f"{self.url}/tokenize", json=body)).json()["count"])

    async def settled(self) -> str:
        """Its metrics, once nothing runs there."""
        async with asyncio.timeout(START_SECONDS):
            while await self.value("num_requests_running") or await self.value("num_requests_waiting"):
                await asyncio.sleep(LOOK_SECONDS)
        return await self.page()
