"""Conditions in CEL: checked at load with the column, and one run for all rules of a model."""

from typing import Any

import pytest

from gateway.config.cel import CelCompiler, ConditionError
from gateway.core.catalog import Rule, RuleSet

COMPILER = CelCompiler()
FACTS: dict[str, Any] = {
    "model": "auto",
    "feature": "triage",
    "team": "research",
    "key": "triage-app",
    "privacy": "internal",
    "modalities": ["text", "image"],
    "tools": True,
    "stream": False,
    "prompt_tokens": 1200,
    "max_output_tokens": 0,
    "tags": {"ticket": "A-1"},
    "budget": {"used": 0.5},
    "pool": {"llama": {"outstanding": 3, "available": 1, "replicas": 2}},
    "time": {"year": 2026, "month": 11, "day": 23, "weekday": 1, "hour": 8, "minute": 30, "days_left": 7},
}


def rules(*conditions: str) -> RuleSet:
    return COMPILER.rule_set(
        tuple(Rule(number, number, when, ("a",)) for number, when in enumerate(conditions, 1))
    )


def first_match(*conditions: str, **changes: Any) -> int:
    made = rules(*conditions)
    facts = FACTS | changes
    return made.first_match({name: facts[name] for name in made.variables})


def error(source: str) -> str:
    with pytest.raises(ConditionError) as caught:
        COMPILER.check(source)
    return str(caught.value)


# --- variables ---


def test_the_variables_are_those_of_the_documentation():
    assert COMPILER.variables == list(FACTS)


@pytest.mark.parametrize(
    "condition",
    [
        'model == "auto"',
        'feature in ["triage", "review"]',
        'team != "sales"',
        'key.startsWith("triage-")',
        'privacy == "internal"',
        '"image" in modalities',
        "size(modalities) == 2",
        "tools && !stream",
        "prompt_tokens > 1000 && prompt_tokens <= 1200",
        "max_output_tokens == 0",
        'tags.ticket == "A-1"',
        'tags["ticket"].matches("^A-[0-9]+$")',
        '"ticket" in tags && !("other" in tags)',
        'has(tags.ticket) && tags.exists(name, name == "ticket")',
        "budget.used >= 0.5",
        "pool.llama.outstanding > 2 && pool['llama'].available < pool['llama'].replicas",
        "time.weekday == 1 && time.hour * 60 + time.minute == 510",
        "(stream ? 1 : 2) == 2",
        "true // always",
    ],
)
def test_conditions_over_every_variable_hold(condition: str):
    COMPILER.check(condition)
    assert first_match(condition) == 1


def test_only_the_variables_that_the_rules_name_are_handed_over():
    assert rules("stream", 'tags.ticket == "x"').variables == ("stream", "tags")
    assert rules("true").variables == ()


# --- errors ---


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "featur == 'a'",
            "column 1: undeclared reference to 'featur'; did you mean 'feature'? known are model",
        ),
        ("stream && promt_tokens > 3", "column 11: undeclared reference to 'promt_tokens'"),
        ("feature == 3", "column 9: found no matching overload for '_==_' applied to '(string, int)'"),
        ("prompt_tokens > '3'", "column 15: found no matching overload for '_>_' applied to '(int, string)'"),
        ("budget.used > 1", "column 13: found no matching overload for '_>_' applied to '(double, int)'"),
        ("stream + 1 == 2", "column 8: found no matching overload"),
        ("nosuch(stream)", "column 7: undeclared reference to 'nosuch'"),
        ("prompt_tokens >", "column 16: Syntax error"),
        ("stream stream", "column 8: Syntax error"),
        ("", "column 1: Syntax error"),
        ("prompt_tokens", "must be true or false, but this is of type int"),
        ("feature", "must be true or false, but this is of type string"),
        ("modalities", "must be true or false, but this is of type list"),
        ("true) || (false", "column 5: Syntax error"),
    ],
)
def test_what_does_not_compile_is_told_with_its_column(source: str, message: str):
    found = error(source)
    assert found.startswith(message)
    assert "\n" not in found


