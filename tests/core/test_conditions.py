"""Plain conditions are evaluated without the engine, and never differently from it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.cel import CelCompiler
from gateway.core.catalog import Rule
from gateway.core.conditions import Condition, compiled, could_hold

COMPILER = CelCompiler(pools=("llama", "gpt-4o"))

WORDS = ["triage", "review", "a", ""]
NUMBERS = [0, 1, 7, 1200, 20_000]
SHARES = [0.0, 0.5, 0.8, 1.25]
texts = st.sampled_from(["feature", "model", "team", "key", "privacy"])
whole_numbers = st.sampled_from(
    [
        "prompt_tokens",
        "max_output_tokens",
        "time.hour",
        'time["day"]',
        "pool.llama.outstanding",
        'pool["gpt-4o"].available',
    ]
)
signs = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(" ".join)


quoted = st.one_of(st.sampled_from(WORDS).map(lambda word: f'"{word}"'), st.just("'triage'"))
numbers = st.sampled_from([*map(str, NUMBERS), "-1"])
shares = st.sampled_from([*map(str, SHARES), "-0.5"])
lists = st.lists(quoted, min_size=1, max_size=3).map(lambda items: f"[{', '.join(items)}]")
comparisons = st.one_of(
    joined(texts, signs, quoted),
    joined(quoted, signs, texts),
    joined(whole_numbers, signs, numbers),
    joined(numbers, signs, whole_numbers),
    joined(st.just("budget.used"), signs, shares),
    joined(texts, st.just("in"), lists),
    joined(st.sampled_from(['"text"', '"image"', '"audio"']), st.just("in modalities")),
    joined(st.sampled_from(['"ticket"', '"x"']), st.just("in tags")),
    st.sampled_from(["tools", "stream", "true", "false", "stream == true", "false != tools"]),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" && ", " || ", "&&", "||\n"]), inner).map("".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"!({text})"),
        inner.map(lambda text: f"{text} // so it is said\n"),
    ),
    max_leaves=6,
)
facts = st.fixed_dictionaries(
    {
        "model": st.sampled_from(WORDS),
        "feature": st.sampled_from(WORDS),
        "team": st.sampled_from(WORDS),
        "key": st.sampled_from(WORDS),
        "privacy": st.sampled_from(WORDS),
        "modalities": st.sampled_from([["text"], ["text", "image"]]),
        "tools": st.booleans(),
        "stream": st.booleans(),
        "prompt_tokens": st.sampled_from(NUMBERS),
        "max_output_tokens": st.sampled_from(NUMBERS),
        "tags": st.sampled_from([{}, {"ticket": "a"}]),
        "budget": st.sampled_from(SHARES).map(lambda share: {"used": share}),
        "pool": st.sampled_from(NUMBERS).map(
            lambda number: {
                name: {"outstanding": number, "available": 1, "replicas": 2} for name in ("llama", "gpt-4o")
            }
        ),
        "time": st.fixed_dictionaries({"hour": st.sampled_from([0, 7]), "day": st.sampled_from([1, 7])}),
    }
)


def plain(source: str) -> Condition:
    COMPILER.check(source)
    found = COMPILER.plain(source)
    assert found is not None, source
    return found


def by_the_engine(source: str, values: dict[str, Any]) -> bool:
    """The same condition in brackets that the plain reader does not know."""
    beyond = f"[{source}\n][0]"
    assert COMPILER.plain(beyond) is None
    return COMPILER.rule_set((Rule(1, 1, beyond, ("a",)),)).first_match(values) == 1


@settings(max_examples=1500, deadline=None)
@given(source=conditions, values=facts)
def test_a_plain_condition_holds_exactly_when_the_engine_says_so(source: str, values: dict[str, Any]):
    assert compiled(plain(source))(values) is by_the_engine(source, values)


@settings(max_examples=500, deadline=None)
@given(source=conditions, values=facts, names=st.sets(st.sampled_from(["feature", "stream", "modalities"])))
def test_what_could_hold_is_never_wrong_about_what_does(source: str, values: dict[str, Any], names: set[str]):
    verdict = could_hold(plain(source), {name: values[name] for name in names})
    assert verdict in (None, by_the_engine(source, values))
    assert could_hold(plain(source), values) is by_the_engine(source, values)


@settings(max_examples=300, deadline=None)
@given(sources=st.lists(conditions, min_size=1, max_size=6), beyond=st.sets(st.integers(0, 5)), values=facts)
def test_plain_rules_and_others_in_one_list_are_tried_in_the_order_of_the_file(
    sources: list[str], beyond: set[int], values: dict[str, Any]
):
    written = [f"[{one}\n][0]" if place in beyond else one for place, one in enumerate(sources)]
    made = COMPILER.rule_set(tuple(Rule(place, 1, one, ("a",)) for place, one in enumerate(written, 1)))
    holding = [place for place, one in enumerate(sources, 1) if by_the_engine(one, values)]
    assert made.first_match(values) == (holding[0] if holding else 0)
    assert made.first_match({name: values[name] for name in made.variables}) == made.first_match(values)


@pytest.mark.parametrize(
    "source",
    [
        "size(modalities) == 2",
        'feature.startsWith("a")',
        'tags.ticket == "A-1"',  # may be missing, and then the engine's rules about errors decide
        "prompt_tokens + 1 > 2",
        "stream ? tools : false",
        "prompt_tokens > max_output_tokens",
        r'feature == "a\"b"',
        r'feature == r"a\b"',
        'feature == """a"""',
        "prompt_tokens > 0x10",
        "prompt_tokens == 9223372036854775807 - 1",
        'tags.exists(name, name == "x")',
        "!(stream) == tools",
        "[stream][0]",
    ],
)
def test_what_goes_beyond_plain_comparisons_is_left_to_the_engine(source: str):
    COMPILER.check(source)
    assert COMPILER.plain(source) is None


def test_a_pool_that_is_not_known_is_left_to_the_engine():
    assert CelCompiler().plain('pool["llama"].outstanding > 1') is None
