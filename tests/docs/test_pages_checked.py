"""What a page shows of files, and names within a sentence, is what the programs that read them take."""

import asyncio
import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config.schema import Settings
from gateway.demo.stage import CONFIG
from gateway.simulators.command import simulate_app
from tests.deploy.chart import rendered, values
from tests.deploy.test_chart_documented import SCHEMA
from tests.deploy.test_prometheus_rules import promtool
from tests.docs.blocks import PAGES, Block, blocks, in_sentences
from tests.docs.source import ROOT
from tests.e2e.harness import merged
from tests.ledger.postgres_server import postgres_server

YAML = [block for page in PAGES for block in blocks(page, "yaml")]
SENTENCES = [(page, text) for page in PAGES for text in in_sentences(page)]
# What the demo's file says that is neither a secret nor an address.
NUMBERS = {"DEMO_PORT": "0", "DEMO_ADMIN_PORT": "0", "DEMO_FOLDER": "/tmp"}


# --- blocks ---


@pytest.mark.parametrize("block", YAML, ids=str)
def test_a_configuration_is_taken_by_what_reads_it(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = yaml.safe_load(block.text)
    if given.keys() <= Settings.model_fields.keys():
        monkeypatch.chdir(tmp_path)
        check(given, monkeypatch)
    elif given.keys() <= SCHEMA["properties"].keys():
        assert rendered({**values("external"), **given})
    else:
        assert given.keys() <= {"scrape_configs", "rule_files"}, "whose file is it?"
        (tmp_path / "prometheus.yml").write_text(block.text)
        promtool("check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))


def check(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole file as it stands. A part of one in the place of the demo's, whose tests are about another."""
    whole = given
    if "models" not in given or "deployments" not in given:
        whole = merged({**yaml.safe_load(CONFIG.read_text()), "policy_tests": []}, given)
    for name, value in NUMBERS.items():
        monkeypatch.setenv(name, value)
    Path("projects.txt").write_text("Bluebird\n")
    Path("tollway.yaml").write_text(yaml.safe_dump(whole, allow_unicode=True))
    done = CliRunner().invoke(app, ["check", "--without-secrets", "tollway.yaml"])
    assert done.exit_code == 0, done.output


def test_the_database_of_the_page_is_one_in_which_a_ledger_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = blocks("docs/ledger.md", "sql")
    with postgres_server() as server:
        # The server's own role is called as the one of the page.
        asyncio.run(executed(server.url(), block.text.replace("tollway", "another")))
        url = re.sub("//[^@]*@/postgres", "//another@/another", server.url())
        (tmp_path / "tollway.yaml").write_text(yaml.safe_dump({"ledger": url}))
        words = ["ledger", "migrate", "--config", str(tmp_path / "tollway.yaml")]
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output


async def executed(url: str, text: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in text.strip().split("\n"):
            await connection.execute(statement)
    finally:
        await connection.close()


def test_variables_of_compose_are_those_that_it_reads() -> None:
    (block,) = blocks("docs/deploy.md", "dotenv")
    named = re.findall(r"^(\w+)=", block.text, re.MULTILINE)
    compose = (ROOT / "deploy" / "compose" / "compose.yaml").read_text()
    assert named
    assert [name for name in named if f"${{{name}:" not in compose and f"${{{name}}}" not in compose] == []


# That of the log is compared with what is written in tests/e2e/test_access_log.py.
@pytest.mark.parametrize("language", ["sql", "dotenv", "json"])
def test_no_other_page_has_such_blocks(language: str) -> None:
    assert len([block for page in PAGES for block in blocks(page, language)]) == 1


# --- sentences ---


def said(program: str) -> list[tuple[str, list[str]]]:
    """Pages, and the words after `program` wherever one of them writes it as code."""
    found = [(page, text.removeprefix(program)) for page, text in SENTENCES if text.startswith(f"{program} ")]
    return [(page, shlex.split(rest)) for page, rest in found]


def problem_of(words: list[str]) -> str:
    """What `tollway` does not know of these words, which may have names and values in them."""
    # The one group that is not loaded with the others.
    is_simulator = words[:1] == ["simulate"]
    command, words = get_command(simulate_app if is_simulator else app), words[is_simulator:]
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    if isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        return words[0]
    known = {"-h", "--help"}.union(*([*one.opts, *one.secondary_opts] for one in command.params))
    return next((word for word in words if word.startswith("-") and word not in known), "")


def test_every_command_that_a_sentence_names_exists() -> None:
    named = said("tollway")
    assert len(named) > 50
    assert [(page, words) for page, words in named if problem_of(words)] == []


def test_what_is_not_a_command_is_noticed() -> None:
    assert problem_of(["usage", "--by", "feature"]) == ""
    assert problem_of(["usage", "--bye", "feature"]) == "--bye"
    assert problem_of(["ledger", "shut"]) == "shut"


def test_every_target_that_a_sentence_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = said("make")
    assert len(named) > 10
    assert [(page, words) for page, words in named if words[0] not in targets] == []


def test_every_module_that_a_sentence_runs_exists() -> None:
    named = said("python -m")
    assert len(named) > 3
    assert [(page, words) for page, words in named if not found(words[0])] == []


def found(module: str) -> bool:
    # spaCy is an extra of the gateway's, which its own tests do not need.
    return module == "spacy" or find_spec(module) is not None


def test_every_extra_that_a_sentence_installs_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [name for _, text in SENTENCES for name in re.findall(r"tollway\[(\w+)\]", text)]
    assert named
    assert set(named) <= set(extras)
