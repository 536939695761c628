"""From the file's `cost` sections to what the pool's bill is made of."""

import math
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from gateway.config import catalogue as schema
from gateway.config.deployments import replica_count
from gateway.core.calendar import start_of_day
from gateway.core.money import nano_from_usd
from gateway.core.pool_cost import MILLI, GpuPrice, Idle, PoolPlan, PoolTerms, Weights

_DIGITS: Final = 10**12  # no weight has more behind the point


def pool_terms(name: str, given: schema.Deployment, zone: ZoneInfo) -> PoolTerms:
    """What the deployment's GPUs cost and who pays. It has a `cost` section."""
    cost = given.cost
    if cost is None:
        raise ValueError(f"{name} has no cost")
    saturation = cost.saturation_tokens_per_second
    return PoolTerms(
        plan=PoolPlan(
            deployment=name,
            gpu=cost.gpu,
            replicas=replica_count(given),
            gpus_per_replica=cost.gpus_per_replica,
            prices=tuple(_price(price, zone) for price in cost.usd_per_gpu_hour),
            overhead_nano_per_month=nano_from_usd(cost.overhead_usd_per_month),
            saturation_milli=None if saturation is None else int(saturation * MILLI),
        ),
        idle=Idle(cost.idle),
        weights=_weights(cost.weights),
        learn=cost.weights.learn,
        marginal_rate=nano_from_usd(cost.marginal_usd_per_million_tokens),
    )


def _price(price: schema.GpuPrice, zone: ZoneInfo) -> GpuPrice:
    since = 0 if price.since is None else start_of_day(price.since, zone)
    return GpuPrice(since, nano_from_usd(price.usd))


def _weights(given: schema.WorkWeights) -> Weights:
    cached = given.prefill if given.cached is None else given.cached
    whole = [int(Decimal(weight) * _DIGITS) for weight in (given.prefill, cached, given.decode)]
    divisor = math.gcd(*whole)
    prefill, cached_weight, decode = (weight // divisor for weight in whole)
    return Weights(prefill=prefill, cached=cached_weight, decode=decode)
