"""Whatever is in the file: no exception, and either settings or an error that names a line."""

import copy
import datetime
import random
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.load import load

EXAMPLE = (Path(__file__).parent / "example.yaml").read_text()
TREE = yaml.safe_load(EXAMPLE)
ENVIRON = dict.fromkeys(("TOLLWAY_ADMIN_TOKEN", "OPENAI_API_KEY", "TRIAGE_KEY"), "hunter2-0123456789")

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=5),
    st.sampled_from(
        ["${TRIAGE_KEY}", "${NO}", "${", "$${", "1e999999", "http://[", "http://h:x", "::/0", "-", "a/b"]
    ),
)
garbage = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(leaves, inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value of `tree`."""
    found: list[tuple[Any, Any]] = []
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        found.append((tree, key))
        found.extend(places(value))
    return found


def mutate(tree: Any, chance: random.Random, value: Any) -> None:
    container, key = chance.choice(places(tree) or [({}, None)])
    kind = chance.choice(["delete", "replace", "rename", "nest", "move"])
    if kind == "delete":
        container.pop(key, None) if isinstance(container, dict) else container.pop(key)
    elif kind == "rename" and isinstance(container, dict):
        name = value if isinstance(value, str | int | datetime.date | None) else "x"
        container[name] = container.pop(key, None)
    elif kind == "nest":
        for _ in range(chance.choice([1, 3, 40])):
            container[key] = {key: container.get(key)} if isinstance(container, dict) else [container[key]]
    elif kind == "move":
        other, place = chance.choice(places(tree))
        container[key] = copy.deepcopy(other[place])
    else:
        container[key] = value


def check(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "tollway.yaml"
        file.write_bytes(content)
        loaded = load(file, ENVIRON)
    assert (loaded.settings is None) == bool(loaded.errors)
    assert all(problem.line and problem.line >= 1 for problem in loaded.errors + loaded.warnings)
    said = "\n".join(map(str, loaded.errors + loaded.warnings))
    assert "hunter2" not in said + repr(loaded)
    assert "Input should" not in said
    assert "cannot be used here" not in said
    assert len(said.splitlines()) == len(loaded.errors + loaded.warnings)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(garbage, min_size=1, max_size=6))
def test_mutated_examples_never_raise(chance: random.Random, values: list[Any]) -> None:
    tree = copy.deepcopy(TREE)
    for value in values:
        mutate(tree, chance, value)
    check(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(EXAMPLE)), st.integers(0, 40), st.binary(max_size=10) | st.text(max_size=10))
def test_damaged_texts_never_raise(start: int, length: int, noise: bytes | str) -> None:
    piece = noise if isinstance(noise, bytes) else noise.encode("utf-8", "surrogatepass")
    check(EXAMPLE[:start].encode() + piece + EXAMPLE[start + length :].encode())


@settings(max_examples=200, deadline=None)
@given(garbage)
def test_any_yaml_never_raises(value: Any) -> None:
    check(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass"))
