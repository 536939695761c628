"""One place where Tollway is installed: configuration, ledger, journal folder and shared state.

Releases come and go in it; what they leave behind is all in its folder, its database and its Valkey.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.upgrade.gateway import Gateway
from tests.upgrade.ledgers import Ledger, Row
from tests.upgrade.releases import Release
from tests.upgrade.shared_state import Saved, SharedState

Json = dict[str, Any]

# Files that no gateway reads any more: each is something that it did not understand.
SET_ASIDE = ("*.damaged", "*.unreadable", "*.refused.jsonl", "*.partial")


class Installation:
    """Where gateways of both releases run on the same data. End it with `end`."""

    def __init__(self, folder: Path, config: Json, ledger: Ledger, state: SharedState | None) -> None:
        self.folder = folder
        self.ledger = ledger
        self.state = state
        self._admin_token = config["server"]["admin"]["token"]
        self._saved_folder = folder.with_name(f"{folder.name}-saved")
        self._saved_state: Saved = {}
        self.config = folder / "tollway.yaml"
        self.config.write_text(yaml.safe_dump(config, sort_keys=False))
        self.gateways: list[Gateway] = []

    async def start(self, *releases: Release) -> list[Gateway]:
        """One more gateway of each, once all of them serve."""
        numbers = range(len(self.gateways), len(self.gateways) + len(releases))
        started = [
            Gateway(release, self.config, self.folder / f"gateway-{number}.log", self._admin_token)
            for number, release in zip(numbers, releases, strict=True)
        ]
        self.gateways += started
        await asyncio.gather(*(gateway.start() for gateway in started))
        return started

    def end(self) -> None:
        for gateway in self.gateways:
            gateway.kill_all()

    async def save(self) -> None:
        """Remember all of it, while no gateway runs."""
        shutil.copytree(self.folder, self._saved_folder)
        await self.ledger.save()
        self._saved_state = {} if self.state is None else self.state.saved()

    async def restore(self) -> None:
        """Be as it was when it was saved, with no gateway."""
        self.end()
        shutil.rmtree(self.folder)
        shutil.copytree(self._saved_folder, self.folder)
        await self.ledger.restore()
        if self.state is not None:
            self.state.restore(self._saved_state)

    # --- files ---

    def segments(self) -> list[Path]:
        """Of journals of gateways, alive or dead."""
        found = (path for pattern in ("*.journal", "*.journal2") for path in self.folder.rglob(pattern))
        return sorted(path for path in found if path.is_file())

    def dead_segments(self) -> list[Path]:
        """Those that no living process has open."""
        open_now = {file for gateway in self.gateways if gateway.is_alive for file in gateway.open_files()}
        return [path for path in self.segments() if path not in open_now]

    def spilled(self) -> list[Path]:
        """Rows that a stop of release 0.1.0 could not save. This version leaves them in its journal."""
        return sorted(self.folder.rglob("*.unsaved-*.jsonl"))

    def set_aside(self) -> list[Path]:
        return sorted(path for pattern in SET_ASIDE for path in self.folder.rglob(pattern))

    def dead_journals(self) -> int:
        """How many gateways are dead whose journal nobody has taken over yet."""
        alive = sum(gateway.is_alive for gateway in self.gateways)
        return len(list(self.folder.rglob("*.lock"))) - alive

    # --- reports ---

    async def usage(self, release: Release) -> list[Row]:
        """`tollway usage` of a release, by nearly everything that there is."""
        by = "feature,model,deployment,outcome,endpoint,price_version,tag:ticket"
        rows: list[Row] = await release.report(self.config, "usage", "--by", by)
        return sorted(rows, key=str)
