"""A gateway that is not started, over simulators that run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.app import Gateway
from gateway.simulators.running import Simulator
from tests.e2e.harness import ADMIN_TOKEN, APP_KEY, NARROW_KEY, config_file, config_text


def made(
    folder: Path, external: Simulator, replicas: Sequence[Simulator], changes: Mapping[str, Any] = {}
) -> Gateway:
    environ = {
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "APP_KEY": APP_KEY,
        "NARROW_KEY": NARROW_KEY,
        "LEDGER": f"sqlite:///{folder / 'ledger.db'}",
        "EXTERNAL": external.url,
        **{f"REPLICA_{number}": replica.url for number, replica in enumerate(replicas, 1)},
    }
    file = config_file(folder, config_text(changes), environ)
    found = file.read()
    assert found.built is not None, [str(problem) for problem in found.problems]
    return Gateway(found.built, file)
