"""The counters that gateways share in Valkey, read past them. The keys are those of release 0.1.0.

They are written down here a second time on purpose: old and new gateways run side by side during a rollout,
so a key that is renamed would let each of them admit the whole budget.
"""

import re
import time

import msgspec
import redis

_KNOWN = re.compile(r"tollway:\{[\w-]+\}:(state|holds|due|presumed|alive|ready|(worker|slots|claim):.+)")

# Each key's value as the server dumps it, and the milliseconds that it has left, 0 for ever.
Saved = dict[bytes, tuple[bytes, int]]


class Counters(msgspec.Struct, frozen=True):
    """One budget in nano-USD."""

    spent: int
    held: int
    unseen: int

    @property
    def used(self) -> int:
        """What is not left any more."""
        return self.spent + self.held + self.unseen


class SharedState:
    """The state of one org."""

    def __init__(self, url: str, org: str) -> None:
        self.url = url
        self.org = org
        self._tag = f"tollway:{{{org}}}:"
        self._server = redis.Redis.from_url(url, decode_responses=True)

    def close(self) -> None:
        self._server.close()

    def budgets(self) -> dict[str, Counters]:
        """Every budget by its name, such as `feature:search|lifetime`."""
        state = self._server.hgetall(f"{self._tag}state")
        return {
            name.removesuffix("|w"): Counters(*(int(state.get(name[:-1] + field, 0)) for field in "shu"))
            for name in state
            if name.endswith("|w") and f"{name[:-1]}s" in state
        }

    def used(self) -> dict[str, int]:
        return {name: counters.used for name, counters in self.budgets().items()}

    def holds(self) -> int:
        """Requests, and slices of leases, that hold something."""
        return int(self._server.hlen(f"{self._tag}holds"))

    def is_at_rest(self) -> bool:
        """Nobody holds anything, neither money nor slots."""
        return not self.holds() and not self._server.zcard(f"{self._tag}due") and not self.slots()

    def slots(self) -> int:
        """Places of concurrency limits that are taken."""
        now = time.time() * 1_000_000
        found = self._server.scan_iter(f"{self._tag}slots:*")
        return sum(self._server.zcount(key, now, "+inf") for key in found)

    def saved(self) -> Saved:
        """All of its keys as the server keeps them."""
        with redis.Redis.from_url(self.url) as server:
            found = list(server.scan_iter(f"{self._tag}*"))
            return {key: (server.dump(key), max(server.pttl(key), 0)) for key in found}

    def restore(self, saved: Saved) -> None:
        """Be again what was saved."""
        with redis.Redis.from_url(self.url) as server:
            server.delete(*server.scan_iter(f"{self._tag}*"))
            for key, (value, left_ms) in saved.items():
                server.restore(key, left_ms, value)

    def lose_everything(self) -> None:
        """What a failover to an empty replica does."""
        self._server.flushall()

    def is_open(self) -> bool:
        """Whether hard budgets are, which a loss closes until they are counted again."""
        epoch, closed = self._server.hmget(f"{self._tag}state", "epoch", "closed")
        return epoch is not None and closed is None

    def foreign_keys(self) -> set[str]:
        """Keys on the server that release 0.1.0 would not have made, whatever the org."""
        return {key for key in self._server.scan_iter() if not _KNOWN.fullmatch(key)}
