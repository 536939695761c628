"""The audit log as hash chains: each entry's hash covers the one before, so nothing can be changed unseen.

A chain belongs to one process that writes and counts its entries from 1. The first says which key signs it
and where all other chains stood. Times in UTC microseconds.
"""

import enum
import hashlib
from typing import Any

import msgspec

GENESIS = ""  # stands for the hash before the first entry


class EntryKind(enum.StrEnum):
    """What an entry tells."""

    OPENED = "opened"  # payload: Opening
    ATTEMPTS = "attempts"  # payload: a list of Receipt
    REFUSED = "refused"  # a request that privacy kept in; payload: Denial
    ACT = "act"  # what an operator did; payload: the act, by whom, and its particulars


class Receipt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where one attempt went, and why. Fields are named as the ledger's columns."""

    attempt_id: str
    request_id: str
    at: int
    key: str
    feature: str
    model: str
    privacy: str
    deployment: str
    zone: str
    address: str
    outcome: str
    decision: str
    policy_version: str
    cost_nano_usd: int


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Where a chain ends."""

    chain: str
    seq: int
    hash: str


class Opening(msgspec.Struct, frozen=True):
    """`public_key`: hexadecimal Ed25519. `heads`: the ends of all chains that there were."""

    public_key: str
    version: str
    heads: list[Head]


class Denial(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that privacy kept in.

    `left_out`: so many more of its key, since the entry before, have none of their own.
    """

    request_id: str
    key: str
    feature: str
    model: str
    message: str
    left_out: int = 0


class Entry(msgspec.Struct, frozen=True):
    """One link. `payload` is JSON text; `hash` hexadecimal SHA-256; `signature` hexadecimal, over `hash`."""

    chain: str
    seq: int
    at: int
    kind: str
    payload: str
    hash: str
    signature: str


def link(previous: str, chain: str, seq: int, at: int, kind: str, payload: str) -> str:
    """The hash of an entry that follows one whose hash is `previous`."""
    # JSON keeps the fields apart: no text can pass for the end of one and the beginning of the next.
    return hashlib.sha256(msgspec.json.encode([previous, chain, seq, at, kind, payload])).hexdigest()


def json_text(value: Any) -> str:
    """`value` as the payload of an entry."""
    return msgspec.json.encode(value).decode()
