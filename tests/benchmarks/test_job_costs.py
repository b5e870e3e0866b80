"""The counts of `python -m benchmarks.job_costs`."""

from __future__ import annotations

import socket

from benchmarks.job_costs import Wire, difference
from tests.support.processes import wait_until


def test_the_wire_counts_bytes_of_both_ways() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(listener.getsockname()[1])
        with socket.create_connection(("127.0.0.1", wire.port)) as client, listener.accept()[0] as server:
            client.sendall(b"12345")
            assert server.recv(10) == b"12345"
            server.sendall(b"123")
            assert client.recv(10) == b"123"
            wait_until(lambda: (wire.sent, wire.received) == (5, 3), 60, "the wire counts otherwise")
        wire.close()


def test_only_new_counts_are_shown() -> None:
    assert difference({"PUT": 5, "GET": 2, "POST": 1}, {"PUT": 3, "GET": 2}) == {"POST": 1, "PUT": 2}
