"""The simulator's own routes under /_sim/: read and change knobs, read what arrived, abort what runs."""

from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from gateway.simulators.exchange import Reply, SimulatedExchange
from gateway.simulators.knobs import InvalidKnob
from gateway.simulators.state import State


class Control:
    """Never counted as attempts, never subject to faults or keys."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._routes: dict[tuple[str, str], Callable[[SimulatedExchange], Reply]] = {
            ("GET", "/_sim/knobs"): self._knobs,
            ("POST", "/_sim/knobs"): self._change_knobs,
            ("GET", "/_sim/attempts"): self._attempts,
            ("DELETE", "/_sim/attempts"): self._clear,
            ("POST", "/_sim/abort"): self._abort,
        }

    def answer(self, exchange: SimulatedExchange) -> Reply:
        route = self._routes.get((exchange.method, exchange.path))
        if route is None:
            listed = ", ".join(f"{method} {path}" for method, path in self._routes)
            return _json({"error": f"no such route; there are {listed}"}, status=404)
        return route(exchange)

    def _knobs(self, exchange: SimulatedExchange) -> Reply:
        del exchange
        return _json(self._state.knobs)

    def _change_knobs(self, exchange: SimulatedExchange) -> Reply:
        try:
            changes = orjson.loads(exchange.body)
            if not isinstance(changes, dict):
                raise InvalidKnob("the body must be a JSON object of knobs")
            return _json(self._state.change(changes))
        except (orjson.JSONDecodeError, InvalidKnob) as exc:
            return _json({"error": str(exc)}, status=400)

    def _attempts(self, exchange: SimulatedExchange) -> Reply:
        return _json(self._state.attempts.list(exchange.query("contains")))

    def _clear(self, exchange: SimulatedExchange) -> Reply:
        del exchange
        self._state.attempts.clear()
        return _json({})

    def _abort(self, exchange: SimulatedExchange) -> Reply:
        del exchange
        return _json({"aborted": self._state.abort_all()})


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status=status, body=msgspec.json.encode(value))
