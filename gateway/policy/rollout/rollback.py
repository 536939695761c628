"""Back to an earlier version: its text goes into the file again, and the file's present text is kept."""

import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from gateway.config.build import Built, build
from gateway.config.load import Loaded, load, version_of
from gateway.config.redacted import redacted_text
from gateway.config.source import StandIn
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.ledger.policies import PolicyText, keep_policy_text, read_policies
from gateway.private_files import write_private


class RollbackRefused(Exception):
    """The file is as it was. The message says why and what to do."""


class RolledBack(msgspec.Struct, frozen=True):
    """What the file asks for now, and the variables that it needs and that are not set here."""

    built: Built
    to_set: tuple[str, ...]


def roll_back(
    path: Path, version: str, url: str, environ: Mapping[str, str], *, stand_in: StandIn | None = None
) -> RolledBack:
    """Make `path` version `version`, which the ledger at `url` keeps.

    `stand_in` gives what stands in for secrets that are not set here; whoever serves the file needs them.
    Raises RollbackRefused, LedgerUnavailable.
    """
    kept = read_policies(url).texts[version]
    if not kept.whole:
        raise RollbackRefused(
            f"version {version} had secrets in its text, which were not kept; read it with `tollway policy "
            f"history --show {version}`, write it with ${{VAR}} for them, and reload"
        )
    target = path.resolve()  # a link stays a link
    present = load(target, environ, stand_in=stand_in)
    if present.version == version:
        raise RollbackRefused(f"{path} is version {version} already")
    content = kept.text.encode()
    if version_of(content) != version:
        raise RollbackRefused(f"the text that is kept for version {version} is not that version's")
    done, temporary = _write_checked(target, content, environ, stand_in)
    with _refusing_on_errors(target), _removing(temporary):
        _keep_present(present, target, url)
        temporary.replace(target)
    return done


def _keep_present(present: Loaded, target: Path, url: str) -> None:
    """Keep what is about to be replaced: in the history, and beside the file when that cannot hold all of it.

    It may never have been in force, it may have errors, and there may be no file at all.
    """
    is_whole = False
    if present.settings is not None:
        text = redacted_text(present.text, present.root, present.settings)
        is_whole, now = text.whole, time.time_ns() // 1000
        keep_policy_text(
            url, PolicyText(version=present.version, text=text.text, whole=is_whole, kept_at=now)
        )
    if not is_whole and target.exists():
        write_private(target.with_name(f"{target.name}.{present.version}"), target.read_bytes())


def _write_checked(
    target: Path, content: bytes, environ: Mapping[str, str], stand_in: StandIn | None
) -> tuple[RolledBack, Path]:
    """What `content` asks for, and a file with it beside `target` that can take its place at once."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    with _refusing_on_errors(target):
        _write(temporary, content, target.stat().st_mode & 0o777 if target.exists() else 0o600)
    loaded = load(temporary, environ, stand_in=stand_in)
    built, problems = build(loaded, PriceCatalogue())
    if built is not None:
        return RolledBack(built, tuple(sorted(loaded.stood_in))), temporary
    temporary.unlink()
    listed = "\n".join(str(problem).replace(str(temporary), str(target)) for problem in problems)
    raise RollbackRefused(f"that version cannot be served any more:\n{listed}")


def _write(path: Path, content: bytes, mode: int) -> None:
    """A new file that is on the disk with all of `content`, or none."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _refusing_on_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise RollbackRefused(f"{target}: cannot be written: {exc.strerror}") from exc


@contextmanager
def _removing(path: Path) -> Iterator[None]:
    """Whatever happens, nothing stays at `path`."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
