"""What no test can run: the closed list, with the reason and the test that holds it instead.

An entry is the beginning of a command, as its page writes it. One that no page has any more fails.
"""

from typing import NamedTuple

from tests.docs.blocks import Step


class NotRun(NamedTuple):
    """`held_by` is a file of tests, or `.ci/run`, which runs or checks the same thing in another way."""

    page: str
    command: str
    reason: str
    held_by: str


_CONTAINERS = "needs a container engine"
_CLUSTER = "needs a cluster"
_MACHINE = "changes the machine"
_RELEASE = "needs a release and its key"

NOT_RUN = (
    NotRun("docs/deploy.md", "docker compose -f ", _CONTAINERS, "tests/deploy/test_compose.py"),
    NotRun("docs/deploy.md", "docker build -f ", _CONTAINERS, "tests/deploy/test_machine.py"),
    NotRun("docs/deploy.md", "kubectl create namespace ", _CLUSTER, "tests/deploy/test_chart.py"),
    NotRun("docs/deploy.md", "kubectl -n llm create secret ", _CLUSTER, "tests/deploy/test_chart.py"),
    NotRun("docs/deploy.md", "useradd ", _MACHINE, "tests/deploy/test_machine.py"),
    NotRun("docs/deploy.md", "python3.11 -m venv ", _MACHINE, ".ci/run"),
    NotRun("docs/deploy.md", "/opt/tollway/bin/pip install ", _MACHINE, ".ci/run"),
    NotRun("docs/deploy.md", "install -", _MACHINE, "tests/deploy/test_machine.py"),
    NotRun("docs/deploy.md", "systemctl ", _MACHINE, "tests/deploy/test_machine.py"),
    NotRun("helm/tollway/README.md", "kubectl create namespace ", _CLUSTER, "tests/deploy/test_chart.py"),
    NotRun("helm/tollway/README.md", "kubectl -n llm create secret ", _CLUSTER, "tests/deploy/test_chart.py"),
    NotRun("docs/releases.md", "ssh-keygen -Y verify ", _RELEASE, "tests/deploy/test_release.py"),
    NotRun("docs/releases.md", "sha256sum ", _RELEASE, "tests/deploy/test_release.py"),
    NotRun("docs/releases.md", "pip install ", _MACHINE, ".ci/run"),
    NotRun("docs/releases.md", "make wheel", "needs the whole repository", "tests/deploy/test_release.py"),
    NotRun("docs/releases.md", "make release ", _RELEASE, "tests/deploy/test_release.py"),
    NotRun("benchmarks/README.md", "apt-get install ", _MACHINE, ".ci/run"),
    NotRun(
        "benchmarks/README.md",
        ".venv/bin/python -m benchmarks.run ",
        "takes over an hour",
        "tests/docs/test_pages_run.py",
    ),
)

# Blocks that are no commands and no configuration, and the test that holds each page's.
TEXTS = {"docs/architecture.md": "tests/docs/test_architecture.py"}


def reason_of(page: str, step: Step) -> NotRun | None:
    """Why this command of `page` is not run; None: it is."""
    return next((one for one in NOT_RUN if one.page == page and step.command.startswith(one.command)), None)
