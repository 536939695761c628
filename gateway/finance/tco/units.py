"""Money and moments as the report has them."""

import datetime as dt
from typing import Any

from gateway.core.money import NANO_PER_USD


def usd(nano: int) -> float:
    return nano / NANO_PER_USD


def iso(at: int) -> str:
    """UTC microseconds since 1970 as ISO 8601, in UTC."""
    moment: Any = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at)
    text: str = moment.isoformat()
    return text.replace("+00:00", "Z")
