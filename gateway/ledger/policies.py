"""Policy versions in the ledger's database: the text of each, and when it came into force."""

import msgspec
from sqlalchemy import select

from gateway.ledger.tables import policy_in_force, policy_text
from gateway.ledger.url import database_of

_KEEP = "INSERT INTO policy_text (version, text, whole, kept_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_LATEST = "SELECT version FROM policy_in_force ORDER BY at DESC LIMIT 1"
_PUT = "INSERT INTO policy_in_force (at, version, how) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"


class PolicyText(msgspec.Struct, frozen=True, kw_only=True):
    """A version and its text. `whole` False: secrets were taken out, so it cannot be put back.

    `kept_at` in UTC microseconds.
    """

    version: str
    text: str
    whole: bool
    kept_at: int


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """From `at` (UTC microseconds) on `version` was served; `how` tells what brought it."""

    at: int
    version: str
    how: str


class PolicyHistory(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of past versions. `changes` is oldest first; some texts were never in force."""

    changes: list[InForce]
    texts: dict[str, PolicyText]


def keep_policy_text(url: str, text: PolicyText) -> None:
    """Keep `text`; the same version again changes nothing. Raises LedgerUnavailable."""
    with database_of(url).maintenance() as maintenance, maintenance.begin(exclusive=False) as ledger:
        ledger.run(_KEEP, text.version, text.text, text.whole, text.kept_at)


def put_in_force(url: str, text: PolicyText, change: InForce) -> None:
    """Note that `change` happened, unless its version was in force already, and keep its text.

    Several workers may note the same change. Raises LedgerUnavailable.
    """
    with database_of(url).maintenance() as maintenance, maintenance.begin(exclusive=False) as ledger:
        ledger.run(_KEEP, text.version, text.text, text.whole, text.kept_at)
        latest = ledger.run(_LATEST)
        if not latest or latest[0][0] != change.version:
            ledger.run(_PUT, change.at, change.version, change.how)


def read_policies(url: str) -> PolicyHistory:
    """Everything that is kept of policy versions. Raises LedgerUnavailable."""
    change, text = policy_in_force.c, policy_text.c
    with database_of(url).reading() as ledger:
        changes = ledger.fetch(select(change.at, change.version, change.how).order_by(change.at))
        texts = ledger.fetch(select(text.version, text.text, text.whole, text.kept_at))
    return PolicyHistory(
        changes=_merged([InForce(at=at, version=version, how=how) for at, version, how in changes]),
        texts={
            version: PolicyText(version=version, text=body, whole=bool(whole), kept_at=kept_at)
            for version, body, whole, kept_at in texts
        },
    )


def _merged(changes: list[InForce]) -> list[InForce]:
    """Without those that two workers noted at nearly the same time."""
    return [
        one
        for before, one in zip([None, *changes], changes, strict=False)
        if before is None or before.version != one.version
    ]
