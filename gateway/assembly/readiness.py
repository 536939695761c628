"""Whether new requests should come here, for `/readyz` and metrics."""

from collections.abc import Callable

from gateway.http.server.shedding import LoadShedder
from gateway.ledger.disks import DiskWatch
from gateway.ledger.journal.ledger import JournaledLedger
from gateway.quota.factory import AnyAdmission
from gateway.supervised import TaskRegistry


class Readiness:
    """Why new requests should go elsewhere, and what fails without keeping them away."""

    def __init__(
        self,
        ledger: JournaledLedger,
        admission: AnyAdmission,
        disks: DiskWatch,
        shedder: LoadShedder,
        tasks: TaskRegistry,
        is_open: Callable[[], bool],
    ) -> None:
        """`is_open`: a start is through."""
        self._ledger = ledger
        self._admission = admission
        self._disks = disks
        self._shedder = shedder
        self._tasks = tasks
        self._is_open = is_open
        self.stopping = False
        self.dangers: tuple[str, ...] = ()  # of the configuration in force
        self.waiting_for: str | None = None  # what a start waits for

    def reasons(self) -> list[str]:
        """Empty when requests may come: also one with a hard budget would be admitted."""
        ledger = self._ledger
        reasons = ["shutting down"] if self.stopping else []
        if (problem := self.waiting_for or ledger.problem()) is not None:
            reasons.append(problem)
        elif not self._is_open():
            reasons.append("starting")
        elif not ledger.has_room():
            reasons.append(f"ledger: {ledger.lag_rows()} rows wait to be committed")
        if (problem := self._admission.unready()) is not None:
            reasons.append(problem)
        return reasons + self._tasks.problems(essential=True)

    def degraded(self) -> list[str]:
        """What fails, or soon will, and keeps no request away."""
        found = self._tasks.problems(essential=False) + self._ledger.degraded()
        found += self._disks.problems() + self._admission.degraded() + self._shedder.problems()
        return found + list(self.dangers)
