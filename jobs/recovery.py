"""Detection of a loss of Redis: API, gRPC server and workers then list the jobs again that only the disk knows.

A flushed server, a new volume or another address lack the marker `keys.COMPLETE`. A Redis that was restarted, perhaps
from an older copy, has another run id.
"""

from __future__ import annotations

import logging
import secrets
import threading
from typing import Final

from redis.exceptions import ResponseError

from jobs import records
from jobs.errors import StorageUnavailable, StoreUnavailable
from jobs.keys import COMPLETE
from jobs.storage import Storage
from jobs.store import JobStore
from jobs.store.connection import unavailable
from jobs.upkeep import Upkeep

log = logging.getLogger(__name__)

_POLL_SECONDS = 2.0
_LONGEST_SECONDS: Final = 86400
"""Time to live of the mark of a restoration, which a killed process leaves."""


class Recovery:
    """Restores lost jobs at the start of a process, and after each loss. Several processes may restore at once.

    Args:
        store: the jobs.
        storage: the files.
        upkeep: cleans this machine's data folder in the thread; None on machines with a worker: the worker's janitor
            does the same.
    """

    def __init__(self, store: JobStore, storage: Storage, upkeep: Upkeep | None = None) -> None:
        self._store, self._storage, self._upkeep = store, storage, upkeep
        self._run_id = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)

    def start(self) -> None:
        """Check in a thread, every two seconds."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the current check."""
        self._ended.set()
        self._thread.join(timeout=10)

    def check(self) -> list[str]:
        """Restore the lost jobs, if Redis may have lost any; return their ids. Raises StoreUnavailable, OSError."""
        redis = self._store.redis
        with unavailable():
            run_id = str(redis.info("server").get("run_id", ""))
            if run_id == self._run_id and redis.exists(COMPLETE):
                return []
        mark = f"{COMPLETE}:{secrets.token_hex(8)}"
        with unavailable():
            redis.set(mark, 1, ex=_LONGEST_SECONDS)
        restored = records.restore(self._store, self._storage)
        if self._completed(mark):
            self._run_id = run_id
        return restored

    def _completed(self, mark: str) -> bool:
        """Turn the mark of a restoration into `COMPLETE`; False if Redis lost the mark, and perhaps restored jobs."""
        with unavailable(), self._store.redis.pipeline() as pipe:
            pipe.rename(mark, COMPLETE)
            pipe.persist(COMPLETE)
            try:
                pipe.execute()
            except ResponseError:
                return False
        return True

    def _run(self) -> None:
        wait = 0.0
        while not self._ended.wait(wait):
            wait = _POLL_SECONDS
            try:
                if self._upkeep is not None:
                    self._upkeep.clean_if_due()
                self.check()
            except (StoreUnavailable, StorageUnavailable):
                continue
            except Exception:  # one broken record must not end the thread
                log.exception("cannot list lost jobs again; trying again")
