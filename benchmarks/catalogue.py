"""The subjects of the benchmarks, in the order of the report.

The limit comes first: others are divided by it. Why these, and why configured so: docs/decisions/0050.
"""

from __future__ import annotations

from benchmarks import peer_servers, tollway_servers
from benchmarks.nginx_servers import launch_nginx
from benchmarks.subjects import Subject

LIMIT = "nginx"
TOLLWAY = "tollway"
BEFORE = "tollway-before"
ALL_ON = "auth, limits, budgets, usage rows, metrics, detectors, routing rules"
SHARED = "all of Tollway's, state shared in Redis"

SUBJECTS = [
    Subject("nginx", "nginx (the limit)", launch_nginx, "proxying", "all else"),
    Subject(TOLLWAY, "Tollway", tollway_servers.launch, ALL_ON, "-", governed=True),
    Subject(
        BEFORE,
        "Tollway, older commit",
        tollway_servers.launch_before,
        ALL_ON,
        "-",
        governed=True,
    ),
    Subject(
        "tollway-leased",
        "Tollway, Redis + PostgreSQL",
        tollway_servers.launch_leased,
        SHARED,
        "-",
        governed=True,
        only=("unary-32", "unary-128", "streams-400"),
    ),
    Subject(
        "tollway-two",
        "Tollway, 2 workers",
        tollway_servers.launch_two_workers,
        SHARED,
        "-",
        governed=True,
        only=("unary-32", "unary-128"),
    ),
    Subject(
        "ferro-governed",
        "Ferro, governed",
        peer_servers.launch_ferro_governed,
        "auth, limits, soft budget, usage rows, metrics",
        "reserved budgets, detectors, routing rules",
        governed=True,
        usage_unasked=True,
    ),
    Subject(
        "tensorzero-limits",
        "TensorZero, limits",
        peer_servers.launch_tensorzero_limits,
        "limits in Valkey, translation",
        "auth and usage rows (need its own server's migrations), budgets, metrics",
        governed=True,
        usage_unasked=True,
    ),
    Subject(
        "litellm",
        "LiteLLM",
        peer_servers.launch_litellm,
        "auth, translation, cost of each answer",
        "limits, budgets, usage rows (need Prisma's engine, in no registry)",
        governed=True,
        usage_unasked=True,
        most_connections=32,
        most_streams=100,
    ),
    Subject("envoy", "Envoy", peer_servers.launch_envoy, "proxying, time-outs, counters", "anything of LLMs"),
    Subject(
        "vllm-router", "vllm-router", peer_servers.launch_vllm_router, "balancing, metrics", "all of tenancy"
    ),
    Subject("smg", "SMG", peer_servers.launch_smg, "balancing, metrics", "all of tenancy"),
    Subject(
        "tensorzero",
        "TensorZero",
        peer_servers.launch_tensorzero,
        "translation",
        "auth, limits, usage rows, metrics",
        usage_unasked=True,
    ),
    Subject(
        "ferro",
        "Ferro",
        peer_servers.launch_ferro,
        "translation, metrics",
        "auth, limits, budgets, usage",
        usage_unasked=True,
    ),
    Subject(
        "portkey",
        "Portkey",
        peer_servers.launch_portkey,
        "translation, provider chosen by header",
        "auth, limits, budgets, usage (paid)",
    ),
]
BY_NAME = {subject.name: subject for subject in SUBJECTS}


def label(name: str) -> str:
    return BY_NAME[name].label if name in BY_NAME else {"direct": "no proxy"}.get(name, name)
