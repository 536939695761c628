"""The sockets of the data and admin ports."""

import contextlib

import pytest

from gateway.http.server.listening import PortTaken, listen


def test_a_port_is_taken_from_the_moment_it_was_given_out() -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
            listen("127.0.0.1", port)


def test_a_port_is_free_again_once_it_was_closed() -> None:
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    listen("127.0.0.1", port).close()
