"""The wheel of a commit, the same bytes on any machine and day.

    python -m deploy.release.wheel FOLDER

It is built from what git has, never from the working tree, with the tools of `deploy/requirements-build.txt`.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from deploy.release.lock import ROOT


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def committed_at(revision: str = "HEAD") -> int:
    """When `revision` was committed, in Unix seconds: the date of everything in its wheel."""
    return int(_git("log", "-1", "--format=%ct", revision))


def export(revision: str, folder: Path) -> None:
    """The files of `revision`, as git has them."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "--format=tar", revision))) as archive:
        archive.extractall(folder, filter="data")


def build(out: Path, revision: str = "HEAD") -> Path:
    """Build the wheel of `revision` into the folder `out`, which has none yet."""
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(committed_at(revision))}
    with tempfile.TemporaryDirectory() as source:
        export(revision, Path(source))
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out.resolve())]
        subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    [made] = out.glob("*.whl")
    return made


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
