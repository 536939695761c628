"""What the schema accepts before its behaviour exists. To put something in force, delete its line here."""

from dataclasses import dataclass
from typing import Final

from gateway.config.findings import Findings
from gateway.config.places import Place

_NOT_SERVED: Final = "the gateway does not serve this file"


@dataclass(frozen=True, slots=True)
class Pending:
    """A setting that is not in force yet, and what happens `instead`.

    It concerns every place at `pattern`, or those whose text is one of `only`, or is none of `but`.
    `blocks_serving`: going on would be unsafe, so `serve` refuses the file.
    """

    pattern: str
    instead: str
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    blocks_serving: bool = False

    def concerns(self, place: Place) -> bool:
        text = place.text
        if text is None:
            return not self.only and not self.but
        # Of an address the scheme decides, so `sqlite` stands for every SQLite file.
        word = text.partition("://")[0]
        return word in self.only if self.only else word not in self.but


def _blocking(pattern: str, *, only: tuple[str, ...] = (), but: tuple[str, ...] = ()) -> Pending:
    return Pending(pattern, _NOT_SERVED, only, but, blocks_serving=True)


PENDING: Final[tuple[Pending, ...]] = (
    _blocking("deployments.*.provider", only=("litellm",)),
    _blocking("deployments.*.replicas.dns"),
    _blocking("deployments.*.replicas.kubernetes"),
    Pending(
        "deployments.*.serves.*", "requests to it are refused", but=("chat", "completions", "embeddings")
    ),
    Pending("features.*.capture", "nothing is kept", only=("true",)),
)


def check_pending(root: Place, findings: Findings) -> None:
    """Warns of each use of something that is not in force yet."""
    for pending in PENDING:
        for place in root.find(pending.pattern):
            if pending.concerns(place):
                message = f"accepted, not in force yet: {pending.instead}"
                findings.warn(place, message, blocks_serving=pending.blocks_serving)
