"""What a simulator refuses. The meaning is raised; each simulator's dialect turns it into its envelope."""

from collections.abc import Sequence

Header = tuple[bytes, bytes]


class SimulatedRefusal(Exception):
    """An error answer: HTTP status, OpenAI's `type`, `param` and `code`, and extra headers."""

    def __init__(  # the fields of OpenAI's error envelope
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Sequence[Header] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = tuple(headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> SimulatedRefusal:
    """A 400 that is the caller's fault."""
    return SimulatedRefusal(400, message, param=param, code=code)
