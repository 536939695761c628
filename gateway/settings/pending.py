"""What the schema accepts before its behaviour exists. To put something in force, delete its line here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.settings.findings import Findings
from gateway.settings.places import Place

_ANY_SCOPE: Final = ("org", "teams.*", "features.*", "keys.*")


def _always(text: str | None) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Pending:
    """Something at `pattern` whose text `concerns` accepts. `instead` says what happens for now.

    `blocks_serving`: what happens for now would be unsafe, so `serve` refuses the file.
    """

    pattern: str
    instead: str
    concerns: Callable[[str | None], bool] = _always
    blocks_serving: bool = False


def _is(*texts: str) -> Callable[[str | None], bool]:
    return lambda text: text in texts


def _is_not(*texts: str) -> Callable[[str | None], bool]:
    return lambda text: text is not None and text not in texts


def _starts(prefix: str) -> Callable[[str | None], bool]:
    return lambda text: text is not None and text.startswith(prefix)


def _for_each_scope(tail: str, instead: str, *texts: str, blocks: bool = False) -> tuple[Pending, ...]:
    concerns = _is(*texts) if texts else _always
    return tuple(Pending(f"{scope}.{tail}", instead, concerns, blocks) for scope in _ANY_SCOPE)


PENDING: Final[tuple[Pending, ...]] = (
    Pending("state", "only memory is, so the gateway does not serve this file", _is_not("memory"), True),
    Pending("ledger", "only SQLite is, so the gateway does not serve this file", _starts("postgresql"), True),
    Pending("admission", "each request is admitted exactly", _is("leased")),
    Pending("deployments.*.replicas.dns", "the gateway does not serve this file; list urls", _always, True),
    Pending(
        "deployments.*.replicas.kubernetes",
        "the gateway does not serve this file; list urls",
        blocks_serving=True,
    ),
    Pending("deployments.*.provider", "the gateway does not serve this file", _is("litellm"), True),
    Pending(
        "deployments.*.serves.*",
        "requests to this endpoint are refused",
        _is_not("chat", "completions", "embeddings"),
    ),
    Pending("deployments.*.supports.*", "it is not asked for by any request", _is("n", "reasoning")),
    Pending("deployments.*.successor", "requests after retires_on fail with an error that names it"),
    Pending("deployments.*.license", "no request is refused or warned about for its licence"),
    Pending("features.*.capture", "nothing is kept", _is("true")),
    *_for_each_scope(
        "budgets.*.per", "the gateway does not serve this file", "minute", "hour", "week", blocks=True
    ),
    *_for_each_scope("budgets.*.soft", "this budget refuses nothing and alerts nobody", "true"),
    *_for_each_scope("budgets.*.alert_at", "nobody is alerted"),
    *_for_each_scope("limits.shadow", "these limits neither refuse nor count", "true"),
)


def check_pending(root: Place, findings: Findings) -> None:
    """Warns of each use of something that is not in force yet."""
    for pending in PENDING:
        for place in root.find(pending.pattern):
            if pending.concerns(place.text):
                findings.warn(
                    place,
                    f"accepted, not in force yet: {pending.instead}",
                    blocks_serving=pending.blocks_serving,
                )
