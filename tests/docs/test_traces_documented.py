"""docs/observability.md names every attribute and event of spans, and no other one."""

import ast
import re

from tests.docs.source import GATEWAY, ROOT

PAGE = (ROOT / "docs" / "observability.md").read_text().partition("## Traces")[2]
NAME = re.compile(r"(gen_ai|openai|server|network|http|url|error|tollway)\.[a-z_.]+")


def names_in_code() -> set[str]:
    files = (GATEWAY / "metrics" / "tracing" / name for name in ("attributes.py", "tracer.py"))
    trees = [ast.parse(file.read_text()) for file in files]
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and NAME.fullmatch(text)}


def names_in_page() -> set[str]:
    columns = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    event = re.findall(r"The event `([^`]+)`", PAGE)
    return {name for column in columns for name in re.findall(r"`([^`]+)`", column)} | set(event)


def test_the_page_names_what_spans_hold() -> None:
    assert names_in_page() == names_in_code()
    assert len(names_in_code()) > 30
