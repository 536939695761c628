"""Which store of limits and budgets a `state` URL and the `admission` setting mean."""

from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

from gateway.ports import Clock
from gateway.quota.memory import MemoryAdmission, Shadowed, SpentInWindows
from gateway.quota.redis.addresses import parse_target
from gateway.quota.redis.admission import RedisAdmission
from gateway.quota.redis.leased import LeasedAdmission
from gateway.quota.redis.link import Link, Timing
from gateway.quota.redis.rebuild import Books
from gateway.quota.redis.scripts import Scripts
from gateway.supervised import TaskRegistry

AnyAdmission: TypeAlias = MemoryAdmission | RedisAdmission | LeasedAdmission


def open_admission(
    *,
    state: str,
    mode: Literal["exact", "leased"],
    lease_seconds: float,
    org: str,
    clock: Clock,
    zone: ZoneInfo,
    spent_in_windows: SpentInWindows,
    shadowed: Shadowed,
    books: Books,
    tasks: TaskRegistry,
) -> AnyAdmission:
    """Not started yet. In memory every request is admitted exactly, without any round trip."""
    if state == "memory":
        return MemoryAdmission(clock, spent_in_windows=spent_in_windows, shadowed=shadowed)
    link = Link(parse_target(state), org, Scripts(), Timing())
    exact = RedisAdmission(
        link,
        clock,
        zone,
        spent_in_windows=spent_in_windows,
        shadowed=shadowed,
        lease_seconds=lease_seconds,
        books=books,
        tasks=tasks,
    )
    return exact if mode == "exact" else LeasedAdmission(exact, link, clock, lease_seconds=lease_seconds)
