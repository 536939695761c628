"""helm/tollway rendered by Helm's own library, as install would see it."""

from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "tollway"
SETS = sorted((CHART / "ci").glob("*.yaml"))
NAMESPACE = "llm"

Manifest = dict[str, Any]


def values(name: str) -> dict[str, Any]:
    """The value set `ci/<name>-values.yaml`."""
    found: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return found


def rendered(given: dict[str, Any]) -> list[Manifest]:
    """Every manifest of the release `tollway`, hooks included. Raises helm_python.HelmError."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(given, name="tollway", namespace=NAMESPACE)
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


@cache
def manifests(name: str) -> list[Manifest]:
    """Those of the value set `name`; not to be changed."""
    return rendered(values(name))


def one(found: list[Manifest], kind: str, name: str = "tollway") -> Manifest:
    (manifest,) = [m for m in found if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return manifest


def kinds(found: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in found if manifest["kind"] == kind]


def pods(manifest: Manifest) -> list[Manifest]:
    """The pod templates in a manifest."""
    spec = manifest.get("spec") or {}
    if manifest["kind"] == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        return [group["leaderTemplate"], group["workerTemplate"]]
    return [spec["template"]] if "template" in spec else []


def component(manifest: Manifest) -> str:
    labels: dict[str, str] = manifest["metadata"]["labels"]
    return labels["app.kubernetes.io/component"]


def notes(given: dict[str, Any]) -> str:
    """What Helm prints after an install."""
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(given, name="tollway", namespace=NAMESPACE)["tollway/templates/NOTES.txt"]
