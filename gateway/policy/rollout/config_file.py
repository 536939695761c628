"""The configuration file that a gateway was started with, to be read again at any time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.config.build import Built, build
from gateway.config.load import Loaded, load
from gateway.config.problems import Problem
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.policy.policy_tests import find_tests, run_tests

# Device, inode, size and time of change: what a write or a rename changes at least one of.
Mark = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ConfigReading:
    """One reading of the file. `built` is None when it cannot be served; `problems` then say why.

    Otherwise `problems` are warnings.
    """

    built: Built | None
    problems: list[Problem]
    loaded: Loaded


class ConfigFile:
    """`environ` is where `${VAR}` comes from, each time that the file is read."""

    def __init__(self, path: Path, environ: Mapping[str, str], prices: PriceCatalogue | None = None) -> None:
        self.path = path
        self._environ = environ
        self._prices = prices or PriceCatalogue()
        self.read_mark: Mark | None = None  # as it was when it was last read

    def read(self, text: str | None = None) -> ConfigReading:
        """What the file asks for now. Blocks; never raises for what is in the file.

        `text` is what another process has read out of it; left out: what it holds now.
        """
        mark = self.mark()
        if text is None or self._holds(text):
            self.read_mark = mark
        loaded = load(self.path, self._environ, text=text)
        built, errors = build(loaded, self._prices)
        if built is None:
            return ConfigReading(None, errors, loaded)
        if loaded.blocking:
            return ConfigReading(None, loaded.blocking, loaded)
        return ConfigReading(built, loaded.warnings, loaded)

    def read_tested(self) -> ConfigReading:
        """As `read`; a file whose own policy tests fail cannot be served. Not for a running loop."""
        candidate = self.read()
        built, loaded = candidate.built, candidate.loaded
        if built is None or not built.settings.policy_tests:
            return candidate
        tests, _ = find_tests(loaded, built, (), self._environ)
        failed = [
            loaded.problem(("policy_tests", index), str(failure))
            for index, outcome in enumerate(run_tests(built, tests))
            for failure in outcome.failures
        ]
        return ConfigReading(None, failed, loaded) if failed else candidate

    def _holds(self, text: str) -> bool:
        try:
            return self.path.read_bytes() == text.encode()
        except OSError:
            return False

    def mark(self) -> Mark | None:
        """Changes when the file does; None while there is none. A symbolic link is followed."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
