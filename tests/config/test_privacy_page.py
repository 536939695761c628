"""docs/privacy.md: what it shows can be used as it stands, and does what it says."""

from collections.abc import Callable
from pathlib import Path

import yaml

from gateway.config.build import Built, build
from gateway.config.load import Loaded
from gateway.config.screening import image_rules, recognizer_settings
from gateway.core.catalog import Modality
from gateway.finance.price_catalogue import PriceCatalogue
from tests.docs.blocks import blocks

FIRST, IMAGES, SECOND = (block.text for block in blocks("docs/privacy.md", "yaml"))
AROUND = """
zones: {local: {cidrs: [127.0.0.0/8]}, external: {}}
deployments:
  m: {provider: vllm, model: m, zone: local, base_url: http://127.0.0.1:1/v1, price: {input: 1, output: 2},
      context_tokens: 1000, max_output_tokens: 100}
models: {m: {use: [m]}}
teams: {research: {}, service: {}}
"""


def served(read: Callable[[str], Loaded], page: str) -> Built:
    Path("projects.txt").write_text("# ours\nBluebird\n")
    loaded = read(AROUND + page)
    made, problems = build(loaded, PriceCatalogue())
    assert made is not None, [str(problem) for problem in problems]
    return made


def test_the_first_example(read: Callable[[str], Loaded]) -> None:
    screenings = served(read, FIRST).screenings
    charts, support = screenings.of("chart-reading"), screenings.of("support-agent")
    assert charts.detectors is not None
    assert charts.detectors.scan(["bob@example.com at Bluebird"]) == {"project_names"}
    assert charts.media_class(Modality.IMAGE) == "public"
    assert charts.media_class(Modality.AUDIO) == "restricted"
    assert support.detectors is not None
    assert support.detectors.scan(["badge E123456, not E000000, of Bluebird"]) == {"employee_id"}
    assert support.detectors.scan(["support@example.com, x@status.example.com"]) == frozenset()
    assert support.masking is not None
    assert support.masking.home == {name: {"local"} for name in support.classes}


def test_the_example_of_images(read: Callable[[str], Loaded]) -> None:
    page = yaml.safe_load(IMAGES)
    page["privacy"]["zones"] = yaml.safe_load(FIRST)["privacy"]["zones"]
    rules = image_rules(served(read, yaml.safe_dump(page)).settings)
    assert rules is not None
    assert rules.zone == "external"
    assert "*.cdn.example.com:443" in rules.hosts


def test_the_second_example(read: Callable[[str], Loaded]) -> None:
    second = yaml.safe_load(SECOND)
    second["privacy"]["zones"] = yaml.safe_load(FIRST)["privacy"]["zones"]
    made = served(read, yaml.safe_dump(second))
    assert made.screenings.of("support-agent").entities is not None
    assert made.screenings.standard.entities is None
    assert recognizer_settings(made.settings) is not None
