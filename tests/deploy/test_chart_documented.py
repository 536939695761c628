"""helm/tollway/README.md and values.schema.json say of every value what values.yaml says.

The table is written by `python -m tests.deploy.test_chart_documented`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "tollway"
PAGE = CHART / "README.md"
VALUES = (CHART / "values.yaml").read_text()
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
_TABLE = re.compile(r"(?<=<!-- values -->\n).*?(?=<!-- end -->)", re.DOTALL)


def described() -> Iterator[tuple[str, str, Any]]:
    """Path, meaning and default of each value, in the file's order."""
    tree, stack, meaning = yaml.safe_load(VALUES), [], None
    for line in VALUES.splitlines():
        if (comment := re.fullmatch(r"\s*# -- (.*)", line)) is not None:
            meaning = comment[1]
        elif (key := re.match(r"( *)([A-Za-z]\w*):", line)) is not None:
            stack = [*stack[: len(key[1]) // 2], key[2]]
            if meaning is not None:
                default = tree
                for name in stack:
                    default = default[name]
                yield ".".join(stack), meaning, default
            meaning = None


def table() -> str:
    rows = [
        f"| `{path}` | {meaning} | `{json.dumps(default)}` |".replace('`""`', "none")
        for path, meaning, default in described()
    ]
    return "\n".join(["| value | meaning | default |", "|---|---|---|", *rows]) + "\n"


def leaves(tree: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """The values of `tree` as deep as `schema` names their keys."""
    schema = _resolved(schema)
    if "properties" not in schema or path in documented():
        yield path
        return
    for name, value in tree.items():
        yield from leaves(value, schema["properties"].get(name, {}), f"{path}.{name}".lstrip("."))


def documented() -> set[str]:
    return {path for path, _, _ in described()}


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def closed(schema: dict[str, Any], tree: Any) -> Iterator[tuple[set[str], set[str]]]:
    """Keys that the schema names and keys that the values have, section by section."""
    schema = _resolved(schema)
    if "properties" in schema and "requests" not in schema["properties"]:
        assert schema["additionalProperties"] is False
        yield set(schema["properties"]) - {"global"}, set(tree)
        for name, value in tree.items():
            yield from closed(schema["properties"][name], value)


def test_every_value_has_a_meaning() -> None:
    assert set(leaves(yaml.safe_load(VALUES), SCHEMA)) == documented()


def test_the_page_lists_every_value_with_its_default() -> None:
    (found,) = _TABLE.findall(PAGE.read_text())
    assert found == table(), "run: python -m tests.deploy.test_chart_documented"


def test_the_schema_names_every_value_and_no_other() -> None:
    for named, present in closed(SCHEMA, yaml.safe_load(VALUES)):
        assert named == present


if __name__ == "__main__":
    PAGE.write_text(_TABLE.sub(lambda _: table(), PAGE.read_text()))
