"""What passes between Python and the Lua functions, declared once: keys, arguments, packed rows and replies.

A row is an array, so the order of the fields here is its layout. The Lua files name a position as
`LIMIT.scope`; scripts.py puts the number there, and fails for a name that is not declared here.
`HoldRow`, with the rows in it, is also stored in Redis: old and new gateways share it, so it only ever grows
at its end.

Units: money in nano-USD, tokens in tokens, moments in microseconds since 1970, durations in microseconds,
windows in seconds.
"""

import msgspec


class PackedRow(msgspec.Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """A packed row: an array with the values of its fields in order."""


# --- requests: inside a spec and an ask ---


class LimitRow(PackedRow, frozen=True):
    """One scope's limits; 0 for none. `shadow` is 1 when they only report, `typical` when tokens are held for
    a typical answer."""

    scope: str
    requests: int
    tokens: int
    concurrent: int
    shadow: int
    typical: int


class BudgetRow(PackedRow, frozen=True):
    """One budget. `start` and `duration` are seconds of its calendar window, 0 when it rolls or never ends;
    `part` is the seconds of one part when it rolls, else 0."""

    name: str
    start: int
    limit: int
    soft: int
    part: int
    duration: int


class SpecRow(PackedRow, frozen=True):
    """What requests count against, from `start` until before `ends`, UTC seconds; `ends` 0: for ever."""

    start: int
    ends: int
    limits: list[LimitRow]
    budgets: list[BudgetRow]


class AskRow(PackedRow, frozen=True):
    """What a request wants, held as `hold` for `lease`. `output_cap` bounds its output cap once more.

    `typical_output` 0: it is not known.
    """

    hold: str
    prompt_nano: int
    nano_per_million: int
    output_tokens: int
    explicit: int
    prompt_tokens: int
    lease: int
    choices: int
    output_cap: int
    typical_output: int


class LeaseRow(PackedRow, frozen=True):
    """What a worker would like to hold ahead as `hold`, and with how many other quota leases of its own."""

    hold: str
    nano: int
    requests: int
    tokens: int
    typical_tokens: int
    slots: int
    lease: int
    worker: str
    leases: int


# --- stored holds, and what changes them ---


class WindowRow(PackedRow, frozen=True):
    """A budget that a hold counts in. `start` is its window's, or -1 when it rolls in parts of `part`."""

    name: str
    start: int
    part: int


class TakenRow(PackedRow, frozen=True):
    """What a hold took of one scope's tokens per minute. `typical` is 1 where that was a typical answer."""

    scope: str
    per_minute: int
    tokens: int
    typical: int = 0


class HoldRow(PackedRow, frozen=True):
    """A hold as Redis stores it: in `slot_scopes` it has `slots` each (one when left out)."""

    nano: int
    admitted_at: int
    windows: list[WindowRow]
    slot_scopes: list[str]
    taken: list[TakenRow]
    slots: int = 1


class RateCorrection(PackedRow, frozen=True):
    """Microseconds to add to a stored rate, named by its field."""

    field: str
    microseconds: float


class RemainderRow(PackedRow, frozen=True):
    """What stays of a quota lease: money held (-1: it ends), slots, and corrections of its rates."""

    nano: int
    slots: int
    corrections: list[RateCorrection]


class SettlementRow(PackedRow, frozen=True):
    """What a hold used; `used` tokens are -1 when not known, but then at least `least`.

    `windows` are those of a hold that this server has lost: its spending is added, and held stays.
    """

    hold: str
    spent: int
    unseen: int
    used: int
    windows: list[WindowRow] | None = None
    remainder: RemainderRow | None = None
    least: int = 0


class OpenHoldRow(PackedRow, frozen=True):
    """A hold to register again."""

    hold: str
    record: HoldRow


class NewSlotsRow(PackedRow, frozen=True):
    """Scopes in which an open hold gets a slot."""

    hold: str
    scopes: list[str]


class MissingRow(PackedRow, frozen=True):
    """What the ledger has more than was counted, in the window of a budget that starts at `start`."""

    start: int
    spent: int
    unseen: int


KEYS = ("state", "holds", "due", "presumed", "worker:", "slots:", "alive", "claim:", "ready")

# What is read of the state hash at once: its own fields, then some of each limit, then some of each budget.
STORED: dict[str, tuple[str, ...]] = {
    "STATE_FIELD": ("epoch", "closed"),
    "LIMIT_FIELD": ("requests_at", "tokens_at", "leased_until"),
    "BUDGET_FIELD": ("start", "spent", "held", "unseen"),
}

# The arguments of each function, in order.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "admit": ("epoch", "spec", "ask"),
    "renew": ("epoch", "spec", "ask", "hold", "spent", "unseen", "used", "least"),
    "lease": ("epoch", "spec", "wanted"),
    "settle": ("worker", "batch", "settlements"),
    "heartbeat": ("lease", "holds"),
    "sweep": ("most",),
    "snapshot": ("spec", "worker", "lease"),
    "read_budgets": ("spec",),
    "claim": ("name", "seconds"),
    "release_claim": ("name",),
    "add_slots": ("lease", "rows"),
    "enter_epoch": ("identity", "fresh", "worker"),
    "register_holds": ("spec", "lease", "holds"),
    "barrier": ("epoch", "worker", "lease", "known_workers", "ready"),
    "restore": ("epoch", "spec", "rows", "generation"),
    "add_missing": ("epoch", "spec", "rows"),
    "deregister": ("worker",),
}

ROWS: dict[str, type[PackedRow]] = {
    "LIMIT": LimitRow,
    "BUDGET": BudgetRow,
    "SPEC": SpecRow,
    "ASK": AskRow,
    "WANTED": LeaseRow,
    "WINDOW": WindowRow,
    "TAKEN": TakenRow,
    "HOLD": HoldRow,
    "CORRECTION": RateCorrection,
    "REMAINDER": RemainderRow,
    "SETTLEMENT": SettlementRow,
    "OPEN_HOLD": OpenHoldRow,
    "NEW_SLOTS": NewSlotsRow,
    "MISSING": MissingRow,
}
