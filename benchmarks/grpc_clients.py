"""Soak of the gRPC server: client processes that stream until SIGKILL; the server's memory and descriptors."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.soak import resident

_CLIENT: Final = """
import sys, random
import numpy as np
from skipvsr_client.live import StreamClient
address, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
while True:
    width, height = chance.choice([(32, 24), (64, 48), (160, 90)])
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with StreamClient(address) as client:
        stream = client.stream((frame for _ in range(40)), width=width, height=height, chunk=chance.choice([1, 2]))
        assert len(list(stream)) == 40
    print("ended", flush=True)
"""


def soak(address: str, process_id: int, minutes: float) -> None:
    """Run four clients at a time, kill each after 2 to 12 seconds, and print the server's memory and descriptors."""
    chance = random.Random(0)
    end = time.monotonic() + 60 * minutes
    memory: list[int] = []
    counts = {"streams ended": 0, "clients killed": 0, "clients failed": 0}
    descriptors = _descriptors(process_id)

    def one_after_another(seed: int) -> None:
        mine = random.Random(seed)
        while time.monotonic() < end:
            command = [sys.executable, "-c", _CLIENT, address, str(mine.randrange(10**6))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
                try:
                    client.wait(mine.uniform(2, 12))
                    counts["clients failed"] += 1  # a healthy client only ends by the kill below
                except subprocess.TimeoutExpired:
                    client.kill()
                    counts["clients killed"] += 1
                assert client.stdout
                counts["streams ended"] += len(client.stdout.read().splitlines())

    threads = [threading.Thread(target=one_after_another, args=(chance.randrange(10**6),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(2)
        memory.append(resident(process_id))
    time.sleep(2)
    third = max(1, len(memory) // 3)
    print(
        f"\nsoak of {minutes:g} minutes: {counts}; server's memory in MiB: highest of the first third "
        f"{max(memory[:third]) >> 20}, of the last {max(memory[-third:]) >> 20}, at the end "
        f"{resident(process_id) >> 20}; its descriptors: {descriptors} before, {_descriptors(process_id)} after"
    )


def _descriptors(process_id: int) -> int:
    return len(list(Path(f"/proc/{process_id}/fd").iterdir()))
