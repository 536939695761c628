"""Ed25519 keys of the audit log. A seed is 32 bytes, written as 64 hexadecimal digits."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.private_files import narrow_if_there, private_folder

SEED_BYTES = 32


class UnusableKey(Exception):
    """A key that cannot be read or is none. The message is one line for a person, without the key."""


class Signer:
    """Signs the hashes of entries."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw().hex()

    def sign(self, digest: str) -> str:
        """The signature over the hexadecimal `digest`, in hexadecimal."""
        return self._key.sign(digest.encode()).hex()


def new_seed() -> str:
    """A new random seed."""
    return secrets.token_hex(SEED_BYTES)


def signer_from(seed: str) -> Signer:
    """The signer of a hexadecimal seed. Raises UnusableKey."""
    try:
        return Signer(bytes.fromhex(seed.strip()))
    except ValueError as exc:
        raise UnusableKey("is no key: write 64 hexadecimal digits, as `tollway audit keygen` prints") from exc


def signer_in(path: Path) -> Signer:
    """The signer whose seed is in the file `path`, which is made when it is not there. Raises UnusableKey."""
    return signer_from(seed_in(path))


def seed_in(path: Path) -> str:
    """The seed in the file `path`, which is made when it is not there. Raises UnusableKey."""
    try:
        _create(path)
        seed = path.read_text("ascii")
        signer_from(seed)
        return seed
    except (OSError, ValueError) as exc:
        raise UnusableKey(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc
    except UnusableKey as exc:
        raise UnusableKey(f"{path}: {exc}") from exc


def is_signed(public_key: str, digest: str, signature: str) -> bool:
    """Whether `signature` over `digest` was made with the key of `public_key`, all in hexadecimal."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), digest.encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def _create(path: Path) -> None:
    """Make the file with a new seed, whole or not at all, unless it is there."""
    if path.exists():
        narrow_if_there(path)
        return
    if not path.parent.is_dir():  # of one that is there the ledger's writer tells
        private_folder(path.parent, is_ours=False)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(new_seed() + "\n")
        with suppress(FileExistsError):  # another process was first: its key is the one
            path.hardlink_to(partial)
    finally:
        partial.unlink()
