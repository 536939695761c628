"""The two ways in which Tollway is installed, and what it is configured to do there."""

import uuid
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.upgrade.installation import Installation, Json
from tests.upgrade.ledgers import Ledger, PostgresLedger, SqliteLedger
from tests.upgrade.prices import price_of
from tests.upgrade.shared_state import SharedState
from tests.upgrade.upstreams import Upstreams

ADMIN_TOKEN = "admin-token-of-the-rollout-0123456789"
LEASE_SECONDS = 3.0


class Where(StrEnum):
    """How much stands around a gateway."""

    ONE_MACHINE = "sqlite"  # and budgets in memory
    SEVERAL = "postgresql"  # and budgets in Valkey


class Installer:
    """Makes installations, each with nothing in it yet. `features` are those of the file, in one team.

    Each feature has one key, named like it. `more` replaces sections of the configuration.
    """

    def __init__(
        self, upstreams: Upstreams, new_folder: Callable[[str], Path], server: Callable[[str], Any]
    ) -> None:
        """`server` starts one by its name: postgres or valkey."""
        self._upstreams = upstreams
        self._new_folder = new_folder
        self._server = server
        self._made: list[Installation] = []

    async def install(self, where: Where, features: Json, **more: Any) -> Installation:
        if where is Where.SEVERAL:
            return await self.for_several(features, **more)
        return self.on_one_machine(features, **more)

    def on_one_machine(self, features: Json, **more: Any) -> Installation:
        folder = self._new_folder("one-machine")
        return self._installed(folder, SqliteLedger(folder / "ledger.db"), None, features, more)

    async def for_several(self, features: Json, **more: Any) -> Installation:
        folder = self._new_folder("several")
        name = uuid.uuid4().hex[:12]
        ledger = PostgresLedger(self._server("postgres"), f"ledger_{name}")
        await ledger.create()
        state = SharedState(self._server("valkey").url, f"org-{name}")
        return self._installed(folder, ledger, state, features, more)

    def end(self) -> None:
        for installation in self._made:
            installation.end()
            if installation.state is not None:
                installation.state.close()

    def _installed(
        self, folder: Path, ledger: Ledger, state: SharedState | None, features: Json, more: Json
    ) -> Installation:
        document = {**_standard(self._upstreams), "ledger": ledger.url, "features": features}
        if state is not None:
            document["state"] = state.url
            document["server"]["journal_dir"] = str(folder / "journal")
            document["org"]["name"] = state.org
        document["keys"] = {name: {"secret": secret_of(name), "feature": name} for name in features}
        self._made.append(Installation(folder, document | more, ledger, state))
        return self._made[-1]


def secret_of(key: str) -> str:
    return f"key-of-{key}-0123456789abcdef"


def _standard(upstreams: Upstreams) -> Json:
    return {
        "server": {
            "data": {"port": 0},
            "admin": {"port": 0, "token": ADMIN_TOKEN},
            "drain_seconds": 1,
            "watch": False,
            "log_level": "warning",
        },
        "lease_seconds": LEASE_SECONDS,
        "zones": {"local": {"cidrs": ["127.0.0.0/8"]}, "external": {}},
        "deployments": {
            "gpt-4o": _hosted(upstreams, "gpt-4o", "gpt-4o-2024-11-20", max_output_tokens=256),
            "embedder": _hosted(upstreams, "embedder", "text-embedding-3-small", serves=["embeddings"]),
            "scout": {
                "provider": "vllm",
                "model": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
                "zone": "local",
                "context_tokens": 8192,
                "max_output_tokens": 256,
                "replicas": {"urls": [f"{upstreams.replica_url}/v1"]},
                "price": price_of("scout"),
            },
        },
        "models": {
            "gpt-4o": {"use": ["gpt-4o"]},
            "scout": {"use": ["scout"]},
            "auto": {"use": ["scout", "gpt-4o"]},
            "embed": {"use": ["embedder"]},
        },
        "org": {"name": "harbour", "budgets": [{"usd": 1000, "per": "lifetime"}]},
        "teams": {"product": {"budgets": [{"usd": 500, "per": "month", "rolling": True}]}},
    }


def _hosted(upstreams: Upstreams, deployment: str, model: str, **more: Any) -> Json:
    return {
        "provider": "openai",
        "model": model,
        "base_url": f"{upstreams.hosted_url}/v1",
        "api_key": "sk-simulated-account-key",
        "zone": "external",
        "context_tokens": 8191,
        "price": price_of(deployment),
        **more,
    }
