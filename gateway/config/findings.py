"""Where cross-checks put what they find."""

from dataclasses import dataclass, field

from gateway.config.places import Place
from gateway.config.problems import Problem, Severity


@dataclass(slots=True)
class Findings:
    """Problems found so far in one file."""

    file: str
    problems: list[Problem] = field(default_factory=list)

    def error(self, place: Place, message: str) -> None:
        self._add(place, message, "error")

    def warn(self, place: Place, message: str, *, blocks_serving: bool = False) -> None:
        self._add(place, message, "warning", blocks_serving)

    def _add(self, place: Place, message: str, severity: Severity, blocks_serving: bool = False) -> None:
        self.problems.append(Problem(place.line, place.path, message, self.file, severity, blocks_serving))
