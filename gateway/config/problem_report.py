"""Where cross-checks report what is wrong."""

from dataclasses import dataclass, field

from gateway.config.nodes import ConfigNode
from gateway.config.problems import Problem, Severity


@dataclass(slots=True)
class ProblemReport:
    """Problems found so far in one file."""

    file: str
    problems: list[Problem] = field(default_factory=list)

    def error(self, place: ConfigNode, message: str) -> None:
        self._add(place, message, "error")

    def warn(self, place: ConfigNode, message: str, *, blocks_serving: bool = False) -> None:
        self._add(place, message, "warning", blocks_serving)

    def _add(self, place: ConfigNode, message: str, severity: Severity, blocks_serving: bool = False) -> None:
        self.problems.append(Problem(place.line, place.path, message, self.file, severity, blocks_serving))
