"""How many connections each port may have, so that neither uses up the process's file descriptors.

Each request may need a descriptor twice: for its client, and for its upstream. Beside them some are kept back
for the ledger, the shared state, logs and files. So the data port gets half of what the others leave.
"""

import resource

import msgspec

# For all that is no client and no upstream of a request: about 30 are open in a gateway that is idle.
RESERVED = 96
# Its clients are few: probes, a scrape, some operators.
MOST_ADMIN = 256
# Beyond this each connection's memory is the bound, and no longer its descriptor.
MOST_DATA = 100_000
LEAST = 4


class ConnectionBounds(msgspec.Struct, frozen=True):
    """Connections that each port may have. `lowered`: some that the configuration asked for are not there."""

    data: int
    admin: int
    lowered: bool = False


def descriptor_limit() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2 * MOST_DATA + MOST_ADMIN + RESERVED if soft == resource.RLIM_INFINITY else soft


def connection_bounds(limit: int, data: int | None = None, admin: int | None = None) -> ConnectionBounds:
    """Within `limit` descriptors. `data` and `admin` are what was asked for; None: as many as suit."""
    reserved = min(RESERVED, limit // 4)
    room = max(2 * LEAST, limit - reserved)
    admin_bound = min(MOST_ADMIN, max(LEAST, limit // 16)) if admin is None else min(admin, room - LEAST)
    left = room - admin_bound
    data_bound = min(MOST_DATA, max(LEAST, left // 2)) if data is None else min(data, left)
    lowered = data_bound < (data or 0) or admin_bound < (admin or 0)
    return ConnectionBounds(data_bound, admin_bound, lowered)
