"""How many workers could help with a job."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import torch

from jobs.presence import Presence, WorkerInfo
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore
from worker.lead import Lead


def test_only_idle_workers_with_the_same_kind_of_device_count(
    settings: Settings, store: JobStore, storage: Storage
) -> None:
    workers = [("lead", "cuda:0", None), ("a", "cuda:1", None), ("b", "cpu", None), ("c", "cuda:0", "0" * 24)]
    for name, device, job in workers:
        started = datetime.now(UTC)
        info = WorkerInfo(
            name=name, host="h", pid=1, device=device, model="tiny", models=["tiny"], job=job, started_at=started
        )
        Presence(store.redis).announce(info, 60)
    unused: Any = None
    lead = Lead(settings, store, storage, "lead", unused)
    model: Any = SimpleNamespace(name="tiny", device=torch.device("cuda"))
    assert lead._idle(model) == 1
