"""Child processes of a benchmark: pinned to a core, measured from /proc, gone when the benchmark is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1


class Skipped(Exception):
    """A subject cannot be measured here; the message is the reason that the report shows."""


class Cores(msgspec.Struct, frozen=True):
    """CPU numbers: the subject has one to itself; load generator and upstream share the other."""

    subject: int
    load: int

    @property
    def shared(self) -> bool:
        return self.subject == self.load


def choose_cores() -> Cores:
    """The first two CPUs that this process may use. With one CPU both are the same: see `Cores.shared`."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(subject=allowed[0], load=allowed[min(1, len(allowed) - 1)])


def most_files() -> int:
    """Descriptors that a child may open: the hard limit of this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _at_start(core: int | None, user: pwd.struct_passwd | None) -> Callable[[], None]:
    """What a child does between fork and exec: pin itself, and ask to be killed when its parent dies."""
    libc = ctypes.CDLL(None)
    parent = os.getpid()
    files = most_files()

    def prepare() -> None:
        # A stream through a proxy holds two descriptors, and 1,024 is the usual soft limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        if user is not None:
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        if core is not None:
            os.sched_setaffinity(0, {core})
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # last: a change of user takes it back
        if os.getppid() != parent:  # the parent died before prctl took effect
            os._exit(1)

    return prepare


class Child:
    """One process in its own group. Its output goes to `log`; `environment` is added to ours.

    `user` is the name that it runs under, for programs that refuse to run as root.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        core: int | None,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self.command = list(command)
        self._log = log
        self.folder = folder
        self.started_at = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=folder,
                preexec_fn=_at_start(core, pwd.getpwnam(user) if user else None),  # noqa: PLW1509  (this process has one thread)
                start_new_session=True,
            )
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout_seconds: float) -> int:
        """Exit code. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_seconds)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def last_words(self, limit: int = 300) -> str:
        """The last line of output that says something, for a reason in the report."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return lines[-1][-limit:] if lines else "no output"

    def cpu_by_process(self) -> dict[int, float]:
        """User and system time by process id: this one, its living descendants, and whom each waited for."""
        return {pid: _cpu_seconds(pid) for pid in _family(self.pid)}

    def cpu_seconds(self) -> float:
        """The sum of `cpu_by_process`."""
        return sum(self.cpu_by_process().values())

    def rss_megabytes(self) -> float:
        """Resident memory of the process and its descendants in 10^6 bytes, shared pages counted in each."""
        return sum(_rss_kib(pid) for pid in _family(self.pid)) * 1024 / 1e6

    def wait_idle(self, timeout_seconds: float = 10.0) -> None:
        """Wait for work that outlives the last answer (a ledger batch, say), so that it is counted here."""
        deadline = time.monotonic() + timeout_seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now = self.cpu_seconds()
            if now - before < 0.02:
                return
            before = now

    def stop(self, patience_seconds: float = 8.0) -> None:
        """SIGTERM to the group, then SIGKILL; returns when the process is gone."""
        self._signal_group(signal.SIGTERM)
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal_group(signal.SIGKILL)
            self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


@contextlib.contextmanager
def running(child: Child) -> Iterator[Child]:
    """`child`, stopped on every way out."""
    try:
        yield child
    finally:
        child.stop()


def _family(pid: int) -> Iterator[int]:
    """The process and all its living descendants."""
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield from _family(int(child))


def _cpu_seconds(pid: int) -> float:
    """CPU time of all threads, living and ended, and of waited-for children; 0 when the process is gone.

    The process's own time comes from its CPU clock in nanoseconds, see clock_getcpuclockid(3): utime and
    stime of /proc/<pid>/stat count in hundredths of a second, too coarse for runs of two seconds.
    """
    cpu_clock = (~pid << 3) | 2
    try:
        own = time.clock_gettime(cpu_clock)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    children_ticks = int(fields[13]) + int(fields[14])
    return own + children_ticks / TICKS_PER_SECOND


def _rss_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def core_busy_seconds(core: int) -> float:
    """User, nice and system time of one CPU since boot."""
    name = f"cpu{core}"
    for line in Path("/proc/stat").read_text().splitlines():
        words = line.split()
        if words[0] == name:
            return sum(int(ticks) for ticks in words[1:4]) / TICKS_PER_SECOND
    return 0.0


class CpuTime(msgspec.Struct, frozen=True):
    """Seconds: of the processes that answer requests, of all the subject's, of the stores behind it.

    Stores run on the load's core.
    """

    request: float
    whole: float
    behind: float = 0.0


class CpuMeter:
    """CPU time since it was made: the subject's, and what other programs took of the benchmark's cores.

    The processes that answer requests are those of the subject that worked most: `workers` of them. A writer
    of rows or a supervisor beside them counts in the whole only.
    """

    def __init__(
        self,
        cores: Cores,
        subject: Child,
        others: Sequence[Child],
        *,
        behind: Sequence[Child] = (),
        workers: int = 1,
    ) -> None:
        self._cores = {cores.subject, cores.load}
        self._subject = subject
        self._ours = [*others, *behind]
        self._behind = behind
        self._workers = workers
        self._subject_before = subject.cpu_by_process()
        self._behind_before = sum(child.cpu_seconds() for child in behind)
        self._others_before = self._busy_less_ours()

    def subject_time(self) -> CpuTime:
        now = self._subject.cpu_by_process()
        spent = sorted((now[pid] - self._subject_before.get(pid, 0.0) for pid in now), reverse=True)
        behind = sum(child.cpu_seconds() for child in self._behind) - self._behind_before
        whole = sum(now.values()) - sum(self._subject_before.values())
        return CpuTime(sum(spent[: self._workers]), whole, behind)

    def others_seconds(self) -> float:
        """To be read when the load generator has ended: its time is known only then."""
        return max(self._busy_less_ours() - self._others_before, 0.0)

    def _busy_less_ours(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = self._subject.cpu_seconds() + sum(child.cpu_seconds() for child in self._ours)
        ours += ended.ru_utime + ended.ru_stime
        return sum(core_busy_seconds(core) for core in self._cores) - ours
