"""What the schema accepts before its behaviour exists. To put something in force, delete its line here."""

from dataclasses import dataclass
from typing import Final

from gateway.config.nodes import ConfigNode
from gateway.config.problem_report import ProblemReport

_NOT_SERVED: Final = "the gateway does not serve this file"


@dataclass(frozen=True, slots=True)
class NotInForce:
    """A setting that is not in force yet, and what happens `instead`.

    It concerns every value at `pattern`, or those whose text is one of `only`, or is none of `but`.
    `blocks_serving`: going on would be unsafe, so `serve` refuses the file.
    """

    pattern: str
    instead: str
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    blocks_serving: bool = False

    def concerns(self, node: ConfigNode) -> bool:
        text = node.text
        if text is None:
            return not self.only and not self.but
        # Of an address the scheme decides, so `sqlite` stands for every SQLite file.
        word = text.partition("://")[0]
        return word in self.only if self.only else word not in self.but


def _blocking(pattern: str, *, only: tuple[str, ...] = (), but: tuple[str, ...] = ()) -> NotInForce:
    return NotInForce(pattern, _NOT_SERVED, only, but, blocks_serving=True)


NOT_IN_FORCE: Final[tuple[NotInForce, ...]] = (
    _blocking("deployments.*.provider", only=("litellm",)),
    _blocking("deployments.*.replicas.dns"),
    _blocking("deployments.*.replicas.kubernetes"),
    NotInForce(
        "deployments.*.serves.*", "requests to it are refused", but=("chat", "completions", "embeddings")
    ),
    NotInForce("features.*.capture", "nothing is kept", only=("true",)),
)


def check_not_in_force(root: ConfigNode, report: ProblemReport) -> None:
    """Warns of each use of something that is not in force yet."""
    for setting in NOT_IN_FORCE:
        for node in root.find(setting.pattern):
            if setting.concerns(node):
                message = f"accepted, not in force yet: {setting.instead}"
                report.warn(node, message, blocks_serving=setting.blocks_serving)
