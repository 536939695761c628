"""The header lines that the server adds to every answer: the date, kept by uvicorn's own tick."""

from uvicorn.server import ServerState


class ServerFields:
    """Encoded once for each list that uvicorn sets, which is once a second."""

    __slots__ = ("_encoded", "_headers", "_server_state")

    def __init__(self, server_state: ServerState) -> None:
        self._server_state = server_state
        self._headers: list[tuple[bytes, bytes]] = []
        self._encoded = b""

    def current(self) -> bytes:
        """Whole lines, each with its line end."""
        headers = self._server_state.default_headers
        if headers is not self._headers:
            self._headers = headers
            self._encoded = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        return self._encoded
