"""An editor that goes by the JSON Schema marks nothing that the loader accepts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from gateway.config import source
from gateway.config.load import Loaded
from gateway.config.schema import Settings, json_schema
from gateway.config.stand_ins import stand_in
from tests.config.test_settings_rules import RULES
from tests.docs.blocks import PAGES, blocks

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


class EditorYaml(yaml.SafeLoader):
    """YAML as editors read it: 1.2, in which a date is a text."""


EditorYaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def problems(text: str) -> list[str]:
    document: Any = yaml.load(text, EditorYaml)  # a SafeLoader
    return [
        f"{'.'.join(map(str, item.absolute_path))}: {item.message}"
        for item in VALIDATOR.iter_errors(document)
    ]


def loader_accepts(text: str) -> bool:
    """Whether the shape is right; names may be those of a whole file around it."""
    tree = source.read("x", text, {}, lambda *place: stand_in(*place) or "1")
    if tree.problems or not isinstance(tree.root, source.Table):
        return False
    try:
        Settings.model_validate(source.plain(tree.root))
    except ValidationError:
        return False
    return True


def files() -> Iterator[Path]:
    for pattern in ("**/tollway*.yaml", "tests/config/example.yaml", "deploy/**/*.yaml"):
        yield from (path for path in ROOT.glob(pattern) if ".venv" not in path.parts)


def examples() -> Iterator[tuple[str, str]]:
    """Every block of YAML in the documentation, and every file that is a configuration."""
    yield from ((str(block), block.text) for page in PAGES for block in blocks(page, "yaml"))
    for path in sorted(set(files())):
        yield str(path.relative_to(ROOT)), path.read_text()


EXAMPLES = [(name, text) for name, text in examples() if loader_accepts(text)]


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_example_that_loads_is_accepted(name: str, text: str) -> None:
    assert problems(text) == []


def test_the_examples_were_found() -> None:
    found = {name for name, _ in EXAMPLES}
    assert {
        "gateway/demo/tollway.yaml",
        "tests/config/example.yaml",
        "deploy/compose/config/tollway.yaml",
    } <= found
    assert len(found) > 15


@pytest.mark.parametrize(("old", "new"), [rule[:2] for rule in RULES], ids=[rule[1][:50] for rule in RULES])
def test_every_change_that_the_loader_accepts_is_accepted(
    changed: Callable[[str, str], Loaded], old: str, new: str
) -> None:
    loaded = changed(old, new)
    if loaded.settings is not None:
        assert problems(loaded.text) == []


@pytest.mark.parametrize(
    "text",
    [
        "deploymentz: {}",
        "server: {data: {port: high}}",
        "org: {budgets: [{usd: much, per: day}]}",
        "org: {budgets: [{usd: 1, per: fortnight}]}",
        "models: {auto: {use: gpt-4o}}",
    ],
)
def test_what_is_wrong_is_still_marked(text: str) -> None:
    assert problems(text) != []
