"""Freed memory is kept for the next frame, and goes back to the system when it is asked to."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from model.engine.memory import free_memory

_SCRIPT = """
import json, resource, threading
from pathlib import Path
from model.engine.memory import give_back, keep_freed_memory
keep_freed_memory()
import numpy as np

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20

def frames():  # as a frame's features: some megabytes each, dozens of them, in another thread than the main one
    parts = [np.ones(5 * 2**20, np.uint8) for _ in range(20)]
    return len(parts)

def work():
    frames()
    before = faults()
    frames()
    told.update(faults=faults() - before, kept=resident())
    give_back()
    told["after"] = resident()

told = {}
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(json.dumps(told))
"""


def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["faults"] < 1000  # of 25,600 pages
    assert told["kept"] - told["after"] > 80


def test_a_gpu_gives_back_its_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one job do not fit the next one: kept, they would fill the machine."""
    freed: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append("device"))
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: freed.append("host"), raising=False)
    free_memory()
    assert freed == ["device", "host"]
