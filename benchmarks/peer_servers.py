"""The peers, each started as its authors recommend for speed in production; files in peer_configs."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import TYPE_CHECKING

import httpx

from benchmarks import peers, wire
from benchmarks.probes import free_ports, wait_for_200
from benchmarks.processes import Child, Skipped
from benchmarks.stores import start_valkey
from benchmarks.subjects import HERE, READY_SECONDS, Room, Running, configured, stopped_on_error
from benchmarks.tollway_servers import sqlite_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIGS = HERE / "peer_configs"
FERRO_MASTER_KEY = "fgw_a2adf4c3090ecf20b222f3e8bec9492a"

# vllm-router's command imports its Python debugging balancer, and that aiohttp, fastapi and uvicorn. Its own
# router and its own argument parser need none of them.
VLLM_ROUTER = """
import argparse
from vllm_router.router import Router
from vllm_router.router_args import RouterArgs
parser = argparse.ArgumentParser()
RouterArgs.add_cli_args(parser)
Router.from_args(RouterArgs.from_cli_args(parser.parse_args())).start()
"""
# TensorZero's gateway lives inside its Python module and picks its own port.
TENSORZERO = """
import sys, time
from tensorzero.tensorzero import _start_http_gateway
gateway = _start_http_gateway(
    config_file=sys.argv[1],
    clickhouse_url=None,
    postgres_url=None,
    valkey_url=sys.argv[2] or None,
    async_setup=False,
)
print("listens on", gateway.base_url, flush=True)
while True:
    time.sleep(3600)