def test_an_unknown_variable_is_an_error_and_not_a_rule_that_never_matches():
    for source in ("budgets.used > 0.8", "Feature == 'a'", "user == 'me'", "request.size() > 1"):
        assert "undeclared reference" in error(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("budget.usde > 0.8", "column 1: budget has no 'usde'; did you mean 'used'? known are used"),
        (
            'stream || time["hours"] > 8',
            "column 11: time has no 'hours'; did you mean 'hour'? known are year",
        ),
        (
            'pool["lama"].outstanding > 1',
            "column 1: pool has no 'lama'; did you mean 'llama'? known are llama",
        ),
        ("pool.llama.waiting > 1", "column 1: pool has no 'waiting'; known are outstanding, available"),
    ],
)
def test_a_misspelt_name_within_a_variable_is_an_error_too(source: str, message: str):
    with pytest.raises(ConditionError) as caught:
        CelCompiler(pools=("llama",)).check(source)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "source",
    [
        'feature == "budget.usde"',
        "stream // budget.usde",
        'tags.time == "x" && tags["pool"] == "y"',
        "budget.size() == 1",
        'budget["used"] > 0.5',
        "pool.exists(name, pool[name].outstanding > 3)",
    ],
)
def test_what_only_looks_like_a_misspelt_name_is_none(source: str):
    CelCompiler(pools=("llama",)).check(source)


# --- the first that holds ---


@pytest.mark.parametrize(
    ("conditions", "number"),
    [
        (("true", "true"), 1),
        (("false", "true"), 2),
        (("stream", "tools", "true"), 2),
        (("false", "false"), 0),
        (("stream",), 0),
    ],
)
def test_the_first_rule_that_holds_is_the_match_and_zero_is_none(conditions: tuple[str, ...], number: int):
    assert first_match(*conditions) == number


def test_a_rule_keeps_the_number_that_the_file_gives_it():
    made = COMPILER.rule_set((Rule(3, 9, "stream", ("a",)), Rule(7, 9, "tools", ("a",))))
    assert made.first_match({"stream": False, "tools": True}) == 7


def test_comments_and_line_ends_in_one_rule_do_not_reach_into_the_next():
    assert first_match("stream // not this one", "tools\n  &&\n  true // this one", "true") == 2


def test_a_condition_with_an_or_is_one_condition():
    assert first_match("stream || stream", "false || tools") == 2
    assert first_match("stream ? true : false", "tools") == 2


@pytest.mark.parametrize(
    "broken",
    [
        'tags.missing == "x"',
        'pool["gone"].outstanding > 1',
        "1 / (prompt_tokens - 1200) > 0",
        "modalities[9] == 'text'",
        "9223372036854775807 + prompt_tokens > 0",
    ],
)
def test_an_error_in_one_rule_is_no_match_and_does_not_hide_the_rules_around_it(broken: str):
    assert first_match(broken) == 0
    assert first_match(broken, "tools") == 2
    assert first_match("stream", broken, "tools") == 3
    assert first_match("tools", broken) == 1
    assert first_match(broken, broken, "stream") == 0


def test_the_same_rules_answer_each_request_for_itself():
    made = rules("stream", "tools")
    answers = [
        made.first_match({"stream": stream, "tools": tools})
        for stream, tools in ((True, False), (False, True), (False, False), (True, True))
    ]
    assert answers == [1, 2, 0, 1]


def test_text_from_a_request_is_never_read_as_an_expression():
    assert first_match("feature == 'x'", feature="x' || true || feature == 'x") == 0
    assert first_match("tags.ticket == 'x'", tags={"ticket": "' || true"}) == 0


@pytest.mark.parametrize("count", [1, 20, 200])
def test_any_number_of_rules_is_tried_in_order(count: int):
    conditions = [f"size(modalities) + {number} == {count + 1}" for number in range(count)]
    assert first_match(*conditions) == count
    assert first_match(*conditions, modalities=[]) == 0


def test_a_condition_as_deep_as_the_engine_allows_can_stand_beside_others():
    deep = "stream"
    while True:
        deeper = f"(stream || {deep})"
        try:
            COMPILER.check(f"[{deeper}][0]")
        except ConditionError:
            break
        deep = deeper
    assert first_match(f"[{deep}][0]", "size(modalities) == 2") == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            'feature = "triage"',
            "token recognition error at: '= '; write == to compare",
        ),
        ("tools & stream", "write && for and"),
        ("tools | stream", "write || for or"),
        ("tools and stream", "write && for and"),
        ("tools or stream", "write || for or"),
        ("not tools", "write ! for not"),
        ("budget.used > 80", "write both with a point, as 0.8 or 80.0"),
        ('prompt_tokens > "20000"', "a number is written without quotes"),
        ("feature == 5", "a text is written in quotes"),
        (
            "pool.scout-eu.outstanding > 3",
            'column 1: a name with a hyphen stands in brackets: pool["scout',
        ),
        (
            'tools && tags.cost-centre == "x"',
            'column 10: a name with a hyphen stands in brackets: tags["',
        ),
    ],
)
def test_what_is_often_written_wrong_says_what_to_write(source: str, said: str):
    assert said in error(source)
