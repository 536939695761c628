"""`tollway serve` as operators run it: SIGHUP reloads, and a broken file does not stop it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import ADMIN_TOKEN, PATIENCE_SECONDS, config_text, unused_url, version

UNWATCHED = config_text()


class Served:
    """The process, its log and its admin port."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, config: Path) -> None:
        self.process = process
        self.log = log
        self.config = config
        until(lambda: re.search(r"\(admin (http://\S+)\)", self.text) is not None)
        found = re.search(r"\(admin (http://\S+)\)", self.text)
        assert found is not None
        self.admin = found[1]

    @property
    def text(self) -> str:
        assert self.process.poll() is None, self.log.read_text()
        return self.log.read_text()

    def serves(self, text: str) -> bool:
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        scrape = httpx.get(
            f"{self.admin}/metrics", headers=headers, timeout=PATIENCE_SECONDS, trust_env=False
        )
        return f'tollway_policy_info{{version="{version(text)}"}} 1.0' in scrape.text

    def reload(self, text: str) -> None:
        self.config.write_text(text)
        self.process.send_signal(signal.SIGHUP)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    config, log = tmp_path / "tollway.yaml", tmp_path / "log"
    config.write_text(UNWATCHED)
    places = {name: unused_url() for name in ("EXTERNAL", "REPLICA_1", "REPLICA_2")}
    secrets = {
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "APP_KEY": "key-0123456789012345",
        "NARROW_KEY": "key-5432109876543210",
    }
    environ = {**os.environ, **places, **secrets, "LEDGER": f"sqlite:///{tmp_path / 'ledger.db'}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)],
            env=environ,
            stdout=output,
            stderr=output,
        )
    try:
        yield Served(process, log, config)
    finally:
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


def test_sighup_reloads_and_a_broken_file_leaves_what_serves(served: Served) -> None:
    assert served.serves(UNWATCHED)
    changed = UNWATCHED + "# another version\n"
    served.reload(changed)
    until(lambda: served.serves(changed))
    broken = changed.replace("use:", "usse:")
    served.reload(broken)
    until(lambda: "config.reload_refused" in served.text)
    line = broken[: broken.index("usse:")].count("\n") + 1
    (refusal,) = [entry for entry in served.text.splitlines() if "config.reload_refused" in entry]
    assert f"{served.config}:{line}: models.gpt-4o.usse:" in refusal
    assert served.serves(changed)
    served.reload(UNWATCHED)
    until(lambda: served.serves(UNWATCHED))