"""


def _start(
    room: Room, name: str, command: list[str], folder: Path, environment: Mapping[str, str] = {}
) -> Child:
    return Child(
        command, core=room.cores.subject, log=folder / "output.log", environment=environment, folder=folder
    )


def _router(room: Room, name: str, program: list[str], port: int, upstream_port: int) -> Running:
    """One worker, the cheapest policy: proxying and nothing else."""
    flags = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{upstream_port}"]
    flags += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_ports(1)[0])]
    folder = room.new_folder(name)
    child = _start(room, name, [*program, *flags, "--policy", "round_robin"], folder)
    return Running(name, child, port, folder)


def launch_smg(room: Room, upstream_port: int) -> Running:
    program = str(peers.python_of("routers", room.python).with_name("smg"))
    # Its default admits some thousand requests at once and refuses the rest: nothing may be refused here.
    command = [program, "launch", "--backend", "vllm", "--log-level", "warn"]
    command += ["--max-concurrent-requests", "100000"]
    return _router(room, "smg", command, free_ports(1)[0], upstream_port)


def launch_vllm_router(room: Room, upstream_port: int) -> Running:
    python = str(peers.python_of("routers", room.python))
    command = [python, "-c", VLLM_ROUTER, "--log-level", "warning"]
    return _router(room, "vllm-router", command, free_ports(1)[0], upstream_port)


def launch_envoy(room: Room, upstream_port: int) -> Running:
    program, port = peers.python_of("envoy", room.python).with_name("envoy"), free_ports(1)[0]
    words = {"PORT": str(port), "UPSTREAM_PORT": str(upstream_port)}
    folder, file = configured(room, "envoy", CONFIGS / "envoy.yaml", words)
    command = [
        str(program),
        "-c",
        str(file),
        "--concurrency",
        "1",
        "--log-level",
        "warn",
        "--disable-hot-restart",
    ]
    return Running("envoy", _start(room, "envoy", command, folder), port, folder)


def launch_tensorzero(room: Room, upstream_port: int) -> Running:
    return _tensorzero(room, upstream_port, "tensorzero", "")


def launch_tensorzero_limits(room: Room, upstream_port: int) -> Running:
    valkey = start_valkey(room)
    with stopped_on_error(valkey.child):
        return _tensorzero(room, upstream_port, "tensorzero-limits", valkey.url, (valkey.child,))


def _tensorzero(
    room: Room, upstream_port: int, name: str, valkey_url: str, behind: tuple[Child, ...] = ()
) -> Running:
    python = peers.python_of("tensorzero", room.python)
    folder, file = configured(room, name, CONFIGS / f"{name}.toml", {"UPSTREAM_PORT": str(upstream_port)})
    command = [str(python), "-c", TENSORZERO, str(file), valkey_url]
    child = _start(room, name, command, folder, {"BENCH_KEY": wire.KEY})
    return Running(
        name,
        child,
        _announced_port(child),
        folder,
        path="/openai/v1/chat/completions",
        model=f"tensorzero::model_name::{wire.MODEL}",
        behind=behind,
    )


def _announced_port(child: Child) -> int:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and child.exit_code() is None:
        announced = re.search(r"listens on http://[^:]+:(\d+)", child.output())
        if announced:
            return int(announced[1])
        time.sleep(0.005)
    with stopped_on_error(child):
        raise Skipped(f"named no port: {child.last_words()}")


def _ferro(room: Room, upstream_port: int, name: str, more: Mapping[str, str]) -> Running:
    """Its own limit of 20 requests a second for each address is raised out of the way."""
    program, port = peers.python_of("ferro", room.python).with_name("ferrogw"), free_ports(1)[0]
    folder, file = configured(room, name, CONFIGS / f"{name}.yaml", {})
    environment = {
        "GATEWAY_CONFIG": str(file),
        "MASTER_KEY": FERRO_MASTER_KEY,
        "OPENAI_API_KEY": wire.KEY,
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream_port}",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "LOG_LEVEL": "error",
        "RATE_LIMIT_RPS": "1000000",
        "RATE_LIMIT_BURST": "1000000",
        **more,
    }
    return Running(name, _start(room, name, [str(program), "serve"], folder, environment), port, folder)


def launch_ferro(room: Room, upstream_port: int) -> Running:
    return _ferro(room, upstream_port, "ferro", {"ALLOW_UNAUTHENTICATED_PROXY": "true"})


def launch_ferro_governed(room: Room, upstream_port: int) -> Running:
    """Requests carry a key made by its admin API; an answer is a row of its request log."""
    stores = {"API_KEY_STORE_BACKEND": "sqlite", "API_KEY_STORE_DSN": "keys.db"}
    stores |= {"REQUEST_LOG_STORE_BACKEND": "sqlite", "REQUEST_LOG_STORE_DSN": "requests.db"}
    subject = _ferro(room, upstream_port, "ferro-governed", stores)
    with stopped_on_error(subject.child):
        key = _ferro_key(subject)
    return Running(
        subject.name,
        subject.child,
        subject.port,
        subject.folder,
        headers={"Authorization": f"Bearer {key}"},
        count_rows=partial(sqlite_rows, subject.folder / "requests.db", "stage", "stage = 'after_request'"),
    )


def _ferro_key(subject: Running) -> str:
    request = wire.http_get(subject.port, "/readyz")
    wait_for_200(subject.child, subject.port, request, timeout_seconds=READY_SECONDS, poll_seconds=0.02)
    answer = httpx.post(
        f"http://127.0.0.1:{subject.port}/admin/keys",
        headers={"Authorization": f"Bearer {FERRO_MASTER_KEY}"},
        json={"name": "bench", "scopes": ["read_only"]},
    )
    if answer.is_error:
        raise Skipped(f"made no key: {answer.text}")
    return str(answer.json()["key"])


def launch_portkey(room: Room, upstream_port: int) -> Running:
    node, script = peers.portkey_script()
    port, folder = free_ports(1)[0], room.new_folder("portkey")
    command = [node, str(script), f"--port={port}", "--headless"]
    child = _start(room, "portkey", command, folder, {"NODE_ENV": "production"})
    upstream = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
    }
    return Running("portkey", child, port, folder, headers=upstream)


def launch_litellm(room: Room, upstream_port: int) -> Running:
    """On the same Python as Tollway; one worker, since it has one core."""
    program, port = peers.python_of("litellm", room.python).with_name("litellm"), free_ports(1)[0]
    folder, file = configured(
        room, "litellm", CONFIGS / "litellm.yaml", {"UPSTREAM_PORT": str(upstream_port)}
    )
    command = [str(program), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "BENCH_KEY": wire.KEY,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # never fetches a price list
    }
    child = _start(room, "litellm", [*command, "--num_workers", "1"], folder, environment)
    return Running("litellm", child, port, folder)
