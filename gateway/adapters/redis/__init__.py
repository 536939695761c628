"""Shared limits and budgets in Redis or Valkey."""

from gateway.adapters.redis.addresses import Target, parse_target
from gateway.adapters.redis.admission import RedisAdmission
from gateway.adapters.redis.connection import StoreAway
from gateway.adapters.redis.leased import LeasedAdmission
from gateway.adapters.redis.link import Link, Timing
from gateway.adapters.redis.peeking import peek_budgets
from gateway.adapters.redis.recovery import Books
from gateway.adapters.redis.scripts import Scripts

__all__ = [
    "Books",
    "LeasedAdmission",
    "Link",
    "RedisAdmission",
    "Scripts",
    "StoreAway",
    "Target",
    "Timing",
    "parse_target",
    "peek_budgets",
]
