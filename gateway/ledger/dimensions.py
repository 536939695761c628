"""What usage can be grouped by, and where the values of each dimension are found."""

import enum

import msgspec

from gateway.ledger.tables import DIMENSIONS

TAG = "tag:"

MAX_DIMENSIONS = 8


class Unanswerable(ValueError):
    """The ledger cannot answer that question. The message says what can be asked instead."""


class Dimension(enum.StrEnum):
    """Rollups know the first nine; days, weeks and months are of the org's time zone; the rest needs rows."""

    ORG = "org"
    TEAM = "team"
    FEATURE = "feature"
    KEY = "key"
    MODEL = "model"
    DEPLOYMENT = "deployment"
    ZONE = "zone"
    PRIVACY = "privacy"
    OUTCOME = "outcome"
    DAY = "day"  # as 2026-11-05
    WEEK = "week"  # of ISO 8601, as 2026-W45
    MONTH = "month"  # as 2026-11
    DISPATCHED_MODEL = "dispatched_model"
    REPORTED_MODEL = "reported_model"
    ENDPOINT = "endpoint"
    REPLICA = "replica"
    ADDRESS = "address"
    MODALITIES = "modalities"
    DECISION = "decision"
    STREAM = "stream"
    STATUS = "status"
    FINISH_REASON = "finish_reason"
    ESTIMATED = "estimated"
    SERVICE_TIER = "service_tier"
    PRICE_VERSION = "price_version"
    RATES = "rates"  # what each unit was booked at, as a JSON object
    POLICY_VERSION = "policy_version"
    KIND = "kind"
    FLAGS = "flags"  # what a person should look at, with commas; empty for most
    LATE = "late"  # true for what its own period, closed by then, did not take
    TAGS = "tags"  # all tags of a request as one value, so that nothing is counted under two of them


CALENDAR = (Dimension.DAY, Dimension.WEEK, Dimension.MONTH)


class Grouping(msgspec.Struct, frozen=True):
    """Dimensions in the order asked for; `tag:NAME` is the value of one tag, empty where it is not set."""

    names: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that the database groups by."""
        return tuple(name for name in self.names if name not in CALENDAR)

    @property
    def calendar(self) -> tuple[Dimension, ...]:
        return tuple(Dimension(name) for name in self.names if name in CALENDAR)

    @property
    def needs_rows(self) -> bool:
        return any(name not in DIMENSIONS for name in self.columns)


def by(*names: str) -> Grouping:
    """Raises Unanswerable for what is no dimension."""
    for name in names:
        if name not in set(Dimension) and not (name.startswith(TAG) and name != TAG):
            raise Unanswerable(f"{name!r} is no dimension: use {', '.join(Dimension)} or {TAG}NAME")
    if not 1 <= len(names) <= MAX_DIMENSIONS or len(set(names)) < len(names):
        raise Unanswerable(f"name 1 to {MAX_DIMENSIONS} dimensions, each once")
    return Grouping(tuple(str(name) for name in names))
