"""deploy/compose: a file that compose accepts, closed where it can be, and a configuration that serves."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from typer.testing import CliRunner

from gateway.cli import app

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
TEXT = (FOLDER / "compose.yaml").read_text()
CONFIG = FOLDER / "config" / "tollway.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")
GATEWAYS = ["gateway-1", "gateway-2"]
# vLLM's image wants a root file system that it can compile kernels into.
HARDENED = sorted(SERVICES.keys() - {"vllm"})


def generated(folder: Path) -> dict[str, str]:
    """What new-env.sh writes."""
    script = folder / "new-env.sh"
    script.write_text((FOLDER / "new-env.sh").read_text())
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def interpolated(text: str, given: dict[str, str]) -> str:
    """`text` with the variables that compose would put in."""

    def value(match: "re.Match[str]") -> str:
        name, operator, default = match.groups()
        found = given.get(name, "")
        if found:
            return found
        assert operator == "-", f"{name} is needed, and new-env.sh makes none"
        return str(default)

    return VARIABLE.sub(value, text)


def environment(service: str, given: dict[str, str]) -> dict[str, str]:
    return {name: interpolated(text, given) for name, text in SERVICES[service]["environment"].items()}


def test_the_file_is_a_compose_file(tmp_path: Path) -> None:
    merged = yaml.safe_dump(COMPOSE)  # merge keys are YAML's, not compose's
    compose = PyCompose.from_yaml(interpolated(merged, generated(tmp_path)))
    compose.validate()
    assert {*GATEWAYS, "valkey", "postgres", "prometheus", "grafana"} <= set(compose.service_names())


@pytest.mark.parametrize("service", HARDENED)
def test_no_container_can_change_itself_or_gain_rights(service: str) -> None:
    written = SERVICES[service]
    assert written["read_only"] is True
    assert written["cap_drop"] == ["ALL"]
    assert written["security_opt"] == ["no-new-privileges:true"]
    assert int(written["user"].partition(":")[0]) > 0
    assert set(written["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert not written.get("privileged")


def test_only_loopback_is_published() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    addresses = [port.rpartition(":")[0] for port in published]
    assert len(set(addresses)) == len(addresses)


def test_databases_and_replicas_have_no_way_out() -> None:
    assert {name for name, network in COMPOSE["networks"].items() if network.get("internal")} == {
        "shared",
        "upstreams",
    }
    for service in ("valkey", "postgres"):
        assert SERVICES[service]["networks"] == ["shared"]
    for service in ("simulator-openai", "simulator-vllm-1", "simulator-vllm-2"):
        assert SERVICES[service]["networks"] == ["upstreams"]


def test_no_secret_stands_in_the_file(tmp_path: Path) -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("TOKEN|KEY|PASSWORD|PEPPER|STATE|LEDGER", name):
                assert VARIABLE.search(value), name
    made = generated(tmp_path)
    secrets = {value for name, value in made.items() if len(value) >= 64}
    assert len(secrets) == 8
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_secrets_that_are_in_use_are_not_made_anew(tmp_path: Path) -> None:
    generated(tmp_path)
    again = subprocess.run(["sh", str(tmp_path / "new-env.sh")], check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_the_configuration_is_valid_with_the_generated_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment("gateway-1", generated(tmp_path)).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["check", str(CONFIG)])
    assert done.exit_code == 0, done.output
    assert "2 policy tests passed" in done.stdout


@pytest.mark.parametrize("service", GATEWAYS)
def test_a_gateway_may_drain_before_it_is_killed(service: str) -> None:
    drain_seconds = yaml.safe_load(CONFIG.read_text())["server"]["drain_seconds"]
    assert int(SERVICES[service]["stop_grace_period"].removesuffix("s")) >= drain_seconds + 10


def test_both_gateways_share_the_journal_so_that_one_books_what_the_other_left() -> None:
    folder = yaml.safe_load(CONFIG.read_text())["server"]["journal_dir"]
    for service in GATEWAYS:
        (journal,) = [volume for volume in SERVICES[service]["volumes"] if volume["type"] == "volume"]
        assert folder.startswith(journal["target"])
        assert journal["source"] == "journal"


def test_the_configuration_is_mounted_as_a_folder_so_that_a_saved_file_is_seen() -> None:
    for service in GATEWAYS:
        (bind,) = [volume for volume in SERVICES[service]["volumes"] if volume["type"] == "bind"]
        assert (FOLDER / bind["source"]).resolve() == CONFIG.parent
        assert bind["read_only"] is True


def test_prometheus_scrapes_every_gateway_with_the_token_from_a_file(tmp_path: Path) -> None:
    written = SERVICES["prometheus"]
    folders = {volume["target"]: FOLDER / volume["source"] for volume in written["volumes"]}
    (flag,) = [word for word in written["command"] if word.startswith("--config.file=")]
    target, _, name = flag.removeprefix("--config.file=").rpartition("/")
    config = yaml.safe_load((folders[target] / name).read_text())
    (rules,) = config["rule_files"]
    assert folders[rules.rpartition("/")[0]].resolve() == FOLDER.parent / "prometheus"
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "tollway"]
    (found,) = job["dns_sd_configs"]
    for service in GATEWAYS:
        assert SERVICES[service]["networks"]["shared"]["aliases"] == found["names"]
    assert found["port"] == yaml.safe_load(CONFIG.read_text())["server"]["admin"]["port"]
    (secret,) = written["secrets"]
    assert job["authorization"] == {"credentials_file": f"/run/secrets/{secret}"}
    token = generated(tmp_path)["TOLLWAY_ADMIN_TOKEN"]
    assert (tmp_path / COMPOSE["secrets"][secret]["file"]).read_text() == token


def test_what_containers_are_given_are_files_because_their_root_is_read_only() -> None:
    assert "configs" not in COMPOSE
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or (FOLDER / volume["source"]).is_dir()


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    folder = FOLDER / "grafana"
    (source,) = yaml.safe_load((folder / "datasources" / "tollway.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards" / "tollway.yaml").read_text())["providers"]
    mounted = {volume["target"]: volume["source"] for volume in SERVICES["grafana"]["volumes"]}
    assert (
        FOLDER / mounted[provider["options"]["path"]]
    ).resolve() == FOLDER.parent / "grafana" / "dashboards"
