"""How many requests generate at once, and who waits: the scheduler of a simulated server."""

from collections import deque

from gateway.simulators.transport import SimulatedConnection


class _Ticket:
    def __init__(self, connection: SimulatedConnection) -> None:
        self.connection = connection
        self.granted = False


class Slots:
    """First come, first served. `sequences`: those of all requests here, waiting ones included."""

    def __init__(self) -> None:
        self.running = 0
        self.sequences = 0
        self._queue: deque[_Ticket] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        return self.running + self.waiting

    async def enter(self, connection: SimulatedConnection, limit: int) -> bool:
        """Take a slot, waiting when `limit` (0: none) are taken. False: the client left and has none."""
        if not limit or self.running < limit:
            self.running += 1
            return True
        ticket = _Ticket(connection)
        self._queue.append(ticket)
        while not ticket.granted and not connection.lost:
            await connection.pause(None)
        if not connection.lost:
            return True
        if ticket.granted:  # granted and lost in the same moment
            self.leave(limit)
        else:
            self._queue.remove(ticket)
        return False

    def leave(self, limit: int) -> None:
        """Give a slot back and let the next in the queue run."""
        self.running -= 1
        while self._queue and (not limit or self.running < limit):
            ticket = self._queue.popleft()
            ticket.granted = True
            self.running += 1
            ticket.connection.wake()
