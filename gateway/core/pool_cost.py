"""What a pool of own GPUs costs, and who pays for it: integers only, so that the parts add up to the bill.

A replica costs money while it is configured, busy or not. Times in UTC microseconds since 1970, money in
nano-USD. Whatever grows with time is the difference of two rounded totals, so a period costs the same however
it is cut into spans: no rounding is lost or gained at a cut.
"""

import enum
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.money import share_out
from gateway.core.windows import Per, window_at

SECOND = 1_000_000
HOUR = 3600 * SECOND
MILLI = 1000

K = TypeVar("K", bound=Hashable)


class GpuPrice(msgspec.Struct, frozen=True):
    """What one GPU costs for one hour, from `since` on."""

    since: int
    nano_usd_per_hour: int


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is provisioned for a deployment and at which prices.

    `prices` in order of time; before the first nothing is billed. `saturation_milli` are thousandths of
    output tokens/s that one replica writes under full load while it reads as many; None: nobody has measured.
    """

    deployment: str
    gpu: str
    replicas: int
    gpus_per_replica: int
    prices: tuple[GpuPrice, ...]
    overhead_nano_per_month: int = 0
    saturation_milli: int | None = None


class PoolSpan(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of one deployment in [starts, ends), under one price and within one calendar month.

    `estimated`: no gateway ran then, so it is taken to have been as it was configured afterwards.
    """

    deployment: str
    starts: int
    ends: int
    gpu: str
    replicas: int
    gpus: int
    nano_usd_per_gpu_hour: int
    overhead_nano_per_month: int
    month_starts: int
    month_ends: int
    saturation_milli: int | None
    estimated: bool

    @property
    def gpu_microseconds(self) -> int:
        return self.gpus * (self.ends - self.starts)

    @property
    def gpu_nano_usd(self) -> int:
        return self._grown(self.gpus * self.nano_usd_per_gpu_hour, HOUR, 0)

    @property
    def overhead_nano_usd(self) -> int:
        """The month's overhead comes evenly over its days: all of it in a whole month, however long."""
        return self._grown(
            self.overhead_nano_per_month, self.month_ends - self.month_starts, self.month_starts
        )

    @property
    def nano_usd(self) -> int:
        return self.gpu_nano_usd + self.overhead_nano_usd

    @property
    def capacity_tokens(self) -> int | None:
        """Output tokens that could have been written, with as many read beside them."""
        if self.saturation_milli is None:
            return None
        return self._grown(self.replicas * self.saturation_milli, MILLI * SECOND, 0)

    def within(self, since: int | None, until: int | None) -> "PoolSpan | None":
        """The part of it from `since` to before `until`."""
        starts = self.starts if since is None else max(self.starts, since)
        ends = self.ends if until is None else min(self.ends, until)
        return msgspec.structs.replace(self, starts=starts, ends=ends) if starts < ends else None

    def _grown(self, amount: int, each: int, origin: int) -> int:
        return amount * (self.ends - origin) // each - amount * (self.starts - origin) // each


def spans(plan: PoolPlan, since: int, until: int, zone: ZoneInfo, *, present_from: int) -> Iterator[PoolSpan]:
    """What `plan` costs from `since` to before `until`, cut where a price or a month of `zone` ends.

    What lies before `present_from` is estimated, and is cut off there.
    """
    cuts = [price.since for price in plan.prices] + [present_from]
    starts = max(since, plan.prices[0].since)
    while starts < until:
        month = window_at(Per.MONTH, starts / SECOND, zone)
        month_starts, month_ends = round(month.start * SECOND), round(month.end * SECOND)
        ends = min([until, month_ends, *(cut for cut in cuts if cut > starts)])
        yield PoolSpan(
            deployment=plan.deployment,
            starts=starts,
            ends=ends,
            gpu=plan.gpu,
            replicas=plan.replicas,
            gpus=plan.replicas * plan.gpus_per_replica,
            nano_usd_per_gpu_hour=_price_at(plan.prices, starts),
            overhead_nano_per_month=plan.overhead_nano_per_month,
            month_starts=month_starts,
            month_ends=month_ends,
            saturation_milli=plan.saturation_milli,
            estimated=starts < present_from,
        )
        starts = ends


