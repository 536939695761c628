"""What a comparison is made from."""

from collections.abc import Sequence
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.catalog import Deployment
from gateway.core.pool_cost import PoolTerms


class TcoSources(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger, and what the configuration says of both sides. `ledger_url` may hold a password."""

    ledger_url: str
    time_zone: ZoneInfo
    deployments: Sequence[Deployment]
    pools: Sequence[PoolTerms]
