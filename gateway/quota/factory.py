"""Which store of limits and budgets a `state` URL and the `admission` setting mean."""

from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

from gateway.ports import Clock
from gateway.quota.memory import MemoryAdmission, Shadowed, SpentInWindows
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.client import RedisClient, Timing
from gateway.quota.redis.leased import LeasedAdmission
from gateway.quota.redis.rebuild import QUARANTINE_SECONDS, Books
from gateway.quota.redis.scripts import Scripts
from gateway.quota.redis.shared_counters import share_counters
from gateway.supervised import TaskRegistry

# A worker notices that its connection is dead when a few replies did not come; by then all have come back.
TIMEOUTS_IN_QUARANTINE = 4

AnyAdmission: TypeAlias = MemoryAdmission | RedisAdmission | LeasedAdmission


def open_admission(
    *,
    state: str,
    mode: Literal["exact", "leased"],
    lease_seconds: float,
    timeout_seconds: float,
    org: str,
    clock: Clock,
    zone: ZoneInfo,
    spent_in_windows: SpentInWindows,
    shadowed: Shadowed,
    books: Books,
    tasks: TaskRegistry,
) -> AnyAdmission:
    """Not started yet. In memory every request is admitted exactly, without any round trip.

    `timeout_seconds`: how long a request waits for one reply of the store.
    """
    if state == "memory":
        return MemoryAdmission(clock, spent_in_windows=spent_in_windows, shadowed=shadowed)
    client = RedisClient(parse_target(state), org, Scripts(), Timing(reply_seconds=timeout_seconds))
    shared = share_counters(client, clock, zone, lease_seconds=lease_seconds)
    exact = RedisAdmission(
        shared,
        clock,
        spent_in_windows=spent_in_windows,
        shadowed=shadowed,
        quarantine_seconds=max(QUARANTINE_SECONDS, TIMEOUTS_IN_QUARANTINE * timeout_seconds),
        books=books,
        tasks=tasks,
    )
    return exact if mode == "exact" else LeasedAdmission(exact, shared, clock)
