"""Known vulnerabilities of what is locked, by pip-audit and PyPI's own advisories.

    python -m deploy.release.audit [requirements.txt ...]

Exit 1: there are some. Exit 3: not all could be looked up, so nothing is known about the rest.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploy.release.lock import LOCK

FOUND, UNKNOWN = 1, 3
ASK_SECONDS = 120


class Audit(msgspec.Struct, frozen=True):
    """What one lock is known to have. `vulnerable` and `unknown` are lines for a reader."""

    packages: int
    vulnerable: list[str]
    unknown: list[str]

    @property
    def status(self) -> int:
        return FOUND if self.vulnerable else UNKNOWN if self.unknown or not self.packages else 0


def audit(path: Path) -> Audit:
    """Ask about each package of the lock `path`."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--requirement",
        str(path),
        "--require-hashes",
        "--disable-pip",
    ]
    command += [
        "--no-deps",
        "--vulnerability-service",
        "pypi",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Audit(0, [], [f"the advisory service did not answer within {ASK_SECONDS} seconds"])
    try:
        return read(json.loads(done.stdout))
    except json.JSONDecodeError:
        last = done.stderr.strip().rpartition("\n")[2] or f"pip-audit ended with {done.returncode}"
        return Audit(0, [], [last])


def read(document: Mapping[str, Any]) -> Audit:
    """pip-audit's report: what it skips it reports as well as if it were clean, and exits with 0."""
    dependencies = document["dependencies"]
    return Audit(
        len(dependencies),
        [line for entry in dependencies for line in _vulnerabilities(entry)],
        [f"{entry['name']}: {entry['skip_reason']}" for entry in dependencies if "skip_reason" in entry],
    )


def _vulnerabilities(entry: Mapping[str, Any]) -> Iterator[str]:
    for one in entry.get("vulns", ()):
        fixed = ", ".join(one["fix_versions"]) or "no release"
        yield f"{entry['name']} {entry['version']}: {one['id']}, fixed in {fixed}"


def told(path: Path, result: Audit) -> str:
    lines = [
        f"{path}: {result.packages} packages, {len(result.vulnerable)} known vulnerabilities",
        *result.vulnerable,
    ]
    if result.status == UNKNOWN:
        lines.append(
            f"NOT AUDITED: {len(result.unknown) or 'all'} not looked up. {''.join(result.unknown[:1])}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] = ()) -> None:
    paths = [Path(name) for name in arguments] or [LOCK]
    results = [(path, audit(path)) for path in paths]
    for path, result in results:
        print(told(path, result))
    sys.exit(min((result.status for _, result in results if result.status), default=0))


if __name__ == "__main__":
    main(sys.argv[1:])
