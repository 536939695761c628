"""Names that conditions compare with: one that nothing has is a condition that never, or always, holds."""

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.config.nodes import ConfigNode
from gateway.config.problem_report import ProblemReport
from gateway.config.problems import did_you_mean
from gateway.config.references import Names, classes_of, names_of
from gateway.core.catalog import Modality
from gateway.core.condition_text import Token, literal, tokens

_EQUAL: Final = frozenset({"==", "!="})


def check_names_in_rules(root: ConfigNode, report: ProblemReport) -> None:
    """Warns of each such name, with what may have been meant."""
    known = _known(root)
    for when in root.find("models.*.rules.*.when"):
        if when.text is None or not when.is_literal:
            continue
        for variable, name, column in compared_names(when.text):
            names = known.get(variable)
            if names is not None and names.lacks(name):
                near = did_you_mean(name, sorted(names.shown))
                hint = f"; {near}" if near else ""
                report.warn(when, f"column {column}: no {names.kind} is called {name!r}{hint}")


def _known(root: ConfigNode) -> Mapping[str, Names]:
    modalities = frozenset(one.value for one in Modality)
    return {
        "feature": names_of(root, "features", "feature"),
        "team": names_of(root, "teams", "team"),
        "key": names_of(root, "keys", "key"),
        "model": names_of(root, "models", "model"),
        "privacy": classes_of(root),
        "modalities": Names("modality", modalities, modalities),
    }


def compared_names(source: str) -> Iterator[tuple[str, str, int]]:
    """Each text that a condition compares a variable with: the variable, the text, and its column.

    Read are `a == "x"`, `"x" != a`, `a in ["x", "y"]` and `"x" in a`.
    """
    words = tokens(source)
    for index, token in enumerate(words):
        if token.text in _EQUAL or token.text == "in":
            before, after = words[index - 1] if index else None, words[index + 1 : index + 2]
            if before is None or not after or _is_member(words, index - 1):
                continue
            if before.kind == "word":
                yield from _texts(before.text, words[index + 1 :])
            elif before.kind == "text" and after[0].kind == "word" and not _is_call(words, index + 1):
                yield from _texts(after[0].text, [before])


def _texts(variable: str, words: list[Token]) -> Iterator[tuple[str, str, int]]:
    """The texts that begin `words`: one, or those of a list."""
    if words[0].text == "[":
        for token in words[1:]:
            if token.text == "]":
                return
            yield from _texts(variable, [token])
    elif words[0].kind == "text":
        value = literal(words[0].text)
        if value is not None:
            yield variable, value, words[0].column


def _is_member(words: list[Token], index: int) -> bool:
    """`tags.team` is not the variable `team`."""
    return index > 0 and words[index - 1].text == "."


def _is_call(words: list[Token], index: int) -> bool:
    return len(words) > index + 1 and words[index + 1].text in ("(", ".", "[")
