"""How records of refused requests are written to the ledger's database."""

import operator
from typing import Any

from gateway.core.refused_request import RefusedRequest

_FIELDS = RefusedRequest.__struct_fields__
# A journal that is replayed may bring one again.
INSERT_REFUSED = (
    f"INSERT INTO refused_request ({', '.join(_FIELDS)}) VALUES ({', '.join('?' * len(_FIELDS))}) "  # noqa: S608
    "ON CONFLICT DO NOTHING"
)

_values = operator.attrgetter(*_FIELDS)


def refused_values(refused: RefusedRequest) -> tuple[Any, ...]:
    """The parameters of INSERT_REFUSED."""
    values: tuple[Any, ...] = _values(refused)
    return values
