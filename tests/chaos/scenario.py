"""The scenario: who may spend how much, what it costs, and the gateways' configuration.

Budgets grow with the number of requests, so that the scarce ones run out in the middle of any run.
"""

from pathlib import Path
from typing import Any

import msgspec
import yaml

Json = dict[str, Any]

ORG = "harbour"
ADMIN_TOKEN = "admin-token-of-the-scenario-0123456789"
HOSTED_MODEL = "gpt-4o-2024-11-20"
POOL_MODEL = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
NANO = 10**9

# Nano-USD a token, so that what was really spent is a sum of products of integers.
PRICES = {
    "gpt-4o": {"input": 2500, "cached_input": 1250, "output": 10000},
    "scout": {"input": 300, "cached_input": 300, "output": 1200},
}

# What a request costs in the middle, in USD: it only sizes the budgets.
USUAL_USD = 0.00006


class Key(msgspec.Struct, frozen=True):
    """A client's key: whom it charges, its share of the load, and its own budget as a share of its need."""

    name: str
    feature: str
    team: str
    weight: int
    covers: float | None = None

    @property
    def secret(self) -> str:
        return f"key-of-{self.name}-0123456789abcdef"


KEYS = (
    Key("search-app", "search", "product", 30),
    Key("search-batch", "search", "product", 10, covers=0.5),
    Key("triage-app", "triage", "product", 20),
    Key("lab-notebook", "notes", "lab", 25),
    Key("lab-crawler", "crawl", "lab", 15, covers=0.4),
)
FEATURES_COVER = {"triage": 0.6}
TEAMS_COVER = {"lab": 0.7}
ORG_COVERS = 1.5


class Limit(msgspec.Struct, frozen=True):
    """A hard budget as the books check it. `name` is that of the shared counters."""

    scope: str
    owner: str
    window: str
    nano: int

    @property
    def name(self) -> str:
        zone = "" if self.window == "lifetime" else "@UTC"
        return f"{self.scope}:{self.owner}|{self.window}{zone}"


def limits(requests: int) -> list[Limit]:
    """Every hard budget of a run of so many requests."""
    found = [Limit("org", ORG, "month", _nano(requests, ORG_COVERS))]
    for team, share in TEAMS_COVER.items():
        found.append(Limit("team", team, "lifetime", _nano(requests, share * _weight("team", team))))
    for feature, share in FEATURES_COVER.items():
        found.append(Limit("feature", feature, "month", _nano(requests, share * _weight("feature", feature))))
    found += [
        Limit("key", key.name, "lifetime", _nano(requests, key.covers * _weight("name", key.name)))
        for key in KEYS
        if key.covers is not None
    ]
    return found


def _weight(field: str, name: str) -> float:
    return sum(key.weight for key in KEYS if getattr(key, field) == name) / sum(key.weight for key in KEYS)


def _nano(requests: int, share: float) -> int:
    return int(requests * share * USUAL_USD * NANO)


class Address(msgspec.Struct, frozen=True):
    """Where one gateway listens."""

    data_port: int
    admin_port: int


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What all gateways share."""

    state: str
    ledger: str
    journal: Path
    hosted: str
    pool: list[str]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How gateways are run in this run."""

    requests: int
    admission: str
    lease_seconds: float


def configuration(address: Address, services: Services, terms: Terms) -> str:
    """The `tollway.yaml` of one gateway."""
    budgets: dict[tuple[str, str], list[Json]] = {}
    for limit in limits(terms.requests):
        row = {"usd": limit.nano / NANO, "per": limit.window}
        budgets.setdefault((limit.scope, limit.owner), []).append(row)
    return yaml.safe_dump(
        {
            "server": {
                "data": {"port": address.data_port},
                "admin": {"port": address.admin_port, "token": ADMIN_TOKEN},
                "drain_seconds": 1,
                "log_level": "warning",
                "journal_dir": str(services.journal),
            },
            "state": services.state,
            "ledger": services.ledger,
            "admission": terms.admission,
            "lease_seconds": terms.lease_seconds,
            "zones": {"local": {"cidrs": ["127.0.0.0/8"]}, "external": {}},
            "privacy": {
                "classes": ["public", "confidential"],
                "default": "public",
                "zones": {"public": ["local", "external"], "confidential": ["local"]},
            },
            "deployments": _deployments(services),
            "models": {
                "gpt-4o": {"use": ["gpt-4o"]},
                "scout": {"use": ["scout"]},
                "auto": {"use": ["scout", "gpt-4o"]},
            },
            "org": {"name": ORG, "budgets": budgets.get(("org", ORG), [])},
            "teams": {
                team: {"budgets": budgets.get(("team", team), [])}
                for team in sorted({key.team for key in KEYS})
            },
            "features": {
                key.feature: {
                    "team": key.team,
                    "budgets": budgets.get(("feature", key.feature), []),
                    "limits": {"concurrent": 1000, "requests_per_minute": 600_000},
                }
                for key in KEYS
            },
            "keys": {
                key.name: {
                    "secret": key.secret,
                    "feature": key.feature,
                    "budgets": budgets.get(("key", key.name), []),
                }
                for key in KEYS
            },
        },
        sort_keys=False,
    )


def _deployments(services: Services) -> Json:
    return {
        "gpt-4o": {
            "provider": "openai",
            "model": HOSTED_MODEL,
            "base_url": f"{services.hosted}/v1",
            "api_key": "sk-simulated-account-key",
            "zone": "external",
            "supports": ["tools"],
            "context_tokens": 8192,
            "max_output_tokens": 256,
            "price": _per_million("gpt-4o"),
        },
        "scout": {
            "provider": "vllm",
            "model": POOL_MODEL,
            "zone": "local",
            "supports": ["tools"],
            "context_tokens": 8192,
            "max_output_tokens": 256,
            "replicas": {"urls": [f"{url}/v1" for url in services.pool]},
            "price": _per_million("scout"),
        },
    }


def _per_million(deployment: str) -> Json:
    """1,000 nano-USD a token are one USD for a million."""
    return {kind: nano / 1000 for kind, nano in PRICES[deployment].items()}
