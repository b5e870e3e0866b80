"""API keys of every kind, and jobs that belong to them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.allowance import Limits
from jobs.figures import FILES, FiguresWriter
from jobs.resumable import ResumableFiles
from jobs.schema import Job, JobOptions, JobState, Progress
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from service.callers import Scope
from service.key_file import KeyFile
from tests.support.figures import FACTS

OWN_SCOPES = frozenset({Scope.READ, Scope.SUBMIT})


@dataclass(frozen=True)
class Keys:
    """Keys in a data folder: id and text of each kind; no text means no key."""

    file: KeyFile
    texts: dict[str, str]
    ids: dict[str, str]

    def text(self, kind: str) -> str:
        return self.texts[kind]

    def owner(self, kind: str) -> str:
        """Owner of the job that a caller of this kind asks for: the caller, or another key."""
        return self.ids["own"] if kind in ("none", "wrong", "other", "admin") else self.ids[kind]


KINDS = ("none", "wrong", "revoked", "expired", "read", "submit", "own", "other", "admin")
"""read, submit: only this scope; other: a full key, which asks for another key's job, as the admin does."""


def make_keys(data_dir: Path) -> Keys:
    """Add a key of each kind to the data folder."""
    file = KeyFile(data_dir / "keys.json")
    scopes = {
        "revoked": OWN_SCOPES,
        "expired": OWN_SCOPES,
        "read": frozenset({Scope.READ}),
        "submit": frozenset({Scope.SUBMIT}),
        "own": OWN_SCOPES,
        "other": OWN_SCOPES,
        "admin": frozenset({Scope.ADMIN}),
    }
    past = datetime.now(UTC) - timedelta(seconds=1)
    texts, ids = {"none": "", "wrong": f"svk_00000000_{'0' * 64}"}, {}
    for kind, given in scopes.items():
        row, texts[kind] = file.add(kind, given, Limits(), past if kind == "expired" else None)
        ids[kind] = row.id
    file.revoke("revoked")
    return Keys(file, texts, ids)


def job_of(owner: str, state: JobState, store: JobStore, storage: Storage, clip: Path) -> str:
    """Store a job of an owner with its files; return its id."""
    job_id = new_id()
    storage.prepare()
    upload = storage.uploads / f"{job_id}.part"
    shutil.copyfile(clip, upload)
    storage.adopt(upload, job_id)
    options = JobOptions.model_validate({"model": "tiny"})
    store.create(Job(id=job_id, owner=owner, filename="clip.mp4", options=options, progress=Progress()))
    if state is JobState.PAUSED:
        store.request_pause(job_id)
    if state is JobState.DONE:
        claim = store.claim(job_id, "test-worker")
        assert claim is not None
        work = storage.take_work(job_id, claim.token)
        (work / "result.mp4").write_bytes(b"the result")
        FiguresWriter(work, FACTS, 0)
        for name in ("result.mp4", *FILES):
            storage.publish(work / name, job_id)
        assert store.release(claim, JobState.DONE)
    return job_id


def upload_of(owner: str, store: JobStore, storage: Storage) -> str:
    """Create a resumable upload of an owner; return its id."""
    return ResumableFiles(storage, store.knows).create(owner, 5, "clip.mp4").id
