"""The whole of `tollway.yaml` as one frozen value."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.config.audit import Audit
from gateway.config.catalogue import Deployment, Model
from gateway.config.kinds import AllowBlank, Name, Seconds, Section
from gateway.config.privacy import Privacy, Zone, default_privacy
from gateway.config.server import Server
from gateway.config.tenancy import Feature, Key, Org, PolicyTest, Team
from gateway.config.urls import Address, LedgerUrl, StateUrl


class Settings(Section):
    server: Server = Field(default=Server(), description="listeners and bounds")
    state: StateUrl = Field(
        default=Address("memory"),
        json_schema_extra={"default": "memory"},
        description="where limits and budgets are counted: memory, or a Redis URL",
    )
    state_timeout_seconds: Seconds = Field(
        default=0.5,
        description="how long a request waits for one reply of the shared state before it is decided without "
        "it, seconds",
    )
    ledger: LedgerUrl = Field(
        default=Address("sqlite:///tollway.db"),
        json_schema_extra={"default": "sqlite:///tollway.db"},
        description="database of the ledger: sqlite:///path or postgresql://",
    )
    audit: Audit = Field(default=Audit(), description="the log of what left, where to, and who changed what")
    admission: Literal["exact", "leased"] = Field(
        default="exact", description="ask the shared state for each request, or lease parts of budgets ahead"
    )
    lease_seconds: float = Field(
        default=30,
        ge=2,
        le=3600,
        description="how long the shared state keeps what a worker holds after its last sign of life",
    )
    zones: Annotated[dict[Name, Zone], AllowBlank] = Field(default={}, description="where bytes can end up")
    privacy: Privacy = Field(
        default_factory=lambda set_so_far: default_privacy(set_so_far.get("zones", {})),
        description="classes, the zones that each may reach, and what raises a request's class",
    )
    deployments: Annotated[dict[Name, Deployment], AllowBlank] = Field(
        default={}, description="priced destinations by name"
    )
    models: Annotated[dict[Name, Model], AllowBlank] = Field(
        default={}, description="names that clients send, and what may answer them"
    )
    org: Org = Field(default=Org(), description="the organisation that pays in the end")
    teams: Annotated[dict[Name, Team], AllowBlank] = Field(default={}, description="teams by name")
    features: Annotated[dict[Name, Feature], AllowBlank] = Field(
        default={}, description="product features by name"
    )
    keys: Annotated[dict[Name, Key], AllowBlank] = Field(default={}, description="keys of clients by name")
    policy_tests: tuple[PolicyTest, ...] = Field(
        default=(), description="decisions that must come out as written"
    )


def json_schema() -> dict[str, Any]:
    """JSON Schema of the file, for editors that complete and check while typing."""
    return Settings.model_json_schema()
