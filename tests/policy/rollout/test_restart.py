"""Which changes a running gateway takes over, and which it names as needing a restart."""

from pathlib import Path

import pytest

from gateway.config.restart import needs_restart
from gateway.config.schema import Settings
from tests.core.files import EXAMPLE, changed, loaded

TRACES = "telemetry: {traces: {endpoint: http://127.0.0.1:4318/v1/traces}}"


def settings(folder: Path, text: str) -> Settings:
    found = loaded(folder, text)
    assert found.settings is not None, found.errors
    return found.settings


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("port: 8080", "port: 8090", ["server.data.port"]),
        ("port: 8081", "port: 8091", ["server.admin.port"]),
        ("state: memory", "state: redis://127.0.0.1:6379/0", ["state"]),
        ("sqlite:///var/tollway.db", "sqlite:///var/other.db", ["ledger"]),
        ("max_body_mib: 64", "max_body_mib: 64\n  drain_seconds: 7", ["server.drain_seconds"]),
        ("max_body_mib: 64", "max_body_mib: 64\n  upstream_client: aiohttp", ["server.upstream_client"]),
        ("ledger: sqlite", f"{TRACES}\nledger: sqlite", ["telemetry.traces"]),
        ("max_body_mib: 64", "max_body_mib: 32", []),
        ("max_body_mib: 64", "max_body_mib: 64\n  proxy_from_env: true", []),
        ("max_body_mib: 64", "max_body_mib: 64\n  watch: false", []),
        ("per: day", "per: hour", []),
        ("prefer: cost", "prefer: order", []),
    ],
)
def test_each_setting_that_needs_a_restart_is_named(
    tmp_path: Path, old: str, new: str, named: list[str]
) -> None:
    before, after = settings(tmp_path, EXAMPLE), settings(tmp_path, changed((old, new)))
    assert needs_restart(before, after) == named
    assert needs_restart(after, before) == named


def test_all_of_them_are_named_at_once(tmp_path: Path) -> None:
    after = settings(tmp_path, changed(("port: 8080", "port: 1"), ("port: 8081", "port: 2")))
    assert needs_restart(settings(tmp_path, EXAMPLE), after) == ["server.data.port", "server.admin.port"]


def test_one_setting_of_traces_is_named_by_itself(tmp_path: Path) -> None:
    before, after = (
        settings(tmp_path, changed(("ledger: sqlite", f"{traces}\nledger: sqlite")))
        for traces in (TRACES, TRACES.replace("}}", ", sample_ratio: 0.5}}"))
    )
    assert needs_restart(before, after) == ["telemetry.traces.sample_ratio"]
