"""What the Lua functions answer: one Struct for each reply, in unions that a caller matches to the end.

As in layout.py, the order of the fields is the layout. A reply begins with its tag. Whatever is not one of
the declared replies, with a field too many or one of another type, is a StoreUnavailable that says so.
"""

import enum
from typing import Generic, TypeAlias, TypeVar

import msgspec

from gateway.quota.redis.connection import StoreUnavailable
from gateway.quota.redis.layout import PackedRow
from gateway.quota.redis.resp import Reply

T = TypeVar("T")


class LimitKind(enum.StrEnum):
    CONCURRENT = "c"
    REQUESTS = "q"
    TOKENS = "t"


class RateRow(PackedRow, frozen=True):
    """The tightest limit of a kind: `reset` is how long until all of it is free again."""

    limit: int
    remaining: int
    reset: int


class ShadowedRow(PackedRow, frozen=True):
    """A limit in shadow, by its index in the spec, that would have refused."""

    limit: int
    kind: LimitKind


class CountersRow(PackedRow, frozen=True):
    """A budget's counters: `start` is that of its window, or the oldest part kept when it rolls."""

    start: int
    spent: int
    held: int
    unseen: int


class ScriptReply(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """What a function answers: an array of its tag and then its fields. `now` is the server's clock."""


class Admitted(ScriptReply, frozen=True, tag=1):
    """A hold is granted; `counters` are those of each budget of the spec in turn."""

    output_tokens: int
    nano: int
    now: int
    requests: RateRow | bool
    tokens: RateRow | bool
    shadowed: list[ShadowedRow]
    counters: list[CountersRow]


class Leased(ScriptReply, frozen=True, tag=1):
    """What a worker got of what it wanted; `nano` -1: nothing. `room` is what the tightest hard budget had
    left, -1 without any."""

    now: int
    nano: int
    requests: int
    tokens: int
    typical_tokens: int
    slots: int
    room: int
    counters: list[CountersRow]
    requests_view: RateRow | bool
    tokens_view: RateRow | bool


class Applied(ScriptReply, frozen=True, tag=1):
    now: int


class Swept(ScriptReply, frozen=True, tag=1):
    """So many expired holds were taken."""

    now: int
    holds: int


class Claimed(ScriptReply, frozen=True, tag=1):
    """Whether this worker is the first to claim: 1 or 0."""

    now: int
    first: int


class SnapshotTaken(ScriptReply, frozen=True, tag=1):
    """`epoch` is False when there is none yet; `presumed` holds of dead workers count as unseen."""

    now: int
    epoch: str | bool
    counters: list[CountersRow]
    presumed: int
    workers: int


class BudgetsRead(ScriptReply, frozen=True, tag=1):
    now: int
    counters: list[CountersRow]


class EpochEntered(ScriptReply, frozen=True, tag=1):
    """`closed` is 1 while hard budgets are closed."""

    now: int
    epoch: str
    closed: int


class BarrierStatus(ScriptReply, frozen=True, tag=1):
    """What the server says of the workers in a rebuild. `closed_since` 0: the budgets are open.

    `ready` of `expected` workers have paused; `generation` changes whenever one of them does.
    """

    now: int
    closed_since: int
    ready: int
    expected: int
    generation: int


class NoBudget(ScriptReply, frozen=True, tag=2):
    """The budget with this index in the spec has no room.

    `start` of a rolling one is the oldest part that holds anything: only when that leaves can there be room.
    """

    budget: int
    start: int
    spent: int
    held: int
    unseen: int
    now: int


class NoLimit(ScriptReply, frozen=True, tag=3):
    """The limit with this index in the spec has no room for `wait`, -1: never."""

    limit: int
    kind: LimitKind
    wait: int
    now: int


class Stale(ScriptReply, frozen=True, tag=4):
    """The spec is not for this moment of the server's clock."""

    now: int


class Forgotten(ScriptReply, frozen=True, tag=5):
    """The counters are not those of this epoch."""


class Gap(ScriptReply, frozen=True, tag=6):
    """A batch of settlements before this one never came, so this one was not applied."""

    now: int


class Closed(ScriptReply, frozen=True, tag=7):
    """The counters are being rebuilt."""

    now: int


# Each may be Stale too, which CounterStore.for_spec takes care of.
AdmitReply: TypeAlias = Admitted | NoBudget | NoLimit | Forgotten | Closed
RenewReply: TypeAlias = Admitted | NoBudget | Forgotten | Closed
LeaseReply: TypeAlias = Leased | Forgotten | Closed
RestoreReply: TypeAlias = Applied | Forgotten | Closed

SettleReply: TypeAlias = Applied | Gap

# What a Lua file names in capitals: rows inside replies, and replies.
REPLY_ROWS: dict[str, type[PackedRow]] = {"RATE": RateRow, "SHADOWED": ShadowedRow, "COUNTERS": CountersRow}
REPLIES: dict[str, type[ScriptReply]] = {
    "ADMITTED": Admitted,
    "LEASED": Leased,
    "APPLIED": Applied,
    "SWEPT": Swept,
    "CLAIMED": Claimed,
    "SNAPSHOT_TAKEN": SnapshotTaken,
    "BUDGETS_READ": BudgetsRead,
    "EPOCH_ENTERED": EpochEntered,
    "BARRIER_STATUS": BarrierStatus,
    "NO_BUDGET": NoBudget,
    "NO_LIMIT": NoLimit,
    "STALE": Stale,
    "FORGOTTEN": Forgotten,
    "GAP": Gap,
    "CLOSED": Closed,
}


class ReplyDecoder(Generic[T]):
    """Reads the packed reply of one function. `expected` is the union of what that function may answer."""

    def __init__(self, function: str, expected: object) -> None:
        self.function = function
        self._decode = msgspec.msgpack.Decoder(expected).decode

    def __call__(self, reply: Reply) -> T:
        """Raises StoreUnavailable, which says what is wrong, for what is none of the expected replies."""
        if not isinstance(reply, bytes):
            raise StoreUnavailable(f"the reply of {self.function} is not packed: {type(reply).__name__}")
        try:
            decoded: T = self._decode(reply)
        except msgspec.DecodeError as exc:
            raise StoreUnavailable(f"the reply of {self.function} is malformed: {exc}") from exc
        return decoded
