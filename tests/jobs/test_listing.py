"""Parts of the list of jobs: every selection equals a search through all documents."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from jobs.schema import Job, JobOptions, JobState
from jobs.store import JobStore, Selection

STATES = tuple(JobState)
NAMES = ("Urlaub.mp4", "urlaub-2.mkv", "Straße.mov", 'say "hi"\n.webm')


@pytest.fixture
def jobs(store: JobStore) -> list[Job]:
    """Sixty jobs in all states, newest first; some were made at the same time."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = [
        Job(
            id=f"{number:024x}",
            owner=("", "0123abcd", "4567cdef")[number % 3],
            state=STATES[number % 6] if number % 6 else JobState.DONE,
            filename=NAMES[number % 4],
            options=JobOptions(),
            created_at=start + timedelta(seconds=number // 2),
        )
        for number in range(60)
    ]
    for job in made:
        assert store.restore(job)
    return sorted(made, key=lambda job: (job.created_at, job.id), reverse=True)


@pytest.mark.parametrize("states", [(), (JobState.DONE,), (JobState.FAILED, JobState.DONE, JobState.PAUSED)])
@pytest.mark.parametrize("owner", [None, "0123abcd", "nobody"])
@pytest.mark.parametrize("text", ["", "URLAUB", "strasse", '"HI"', "nothing"])
def test_selections(
    store: JobStore, jobs: list[Job], states: tuple[JobState, ...], owner: str | None, text: str
) -> None:
    others = [
        job for job in jobs if (owner is None or job.owner == owner) and text.casefold() in job.filename.casefold()
    ]
    wanted = [job.id for job in others if not states or job.state in states]
    for limit, offset in itertools.product((1, 7, 100), (0, 5, 1000)):
        page = store.page(Selection(states, owner, text), limit=limit, offset=offset)
        assert [job.id for job in page.jobs] == wanted[offset : offset + limit]
        assert page.total == len(wanted)
        assert page.counts == {state: sum(job.state is state for job in others) for state in JobState}


def test_an_empty_list(store: JobStore) -> None:
    for selection in (Selection(), Selection((JobState.DONE,)), Selection(text="a"), Selection(owner="a")):
        page = store.page(selection)
        assert (page.jobs, page.total, set(page.counts.values())) == ([], 0, {0})


def test_repeated_states_count_once(store: JobStore, jobs: list[Job]) -> None:
    states = (JobState.DONE, JobState.PAUSED)
    once, again = (store.page(Selection(given), limit=5) for given in (states, states * 1000))
    assert ([job.id for job in once.jobs], once.total) == ([job.id for job in again.jobs], again.total)
