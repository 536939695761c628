"""Structured logs on stderr: JSON lines, or readable ones in a terminal. Never prompt text, never secrets."""

import atexit
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from gateway.metrics.access_log import RequestLines
from gateway.metrics.log_output import LogOutput

# Values of these fields are credentials by their nature, whoever logs them.
_SECRET_FIELDS = frozenset({"authorization", "api_key", "secret", "token", "password", "cookie"})


def configure_logs(level: str, *, worker: int | None = None, process: str | None = None) -> RequestLines:
    """Set up structlog for the process; `level` is the least one that is written.

    Every line of one of several workers carries its number, and that of another process its name. Returns
    where the access log writes: the same lines to the same place.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    terminal = sys.stderr.isatty()
    output = LogOutput(sys.stderr.fileno())
    atexit.register(output.close)
    marks = _marks(worker, process)
    # Plain tracebacks: the pretty ones print local variables, and those hold keys and prompts.
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if terminal:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _marked(marks),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            structlog.processors.format_exc_info if not terminal else _unchanged,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=output),  # type: ignore[arg-type]  # a writer
        cache_logger_on_first_use=True,
    )
    return RequestLines(output, marks, renderer if terminal else None)


def _marks(worker: int | None, process: str | None) -> dict[str, object]:
    """What every line of this process has."""
    marks = {"worker": worker, "process": process}
    return {name: value for name, value in marks.items() if value is not None}


def _marked(own: Mapping[str, object]) -> structlog.typing.Processor:
    def mark(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        for name, value in own.items():
            event.setdefault(name, value)  # the supervisor's lines are about a worker, and its own has none
        return event

    return mark


@contextmanager
def to_stderr(least: str = "warning") -> Iterator[None]:
    """For a command, whose output is its answer: log lines of the level `least` and above stand beside it.

    With `error` what serving would log of each step is left out.
    """
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[least.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _unchanged(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return event


def _redact(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in event.keys() & _SECRET_FIELDS:
        event[name] = "[redacted]"
    return event
