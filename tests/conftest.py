"""What holds for every test: nothing is skipped silently, nor at all where TOLLWAY_TEST_NO_SKIPS is set.

A part that cannot run on a machine (no IPv6, say) skips itself there with the reason, and the end of the run
says so. In CI everything must be able to run, so there a skip is a failure.
"""

import os

import pytest

# Its checks stand beside the tests, and other packages import it before theirs do.
pytest.register_assert_rewrite("tests.http.client.upstream_stage")

_REASONS: dict[str, int] = {}


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as a skip too; strict ones are the only ones here.
    if report.skipped and not hasattr(report, "wasxfail"):
        where = report.nodeid.partition("::")[0]
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _REASONS[f"{where}: {reason}"] = _REASONS.get(f"{where}: {reason}", 0) + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _REASONS:
        terminalreporter.section("NOT RUN ON THIS MACHINE", red=True, bold=True)
        for reason, count in sorted(_REASONS.items()):
            terminalreporter.line(f"{count} in {reason}")
        if _forbidden():
            terminalreporter.line("TOLLWAY_TEST_NO_SKIPS is set: a skip is a failure here.", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _REASONS and _forbidden() and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _forbidden() -> bool:
    return os.environ.get("TOLLWAY_TEST_NO_SKIPS", "") not in ("", "0")
