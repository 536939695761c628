"""A release in one folder, signed: the wheel, its lock, its bill of materials, and their checksums.

    python -m deploy.release.release --key ~/.ssh/tollway_release --out dist/release

Signed is `SHA256SUMS`, with an OpenSSH key. It never overwrites, and never builds from a tree with changes.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.release import audit, sbom, wheel
from deploy.release.lock import LOCK, ROOT, locked

NAMESPACE = "tollway-release"
SUMS = "SHA256SUMS"
BILL = "sbom.cdx.json"


class Refused(Exception):
    """This is not going to be a release; the text says why."""


def make(key: Path, out: Path, *, must_be_audited: bool = True) -> list[Path]:
    """Build, check and sign; the files. Raises Refused."""
    if out.exists() and any(out.iterdir()):
        raise Refused(f"{out} is not empty: name another folder")
    if changes := _changes():
        raise Refused(f"not committed: {', '.join(changes[:5])}. Commit or stash, then build again")
    out.mkdir(parents=True, exist_ok=True)
    files = [_wheel(out), _bill(out), _lock(out)]
    _audit(must_be_audited)
    sums = out / SUMS
    sums.write_text("".join(f"{_digest(path)}  {path.name}\n" for path in files))
    return [*files, sums, sign(sums, key)]


def _changes() -> list[str]:
    status = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [line[3:] for line in status.splitlines()]


def _wheel(out: Path) -> Path:
    """Built twice: a build that depends on where or when it runs is found here, and not by a customer."""
    made = wheel.build(out)
    with tempfile.TemporaryDirectory() as other:
        if wheel.build(Path(other)).read_bytes() != made.read_bytes():
            raise Refused("two builds of one commit differ")
    return made


def _bill(out: Path) -> Path:
    document = sbom.bill_of_materials()
    if found := list(sbom.problems(document, locked())):
        raise Refused("\n".join(found))
    sbom.write(document, out / BILL)
    return out / BILL


def _lock(out: Path) -> Path:
    return Path(shutil.copy(LOCK, out / LOCK.name))


def _audit(must_be_audited: bool) -> None:
    result = audit.audit(LOCK)
    print(audit.told(LOCK, result))
    if result.status == audit.FOUND or (must_be_audited and result.status):
        raise Refused("known vulnerabilities, or none could be looked up")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sign(path: Path, key: Path) -> Path:
    """The signature `<path>.sig`, by the private OpenSSH key in the file `key`. Raises Refused."""
    command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"it cannot be signed: {done.stderr.strip()}")
    return path.with_name(f"{path.name}.sig")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="make release")
    parser.add_argument("--key", type=Path, required=True, help="private OpenSSH key (ed25519)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "release")
    parser.add_argument(
        "--without-audit", action="store_true", help="sign though advisories could not be looked up"
    )
    given = parser.parse_args(arguments)
    try:
        files = make(given.key, given.out, must_be_audited=not given.without_audit)
    except Refused as refused:
        sys.exit(f"no release: {refused}")
    print("\n".join(map(str, files)))


if __name__ == "__main__":
    main(sys.argv[1:])