def _price_at(prices: Sequence[GpuPrice], at: int) -> int:
    return [price for price in prices if price.since <= at][-1].nano_usd_per_hour


# --- who pays ---


class Idle(enum.StrEnum):
    """What becomes of the cost of GPUs that had nothing to do."""

    PROPORTIONAL = "proportional"  # by the work of those who used the pool
    EVEN = "even"  # in equal parts to those who used it
    APART = "apart"  # shown by itself


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a replica's time a token takes, in any unit: read, read from the cache, written."""

    prefill: int
    cached: int
    decode: int

    def work(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
        """Work of an amount of tokens, of which the cached ones are part of the input.

        Corrections of another period can take more away than this one has; nobody is paid for that.
        """
        fresh = input_tokens - cached_tokens
        return max(self.prefill * fresh + self.cached * cached_tokens + self.decode * output_tokens, 0)

    def capacity(self, tokens: int | None) -> int | None:
        """Work that fits where `tokens` could have been written, and as many read."""
        return None if tokens is None else tokens * (self.prefill + self.decode)


class PoolTerms(msgspec.Struct, frozen=True, kw_only=True):
    """A pool, and how its cost is shared.

    `learn`: the weights of reading and writing are those observed, where enough was. `marginal_rate` is what
    a million more tokens cost on GPUs that run anyway, in nano-USD.
    """

    plan: PoolPlan
    idle: Idle = Idle.PROPORTIONAL
    weights: Weights
    learn: bool = False
    marginal_rate: int = 0


class Share(msgspec.Struct, frozen=True):
    """What one payer owes of a pool: for its work, and of what was idle."""

    workload_nano: int
    idle_nano: int

    @property
    def nano_usd(self) -> int:
        return self.workload_nano + self.idle_nano


class Allocation(msgspec.Struct, frozen=True):
    """A bill shared out. The shares and `apart_nano`, the idle cost that nobody was charged, add up to it.

    `utilisation` is the work done of the work possible; above 1 the pool did more than its saturation says.
    None: no saturation is configured, so all of the bill counts as workload.
    """

    shares: Mapping[Hashable, Share]
    apart_nano: int
    idle_nano: int
    utilisation: Fraction | None


def allocate(
    bill_nano: int,
    work: Mapping[K, int],
    capacity: int | None,
    idle: Idle,
    payer: Callable[[K], Hashable] = lambda name: name,
) -> Allocation:
    """`bill_nano` shared out to the names of `work` by their work, in the order of the mapping.

    `capacity` is the work that was possible. Even shares are equal for each `payer`. Without any work the
    whole bill is idle, and apart.
    """
    names = [name for name, amount in work.items() if amount > 0]
    amounts = [work[name] for name in names]
    used = sum(amounts)
    spare = 0 if capacity is None else max(capacity - used, 0)
    if used == 0:
        return Allocation({}, bill_nano, bill_nano, None if capacity is None else Fraction(0))
    *workloads, idle_nano = share_out(bill_nano, [*amounts, spare])
    extra = [0] * len(names) if idle is Idle.APART else _idle_shares(idle_nano, names, amounts, idle, payer)
    return Allocation(
        shares={
            name: Share(workload, idle_part)
            for name, workload, idle_part in zip(names, workloads, extra, strict=True)
        },
        apart_nano=idle_nano - sum(extra),
        idle_nano=idle_nano,
        utilisation=Fraction(used, capacity) if capacity else None,
    )


def _idle_shares(
    idle_nano: int, names: Sequence[K], amounts: Sequence[int], idle: Idle, payer: Callable[[K], Hashable]
) -> list[int]:
    if idle is Idle.PROPORTIONAL:
        return share_out(idle_nano, amounts)
    of_payer: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        of_payer[payer(name)].append(index)
    shares = [0] * len(names)
    for part, indices in zip(share_out(idle_nano, [1] * len(of_payer)), of_payer.values(), strict=True):
        for index, piece in zip(indices, share_out(part, [amounts[i] for i in indices]), strict=True):
            shares[index] = piece
    return shares
