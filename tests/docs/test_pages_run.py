"""Every block of every page: commands and programs run, and what a page shows is what is printed.

Which languages there are, and what each is for: blocks.py. What cannot run: not_run.py.
"""

import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import helm_python
import pytest

from benchmarks.run import argument_parser
from tests.deploy.chart import rendered, values
from tests.docs.blocks import PAGES, Block, Step, blocks, steps
from tests.docs.not_run import NOT_RUN, TEXTS, NotRun, reason_of
from tests.docs.page_session import PageSession, Stage, open_stage
from tests.docs.shown import VARIES, VARIES_IN_A_DEMO, difference
from tests.docs.source import ROOT

COMMANDS = ("sh", "console")
# In one session, in the order of the page. A page's csv is its `prices.csv`.
RUN = (*COMMANDS, "python", "csv")
CHECKED = ("yaml", "sql", "dotenv")  # test_pages_checked.py
ALL = [block for page in PAGES for block in blocks(page)]
# Pages whose `tollway.yaml` is the worked week's. The others' is the demo's.
WORKED_WEEK = {"README.md", "docs/finance.md", "docs/ledger.md", "docs/prices.md", "docs/tco.md"}
# Commands that end otherwise than well, as their page says.
ENDS_WITH = {("docs/configuration.md", "tollway check tollway.yaml"): 1}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


def with_two_mistakes(session: PageSession) -> None:
    file = session.folder / "tollway.yaml"
    text = file.read_text().replace("{input: 2.50,", "{input: -2.50,")
    file.write_text(text.replace("{use: [gpt-4o]}", "{use: [gpt-4]}"))


def for_kubernetes(session: PageSession) -> None:
    (session.folder / "tollway.yaml").write_text(values("external")["config"]["text"])


# How a page's `tollway.yaml` differs.
PREPARED: dict[str, Callable[[PageSession], None]] = {
    "docs/configuration.md": with_two_mistakes,
    "docs/deploy.md": for_kubernetes,
    "helm/tollway/README.md": for_kubernetes,
}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, *RUN)])
def test_what_a_page_says_to_run_runs_and_prints_what_it_shows(
    stage: Stage, tmp_path: Path, page: str
) -> None:
    if shutil.which("curl") is None and "curl " in "".join(block.text for block in blocks(page, *COMMANDS)):
        pytest.skip("curl is not installed")
    session = PageSession(stage, tmp_path, in_worked_week=page in WORKED_WEEK)
    PREPARED.get(page, lambda _: None)(session)
    wrong = "\n\n".join(found for block in blocks(page, *RUN) for found in run(session, block))
    assert not wrong, wrong


def run(session: PageSession, block: Block) -> Iterator[str]:
    """What went wrong."""
    if block.language == "python":
        session.run_python(block.text)
    elif block.language == "csv":
        (session.folder / "prices.csv").write_text(block.text)
    else:
        wanted = [step for step in steps(block) if reason_of(block.page, step) is None]
        for step in wanted:
            if program(step) == "helm":
                render(session, step)
        yield from run_commands(session, block, [step for step in wanted if program(step) != "helm"])


def run_commands(session: PageSession, block: Block, wanted: list[Step]) -> Iterator[str]:
    for ran in session.run(wanted):
        command = ran.step.command
        if ran.status != ENDS_WITH.get((block.page, command), 0):
            yield f"{block}: {command!r} ended with {ran.status}:\n{ran.printed}"
        is_demo = block.page not in WORKED_WEEK or "tollway-demo" in command
        varies = (*VARIES, *VARIES_IN_A_DEMO) if is_demo else VARIES
        if ran.step.shown and (found := difference(ran.step.shown, ran.printed, varies)):
            yield f"{block}: {command!r}\n{found}"


def program(step: Step) -> str:
    return step.command.split()[0]


def render(session: PageSession, step: Step) -> None:
    """An install, as far as it goes without a cluster: the chart with the values of the command."""
    words = shlex.split(step.command.replace("\\\n", ""), comments=True)
    assert words[:6] == ["helm", "-n", "llm", "install", "tollway", "helm/tollway"], step
    given: dict[str, object] = {}
    for option, value in zip(words[6::2], words[7::2], strict=True):
        if option == "--set-file":
            name, _, file = value.partition("=")
            given |= helm_python.parse_set_file(f"{name}={session.folder / file}")
        else:
            assert option == "--set", step
            given |= helm_python.parse_set_string(value)
    assert rendered(given)


# --- what is not run ---


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_block_says_its_language(block: Block) -> None:
    is_text = block.language == "text" and block.page in TEXTS
    assert is_text or block.language in (*RUN, *CHECKED), f"{block}: is it sh, console, yaml ...?"


@pytest.mark.parametrize("one", NOT_RUN, ids=[f"{one.page} {one.command.strip()}" for one in NOT_RUN])
def test_what_is_not_run_is_in_its_page_and_held_by_another_test(one: NotRun) -> None:
    found = [step.command for block in blocks(one.page, *COMMANDS) for step in steps(block)]
    assert [command for command in found if command.startswith(one.command)], "take it from the list"
    assert (ROOT / one.held_by).exists()


@pytest.mark.parametrize("page", TEXTS)
def test_a_text_is_in_its_page_and_held_by_another_test(page: str) -> None:
    assert blocks(page, "text")
    assert (ROOT / TEXTS[page]).exists()


def test_the_files_of_commands_that_are_not_run_exist() -> None:
    words = [word for step in not_run() for word in shlex.split(step.command, comments=True)]
    named = [word for word in words if word.startswith(("deploy/", "helm/", "requirements"))]
    assert len(named) > 4
    assert [word for word in named if not (ROOT / word).exists()] == []


def not_run() -> Iterator[Step]:
    for block in ALL:
        if block.language in COMMANDS:
            yield from (step for step in steps(block) if reason_of(block.page, step))


def test_the_benchmarks_take_the_options_of_the_page() -> None:
    (step,) = [step for step in not_run() if "benchmarks.run" in step.command]
    words = shlex.split(step.command, comments=True)
    given = argument_parser().parse_args(words[words.index("benchmarks.run") + 1 :])
    assert given.python
