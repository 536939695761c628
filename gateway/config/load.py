"""The one way from a file and an environment to settings, or else to everything that is wrong in it."""

import codecs
import datetime
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from gateway.config import (
    addresses,
    consistency,
    deprecated,
    not_in_force,
    references,
    rule_names,
    schema_errors,
    source,
)
from gateway.config.kinds import Section
from gateway.config.nodes import ConfigNode
from gateway.config.problem_report import ProblemReport
from gateway.config.problems import KeyPath, Problem, Severity, in_file_order
from gateway.config.proxies import ProxyEnvironment, UnusableProxy, proxies_of
from gateway.config.schema import Settings

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
VERSION_DIGITS: Final = 12

_Kind = TypeVar("_Kind", bound=Section)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One version of the file. `settings` is None exactly when there are errors.

    `text` is the file as it stands, with variables not replaced; `version` is the first 12 hex digits of the
    SHA-256 of its bytes, a byte order mark not counted. `proxies` are those of the environment where the file
    asks for them. `stood_in` are variables that are not set and for which something else stood in.
    """

    file: str
    settings: Settings | None = field(repr=False)
    errors: list[Problem]
    warnings: list[Problem]
    text: str = field(repr=False)
    version: str
    root: ConfigNode = field(repr=False)
    proxies: ProxyEnvironment = field(default=ProxyEnvironment(), repr=False)
    stood_in: frozenset[str] = frozenset()

    @property
    def blocking(self) -> list[Problem]:
        """Warnings for which `serve` must refuse: the file asks for what is not in force yet."""
        return [problem for problem in self.warnings if problem.blocks_serving]

    def line_of(self, path: KeyPath) -> int:
        """Line of the value at `path`, counted from 1; where it is missing, of what surrounds it."""
        return self.root.at(path).line

    def problem(
        self, path: KeyPath, message: str, *, severity: Severity = "error", blocks_serving: bool = False
    ) -> Problem:
        """A problem at `path` found by a later check, with file and line as here."""
        return Problem(self.line_of(path), path, message, self.file, severity, blocks_serving)


def load(
    path: Path,
    environ: Mapping[str, str],
    *,
    today: datetime.date | None = None,
    text: str | None = None,
    sections: Collection[str] | None = None,
    stand_in: source.StandIn | None = None,
) -> Loaded:
    """The file at `path` with `${VAR}` from `environ`. Never raises for what is in the file.

    `today` decides which deployments have retired; left out: the present day in UTC. `text` is what the
    file held when it was read before; left out: it is read now. `sections`: only these count, the others are
    as if they were not there, errors and all. `stand_in` gives what stands in for variables that are not set.
    """
    file = str(path)
    if text is None:
        content, text, problem = read_text(path)
        if problem is not None:
            return _refused(file, content, text, problem)
    else:
        content = text.encode()
    day = today or datetime.datetime.now(datetime.UTC).date()
    tree = source.read(file, text, environ, stand_in)
    return _loaded(file, content, text, tree, environ, day, sections)


def read_text(path: Path) -> tuple[bytes, str, Problem | None]:
    """The bytes of a file, its text as far as it can be shown, and why it cannot be read."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        return b"", "", Problem(None, (), f"cannot be read: {reason}", file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        shown = content.decode("utf-8", "replace")
        return content, shown, Problem(line, (), "is not UTF-8: save the file as UTF-8", file)
    if len(content) > MAX_FILE_BYTES:
        too_large = f"is larger than {MAX_FILE_BYTES // 2**20} MiB"
        return content, text, Problem(1, (), too_large, file)
    return content, text, None


def _loaded(
    file: str,
    content: bytes,
    text: str,
    tree: source.Source,
    environ: Mapping[str, str],
    today: datetime.date,
    sections: Collection[str] | None,
) -> Loaded:
    root = _root(tree.root)
    if not root.exists and not tree.problems:
        return _refused(
            file, content, text, Problem(root.line, (), "is empty: write at least one section", file)
        )
    if not isinstance(tree.root, source.Table):
        shape = Problem(root.line, (), "must be a mapping of sections, such as `server:`", file)
        return _refused(file, content, text, *(tree.problems or [shape]))
    read = tree.root if sections is None else _only(tree.root, sections)
    settings, wrong = validated(Settings, read, tree.unresolved, file)
    # What is already known to be wrong by itself need not agree with anything else.
    broken = {problem.path for problem in wrong}
    crossed = [problem for problem in _cross_check(file, root, today) if problem.path not in broken]
    proxies, unusable = _proxies(file, root, settings, environ)
    found = [*tree.problems, *wrong, *crossed, *unusable]
    if sections is not None:
        found = [problem for problem in found if not problem.path or problem.path[0] in sections]
    errors = in_file_order(problem for problem in found if problem.severity == "error")
    warnings = in_file_order(problem for problem in found if problem.severity == "warning")
    version = _version(content)
    found_settings = None if errors else settings
    return Loaded(file, found_settings, errors, warnings, text, version, root, proxies, tree.stood_in)


def validated(
    kind: type[_Kind], node: source.Node, unresolved: frozenset[KeyPath], file: str
) -> tuple[_Kind | None, list[Problem]]:
    """`node` as a section of `kind`, or what is wrong with it."""
    root = _root(node)
    try:
        return kind.model_validate(source.plain(node)), []
    except ValidationError as error:
        found = list(schema_errors.messages_of(error, root))
    # A variable that is not set is reported as such; that its place is empty then is no second error.
    return None, [
        Problem(root.at(path).line, path, message, file)
        for path, message in found
        if not any(path[: len(missing)] == missing for missing in unresolved)
    ]


def _only(root: source.Table, sections: Collection[str]) -> source.Table:
    """`root` with no more than these of its sections."""
    entries = {name: entry for name, entry in root.entries.items() if name in sections}
    return source.Table(root.line, entries, root.size)


def _proxies(
    file: str, root: ConfigNode, settings: Settings | None, environ: Mapping[str, str]
) -> tuple[ProxyEnvironment, list[Problem]]:
    """The environment's proxies, if the file wants them, and what is wrong with them."""
    if settings is None or not settings.server.proxy_from_env:
        return ProxyEnvironment(), []
    try:
        return proxies_of(environ), []
    except UnusableProxy as error:
        path = ("server", "proxy_from_env")
        return ProxyEnvironment(), [Problem(root.at(path).line, path, str(error), file)]


def _cross_check(file: str, root: ConfigNode, today: datetime.date) -> list[Problem]:
    report = ProblemReport(file)
    for check in (
        *references.CHECKS,
        *addresses.CHECKS,
        *consistency.CHECKS,
        rule_names.check_names_in_rules,
        not_in_force.check_not_in_force,
        deprecated.check_deprecated,
    ):
        check(root, report)
    consistency.check_retirement(root, report, today)
    consistency.check_past_days(root, report, today)
    return report.problems


def _refused(file: str, content: bytes, text: str, *problems: Problem) -> Loaded:
    return Loaded(file, None, in_file_order(problems), [], text, _version(content), _root(None))


def _root(node: source.Node | None) -> ConfigNode:
    return ConfigNode((), node.line if node else 1, node)


def version_of(content: bytes) -> str:
    """The version of a file with this content (UTF-8, without a byte order mark)."""
    return hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]


def _version(content: bytes) -> str:
    return version_of(content.removeprefix(codecs.BOM_UTF8))
