"""A gateway process of its own for the attack, between simulators and an upstream that lies."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any
from unittest.mock import patch

import httpx

from tests.attack.case import Own, Victim
from tests.attack.lying_upstream import lying_upstream
from tests.chaos.gateways import GatewayProcess, free_ports
from tests.chaos.scenario import Address
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, NARROW_KEY, config_text, simulators

PROVIDER_KEY = "sk-simulated-account-key"
PATIENCE_SECONDS = 60.0


def _changes(address: Address, journal: Path, liar: str) -> dict[str, Any]:
    return {
        "server": {
            "data": {"port": address.data_port},
            "admin": {"port": address.admin_port},
            "journal_dir": str(journal),
        },
        "deployments": {
            "liar": {
                "provider": "openai-compatible",
                "model": "liar",
                "base_url": f"{liar}/v1",
                "api_key": PROVIDER_KEY,
                "zone": "local",
                "context_tokens": 8192,
                "max_output_tokens": 64,
                "price": {"input": 1.0, "output": 10.0},
            }
        },
        "models": {"liar": {"use": ["liar"]}},
        "features": {"triage": {"budgets": [{"usd": 1_000_000, "per": "day"}]}},
    }


@asynccontextmanager
async def own_gateway(folder: Path) -> AsyncIterator[Victim]:
    """Started in a process of its own: what stalls it must not stall whoever measures it."""
    address, journal = Address(*free_ports(2)), folder / "journal"
    async with (
        simulators() as (external, replicas),
        lying_upstream() as liar,
        httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http,
    ):
        variables = {
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "APP_KEY": APP_KEY,
            "NARROW_KEY": NARROW_KEY,
            "LEDGER": f"sqlite:///{folder / 'ledger.db'}",
            "EXTERNAL": external.url,
            **{f"REPLICA_{number}": replica.url for number, replica in enumerate(replicas, 1)},
        }
        gateway = GatewayProcess(
            0, address, folder, config_text(_changes(address, journal, liar.url)), journal
        )
        with patch.dict(os.environ, variables):
            await gateway.start()
        try:
            yield Victim(
                *(http, gateway.data_url, APP_KEY, "gpt-4o", gateway.admin_url, ADMIN_TOKEN),
                Own(external, liar, PROVIDER_KEY),
            )
        finally:
            if gateway.is_alive:
                await gateway.end(SIGTERM)
