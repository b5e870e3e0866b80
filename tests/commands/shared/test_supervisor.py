"""Which environment the processes of `skipvsr up` get."""

from __future__ import annotations

import sys
from pathlib import Path

from commands.shared.supervisor import Child, Interrupt, Supervisor
from commands.up import _children
from tests.support.processes import wait_until

_SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_the_worker_gets_no_api_key() -> None:
    """The key is neither in the environment that the worker reads, nor in /proc, where other processes read it."""
    real = {child.name: child.without for child in _children(0, None, None, metrics_port=0, grpc=True)}
    assert set(real) == {"API", "worker", "gRPC server"}
    children = [Child(name, _SLEEP, without=without) for name, without in real.items()]
    supervisor = Supervisor(children, {"SKIPVSR_API_KEY": "sesame", "SKIPVSR_MODEL": "tiny"}, 5.0)
    try:
        supervisor.poll()
        assert {child.name: "sesame" in _environment(child) for child in children} == {
            "API": True,
            "worker": False,
            "gRPC server": True,
        }
    finally:
        supervisor.stop(Interrupt())


def _environment(child: Child) -> str:
    """The environment of a child, after it has replaced the image of its parent."""
    assert child.process is not None
    folder = Path(f"/proc/{child.process.pid}")
    wait_until(lambda: b"time.sleep" in (folder / "cmdline").read_bytes(), 60, "not started")
    return (folder / "environ").read_text()
