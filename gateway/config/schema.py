"""The whole of `tollway.yaml` as one frozen value."""

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.config.audit import Audit
from gateway.config.catalogue import Deployment, Model
from gateway.config.kinds import AllowBlank, Name, Seconds, Section
from gateway.config.privacy import Privacy, Zone, default_privacy
from gateway.config.server import Server
from gateway.config.telemetry import Telemetry
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
    telemetry: Telemetry = Field(default=Telemetry(), description="what goes to collectors")

    @property
    def ledger_url(self) -> str:
        """That of the ledger, with its password if it has one: not for people."""
        return self.ledger.get_secret_value()


# What every value may be besides: a text with a variable in it.
_VARIABLE: dict[str, Any] = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}
_NUMERAL: dict[str, Any] = {"type": "string", "pattern": r"^[+-]?[0-9][0-9_]*(\.[0-9]*)?([eE][+-]?[0-9]+)?$"}
_BESIDES: dict[object, list[dict[str, Any]]] = {
    "number": [_NUMERAL, _VARIABLE],
    "integer": [_NUMERAL, _VARIABLE],
    "boolean": [{"enum": ["true", "false"]}, _VARIABLE],
}


def json_schema() -> dict[str, Any]:
    """JSON Schema of the file, for editors that complete and check while typing.

    It accepts whatever the loader accepts, variables and quoted numbers included.
    """
    found: dict[str, Any] = _as_written(Settings.model_json_schema())
    return found


def _as_written(node: Any) -> Any:
    """`node` with all the ways in which a file may write its value."""
    if isinstance(node, list):
        return [_as_written(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: _member_as_written(key, value) for key, value in node.items()}
    kind = inner.get("type")
    if kind == "object":
        return {**inner, "type": ["object", "null"]}  # an empty section is one with nothing set
    if kind == "string" and not inner.keys() & _BOUNDS:
        # The loader reads every scalar as a text: a name may look like a number.
        return {**inner, "type": ["string", "number", "boolean"]}
    besides = _BESIDES.get(kind) or ([_VARIABLE] if inner.keys() & _BOUNDS else None)
    return _any_of(inner, besides) if besides else inner


def _member_as_written(key: str, value: Any) -> Any:
    if key in ("properties", "$defs"):  # names of the file's own, not words of JSON Schema
        return {name: _as_written(inner) for name, inner in value.items()}
    return value if key in ("default", "enum", "const", "required") else _as_written(value)


_BOUNDS = frozenset({"enum", "const", "pattern", "format"})
_ABOUT = frozenset({"title", "description", "default", "examples", "deprecated"})


def _any_of(node: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """`node` or one of `others`; what is said about it stays where an editor looks for it."""
    about = {key: value for key, value in node.items() if key in _ABOUT}
    checked = {key: value for key, value in node.items() if key not in _ABOUT}
    return {**about, "anyOf": [checked, *others]}
