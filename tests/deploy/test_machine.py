"""The image, the systemd unit and the commands that serve Llama 4."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
UNIT = DEPLOY / "systemd" / "tollway.service"
SCRIPTS = sorted((DEPLOY / "vllm").glob("*.sh"))


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions of a Containerfile with their arguments, continued lines joined."""
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def last_stage() -> list[tuple[str, str]]:
    found = instructions(CONTAINERFILE)
    begin = max(place for place, (word, _) in enumerate(found) if word == "FROM")
    return found[begin:]


# --- the image ---


def test_the_containerfile_has_no_findings() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DEPLOY / "Containerfile"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_everything_is_installed_by_hash_and_nothing_foreign_runs() -> None:
    installs = re.findall(r"pip(?: --python \S+)? install (.*?)(?: &&|$)", CONTAINERFILE, re.MULTILINE)
    assert len(installs) == 3
    for words in installs:
        assert "--require-hashes --only-binary :all:" in words or "--no-index /wheels/" in words


def test_the_image_runs_as_nobody_and_carries_no_installer() -> None:
    stage = last_stage()
    assert ("USER", "65532:65532") in stage
    users = [place for place, (word, _) in enumerate(stage) if word == "USER"]
    assert not any(word == "RUN" for word, _ in stage[users[-1] :])
    (run,) = [rest for word, rest in stage if word == "RUN"]
    assert run.startswith("python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip")
    copied = [rest for word, rest in stage if word == "COPY"]
    assert copied == ["--from=build /opt/tollway /opt/tollway"]


def test_only_what_the_image_is_made_of_reaches_the_builder() -> None:
    sources = {
        source
        for word, rest in instructions(CONTAINERFILE)
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    allowed = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sources == set(allowed)
    assert all((ROOT / source).exists() for source in sources)


# --- systemd ---


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # The command need not be installed where this runs, but must be a program.
    unit.write_text(UNIT.read_text().replace("/opt/tollway/bin/tollway", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if line.startswith((str(unit), UNIT.name))]
    assert complaints == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_exposed_as_little_as_a_network_service_can_be() -> None:
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=15", UNIT]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_systemd_waits_longer_than_the_gateway_drains() -> None:
    text = UNIT.read_text()
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)s$", text, re.MULTILINE)
    assert int(stop) >= 30 + 10  # server.drain_seconds when left out, and the flush
    assert "KillMode=mixed" in text


# --- vLLM ---

EVERYWHERE = [
    "--enable-prompt-tokens-details",
    "--enable-request-id-headers",
    "--tool-call-parser llama4_pythonic",
    '--limit-mm-per-prompt {"image": 5}',
    "--max-num-seqs 256 --max-num-queued-reqs 320",
    "--shutdown-timeout 45",
    "--kv-cache-dtype fp8",
]


def served(script: Path, folder: Path, **environ: str) -> str:
    """The arguments with which `script` would start vLLM."""
    stand_in = folder / "vllm"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", script, "--seed", "1"],
        env={"PATH": path, **environ},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_command_serves_what_the_gateway_relies_on(script: Path, tmp_path: Path) -> None:
    words = served(script, tmp_path, LEADER="10.0.0.1", RANK="0")
    assert words.startswith("serve meta-llama/Llama-4-")
    for flag in EVERYWHERE:
        assert flag in words
    assert words.endswith("--seed 1\n")
    assert "--no-enable-prefix-caching" not in words
    assert "--api-key" not in words


def test_of_two_nodes_only_the_first_answers_requests(tmp_path: Path) -> None:
    script = DEPLOY / "vllm" / "maverick-bf16-two-nodes.sh"
    first = served(script, tmp_path, LEADER="10.0.0.1", RANK="0")
    second = served(script, tmp_path, LEADER="10.0.0.1", RANK="1")
    assert "--headless" not in first
    assert "--node-rank 1 --master-addr 10.0.0.1 --headless" in second


def test_two_nodes_must_be_told_who_leads(tmp_path: Path) -> None:
    script = DEPLOY / "vllm" / "maverick-bf16-two-nodes.sh"
    done = subprocess.run(
        ["bash", script], env={"PATH": os.environ["PATH"]}, check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "address of the first node" in done.stderr
