"""A release: the same wheel anywhere, its bill of materials, what is known against it, and who signed."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.release import audit, sbom, wheel
from deploy.release.lock import ROOT, locked
from deploy.release.release import BILL, NAMESPACE, SUMS, Refused, sign

Json = dict[str, Any]


@pytest.fixture(scope="module")
def bill() -> Json:
    return sbom.bill_of_materials()


# --- the wheel ---


def test_two_builds_in_two_folders_at_two_times_are_the_same_bytes(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's history, and this is a copy")
    first = wheel.build(tmp_path / "one")
    second = wheel.build(tmp_path / "in" / "another" / "place")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        dates = {item.date_time for item in archive.infolist()}
        names = archive.namelist()
    assert len(dates) == 1, "a file has the date of its build"
    assert "gateway/cli.py" in names
    assert not [name for name in names if not name.startswith(("gateway/", "tollway-"))]
    lua = {path.name for path in (ROOT / "gateway").rglob("*.lua")}
    assert lua <= {name.rpartition("/")[2] for name in names}


# --- the bill of materials, and licences ---


def test_the_bill_has_every_locked_package_and_no_other(bill: Json) -> None:
    assert list(sbom.problems(bill, locked())) == []
    assert len(bill["components"]) == len(locked())
    assert {"pytest", "hypothesis"}.isdisjoint(component["name"] for component in bill["components"])
    references = {component["bom-ref"] for component in bill["components"]}
    root = bill["metadata"]["component"]
    assert root["name"] == "tollway"
    assert {entry["ref"] for entry in bill["dependencies"]} == references | {root["bom-ref"]}
    [direct] = [entry["dependsOn"] for entry in bill["dependencies"] if entry["ref"] == root["bom-ref"]]
    assert len(direct) > 20


@pytest.mark.slow
def test_the_bill_is_cyclonedx(bill: Json) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        ([{"expression": "AGPL-3.0-only"}], "AGPL-3.0-only is not on the list"),
        ([{"license": {"id": "MIT"}}, {"license": {"id": "GPL-3.0-only"}}], "MIT and GPL-3.0-only is not"),
        ([{"license": {"name": "Ask us"}}], "Ask us is not on the list"),
        ([], "no licence that can be read"),
    ],
)
def test_a_package_that_may_not_be_shipped_is_named(bill: Json, stated: list[Json], complaint: str) -> None:
    [httptools] = [component for component in bill["components"] if component["name"] == "httptools"]
    [found] = sbom.problems({"components": [httptools | {"licenses": stated}]}, {})
    assert found.startswith("httptools: ")
    assert complaint in found


def test_a_package_that_is_not_as_locked_is_named(bill: Json) -> None:
    lock = locked() | {"httptools": "0.0.1", "left-pad": "1.3.0"}
    first, second = list(sbom.problems(bill, lock))
    assert first.startswith("httptools: 0.0.1 is locked and ")
    assert second == "left-pad: 1.3.0 is locked and nothing is installed"


def test_a_choice_of_licences_needs_one_that_is_allowed_and_a_sum_needs_all() -> None:
    assert sbom.is_allowed("GPL-3.0-only OR MIT")
    assert sbom.is_allowed("MPL-2.0 AND (Apache-2.0 OR GPL-2.0-only)")
    assert not sbom.is_allowed("MIT AND GPL-3.0-only")
    assert not sbom.is_allowed("whatever we like")


# --- vulnerabilities ---


def test_a_vulnerability_fails_an_unanswered_question_is_told_apart_and_a_clean_lock_passes() -> None:
    clean = {"name": "a", "version": "1", "vulns": []}
    hurt = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"], "description": ""}]}
    skipped = {"name": "c", "skip_reason": "not found"}
    assert audit.read({"dependencies": [clean]}).status == 0
    assert audit.read({"dependencies": [clean, skipped]}).status == audit.UNKNOWN
    assert audit.read({"dependencies": []}).status == audit.UNKNOWN
    found = audit.read({"dependencies": [skipped, hurt]})
    assert found.status == audit.FOUND
    assert found.vulnerable == ["b 2: CVE-1, fixed in 3"]


# --- the signature ---


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A throw-away key, and in `signers` who it belongs to."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen (OpenSSH)")
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    (tmp_path / "signers").write_text(f"releases {(tmp_path / 'key.pub').read_text()}")
    return path


def verified(path: Path, signers: Path) -> bool:
    """As docs/releases.md says it."""
    command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "releases", "-n", NAMESPACE]
    with path.open("rb") as signed:
        done = subprocess.run([*command, "-s", f"{path}.sig"], stdin=signed, capture_output=True, check=False)
    return done.returncode == 0


def test_what_was_changed_or_signed_by_another_is_refused(key: Path, tmp_path: Path) -> None:
    sums = tmp_path / SUMS
    sums.write_text("a  b\n")
    sign(sums, key)
    assert verified(sums, tmp_path / "signers")
    sums.write_text("c  b\n")
    assert not verified(sums, tmp_path / "signers")
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other / "key"], check=True)
    sums.with_name(f"{SUMS}.sig").unlink()
    sign(sums, other / "key")
    assert not verified(sums, tmp_path / "signers")


def test_without_its_key_nothing_is_signed(tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text("")
    with pytest.raises(Refused, match="it cannot be signed"):
        sign(tmp_path / SUMS, tmp_path / "no-such-key")


@pytest.mark.slow
def test_a_release_has_its_parts_and_holds_against_its_signature(key: Path, tmp_path: Path) -> None:
    """In a clone, since this tree may have changes. It is not audited: that asks a service elsewhere."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's history, and this is a copy")
    clone, out = tmp_path / "clone", tmp_path / "release"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, clone], check=True)
    command = [sys.executable, "-m", "deploy.release.release", "--key", key, "--out", out, "--without-audit"]
    environment = os.environ | {"PYTHONPATH": str(clone)}
    subprocess.run(command, cwd=clone, env=environment, check=True)
    assert {path.suffix for path in out.iterdir()} == {".whl", ".json", ".txt", ".sig", ""}
    assert json.loads((out / BILL).read_text())["bomFormat"] == "CycloneDX"
    assert verified(out / SUMS, tmp_path / "signers")
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=out, check=True)
    again = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "is not empty: name another folder" in again.stderr
