"""The recording rules and alerts of deploy/prometheus: taken by promtool, tested, and about real metrics."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.metrics.families import FAMILIES, WORKER_FAMILIES

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES, ALERTS = (
    [rule for group in yaml.safe_load((FOLDER / name).read_text())["groups"] for rule in group["rules"]]
    for name in ("rules.yaml", "alerts.yaml")
)
# Where series are longer than 36 hours, promtool's storage compacts them meanwhile, and a query that comes
# just then reads nothing at all, once in four runs. What is really wrong is wrong each time.
TRIES = 10
SEVERITIES = {"critical", "warning", "info"}


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    for _ in range(TRIES):
        run = subprocess.run(
            ("promtool", *arguments), capture_output=True, text=True, timeout=60, check=False
        )
        if run.returncode == 0 or "got: nil" not in run.stdout + run.stderr:
            break
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", ["rules.yaml", "alerts.yaml"])
def test_promtool_accepts_the_rules(name: str) -> None:
    promtool("check", "rules", str(FOLDER / name))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("tests/*.yml")), ids=lambda path: path.stem)
def test_each_alert_fires_when_it_should_and_not_before(path: Path) -> None:
    promtool("test", "rules", str(path))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_what_it_means_and_what_to_do(alert: dict[str, dict[str, str]]) -> None:
    assert alert["labels"].keys() == {"severity"} and alert["labels"]["severity"] in SEVERITIES
    assert alert["annotations"].keys() == {"summary", "description", "action"}
    assert all(len(text) > 20 for text in alert["annotations"].values())


@pytest.mark.parametrize("alert", [alert["alert"] for alert in ALERTS])
def test_an_alert_has_a_test_in_which_it_fires(alert: str) -> None:
    tested = "".join(path.read_text() for path in FOLDER.glob("tests/*.yml"))
    assert f'alertname="{alert}"' in tested


def test_rules_read_metrics_that_the_gateway_exports() -> None:
    used = {name for rule in (*RULES, *ALERTS) for name in re.findall(r"\btollway_\w+", rule["expr"])}
    assert used <= {family.name for family in (*FAMILIES, *WORKER_FAMILIES)}


def test_rules_read_recordings_that_are_made() -> None:
    made = {rule["record"] for rule in RULES}
    read = {name for rule in (*RULES, *ALERTS) for name in re.findall(r"\b\w+:\w+(?::\w+)?", rule["expr"])}
    assert read <= made
