"""Which settings a running gateway cannot take over: ports, databases, whatever it was built around."""

from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from gateway.config.schema import Settings

# Of `server`, these are read anew with each version. Everything else there, a later addition included, is
# taken to need a restart until it is listed here.
RELOADED_OF_SERVER: Final = frozenset(
    {"max_body_mib", "max_body_mib_in_flight", "max_body_mib_in_flight_per_key", "max_messages", "max_values"}
    | {"key_pepper", "watch", "proxy_from_env", "refusals"}
)
RELOADED_OF_SECTIONS: Final = frozenset({"server.data.trusted_proxies"})
NEED_RESTART: Final = frozenset({"state", "ledger", "admission", "state_timeout_seconds"})


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """The settings that differ and cannot change while serving, as `server.data.port`."""
    found = [name for name in sorted(NEED_RESTART) if getattr(old, name) != getattr(new, name)]
    if old.org.name != new.org.name:
        found.append("org.name")  # limits and budgets are counted under it
    for name in type(old.server).model_fields:
        if name not in RELOADED_OF_SERVER:
            found += _differing(getattr(old.server, name), getattr(new.server, name), f"server.{name}")
    found += _differing(old.telemetry, new.telemetry, "telemetry")
    return [path for path in found if path not in RELOADED_OF_SECTIONS]


def _differing(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, BaseModel) and type(old) is type(new):
        for name in type(old).model_fields:
            yield from _differing(getattr(old, name), getattr(new, name), f"{path}.{name}")
    elif old != new:
        yield path
