"""The web page in a real browser, against the real service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs.allowance import Limits
from jobs.schema import JobState, Progress
from jobs.settings import Settings
from service.callers import Scope
from tests.support.api_keys import job_of, make_keys
from tests.support.browser import Page, browsing, chromium
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until

# CI installs the browser, so a missing browser fails there. Elsewhere the tests are skipped.
pytestmark = pytest.mark.skipif(not (chromium() or os.environ.get("CI")), reason="needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    browser.errors.clear()
    yield browser
    browser.open("about:blank")


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


def says(selector: str, words: str) -> str:
    """Return a JavaScript expression that is true if an element shows these words."""
    return f"document.querySelector({selector!r})?.innerText.includes({words!r})"


def click_button(page: Page, label: str) -> None:
    page.run(
        f"[...document.querySelectorAll('button')].find(b => b.innerText === {label!r} && b.offsetParent).dataset.t = 1"
    )
    page.click("[data-t]")
    page.run("document.querySelector('[data-t]')?.removeAttribute('data-t')")


def test_upload_progress_and_comparison(service: Service, page: Page, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "Köge <img src=x onerror=alert(1)>.mp4", frames=24, width=64, height=48)
    page.open(service.url)
    page.wait(says("#status", "no worker is alive"))
    service.announce_worker()
    page.wait(says("#status", "ready · tiny on cpu"))
    page.wait("[...document.querySelector('[name=model]').options].map(o => o.text).join() === 'automatic,small,tiny'")
    assert page.run("document.querySelector('#start').disabled")

    page.choose_file("#drop input", clip)
    page.wait(says("#drop", "Köge <img src=x onerror=alert(1)>.mp4"))
    page.run("document.querySelector('[name=size]').value = 'scale=2'")
    page.click("#start")
    page.wait(says(".job .badge", "queued"))
    assert page.run("document.querySelector('.job h3').innerText") == "Köge <img src=x onerror=alert(1)>.mp4"
    (job,) = service.operations.recent()
    assert job.options.scale == 2
    assert page.run("document.querySelector('#start').disabled")  # a second click would send the video twice

    store = service.operations.store
    claim = store.claim(job.id, "test-worker")
    assert claim is not None
    store.heartbeat(claim, {"progress": Progress(frames_done=6, frames_total=24, fps=3.0, eta_seconds=6.0)})
    page.wait(says(".job .pace", "6 of 24 frames · 3.00 frames/s · 6 s left"))
    assert page.run("document.querySelector('.job progress').value") == 0.25
    click_button(page, "Pause")
    wait_until(lambda: store.heartbeat(claim).request == "pause", 5, "the button did nothing")
    store.release(claim, JobState.PAUSED)
    page.wait(says(".job .badge", "paused"))
    click_button(page, "Resume")
    wait_until(lambda: store.get(job.id).state is JobState.QUEUED, 5, "the button did nothing")

    result = make_clip(tmp_path / "result.mp4", frames=24, width=128, height=96)
    service.finish(job.id, result.read_bytes())
    page.wait(says(".job .badge", "done"))
    assert page.run("document.querySelector('.job a.main').getAttribute('href')") == f"/jobs/{job.id}/result"
    click_button(page, "Compare")
    page.wait("document.querySelector('.after').readyState >= 3 && document.querySelector('.before').readyState >= 3")
    assert page.run("['.after', '.before'].map(s => document.querySelector(s).videoWidth)") == [128, 64]
    page.click(".play")
    page.wait("document.querySelector('.after').currentTime > 0.1")
    assert page.errors == [], page.errors


def test_refused_upload_shows_the_reason(service: Service, page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video " * 1000)
    page.open(service.url)
    page.choose_file("#drop input", tmp_path / "notes.mp4")
    page.click("#start")
    page.wait(says("#upload .error", "not an accepted video format"))
    page.wait("!document.querySelector('#start').disabled")
    assert page.run("document.querySelectorAll('.job').length") == 0


def test_job_order_and_lasting_errors(service: Service, page: Page, tmp_path: Path) -> None:
    clips = [make_clip(tmp_path / f"{number}.mp4", frames=2) for number in range(5)]
    for clip in clips[:3]:
        service.post(clip)
    page.open(service.url)
    names = "[...document.querySelectorAll('.job h3')].map(name => name.innerText).join()"
    page.wait(f"{names} === '2.mp4,1.mp4,0.mp4'")
    for clip in clips[3:]:
        job_id = service.post(clip).json()["id"]
    page.wait(f"{names} === '4.mp4,3.mp4,2.mp4,1.mp4,0.mp4'")
    service.finish(job_id, b"", JobState.FAILED)
    page.wait(says(".job .badge", "failed"))
    service.operations.storage.remove(job_id)
    click_button(page, "Resume")
    page.wait(says(".job .error", "has been removed"))
    page.run("new Promise(done => setTimeout(done, 2500))")
    assert page.run(says(".job .error", "has been removed")), "polling removed the error"
    service.operations.store.mark_files_removed(job_id)
    page.wait("![...document.querySelectorAll('.job button')].some(button => button.innerText === 'Resume')")


def test_cancel(service: Service, page: Page, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    page.open(service.url)
    page.wait(says(".job .badge", "queued"))
    click_button(page, "Cancel")
    page.wait(says(".job .badge", "cancelled"))
    assert service.client.get(f"/jobs/{job_id}").json()["state"] == "cancelled"
    click_button(page, "Remove")
    page.wait("!document.querySelector('.job') && !document.querySelector('#none').hidden")
    assert service.client.get(f"/jobs/{job_id}").status_code == 404


def test_page_asks_for_the_api_key(settings: Settings, page: Page, tmp_path: Path) -> None:
    key = "s3cret, with; signs"
    with serving(settings.model_copy(update={"api_key": SecretStr(key)})) as service:
        page.open(service.url)
        page.wait("!document.querySelector('#key').hidden && document.querySelector('#upload').hidden")
        page.run("document.querySelector('[name=key]').value = 'wrong'")
        click_button(page, "Unlock")
        page.wait(says("#key .error", "the API key is wrong"))
        page.run(f"document.querySelector('[name=key]').value = {key!r}")
        click_button(page, "Unlock")
        page.wait("document.querySelector('#key').hidden && !document.querySelector('#upload').hidden")
        clip = make_clip(tmp_path / "clip.mp4", frames=4)
        page.choose_file("#drop input", clip)
        page.click("#start")
        page.wait(says(".job .badge", "queued"))
        (job,) = service.operations.recent()
        service.finish(job.id, clip.read_bytes())
        page.wait(says(".job .badge", "done"))
        click_button(page, "Compare")
        page.wait("document.querySelector('.after').readyState >= 2")  # the video's request carries a read-only cookie
        assert page.run("document.cookie") == "", "scripts can read the cookie"


def test_page_with_a_users_key(settings: Settings, page: Page, tmp_path: Path) -> None:
    """The page shows and plays own jobs only, and says what the key may not do."""
    keys = make_keys(settings.data_dir)
    clip = make_clip(tmp_path / "clip.mp4", frames=4)
    with serving(settings) as service:
        store, storage = service.operations.store, service.operations.storage
        own, _ = (job_of(keys.ids[kind], JobState.QUEUED, store, storage, clip) for kind in ("read", "own"))
        service.finish(own, clip.read_bytes())
        page.open(service.url)
        page.wait("!document.querySelector('#key').hidden")
        page.run(f"document.querySelector('[name=key]').value = {keys.text('read')!r}")
        click_button(page, "Unlock")
        page.wait(says(".job .badge", "done"))
        assert page.run("document.querySelectorAll('.job').length") == 1
        click_button(page, "Compare")
        page.wait("document.querySelector('.after').readyState >= 2")
        page.choose_file("#drop input", clip)
        page.click("#start")
        page.wait(says("#upload .error", "lacks the scope submit"))
        keys.file.revoke("read")
        page.run("refresh()")
        page.wait("!document.querySelector('#key').hidden && document.querySelector('#upload').hidden")
        page.wait(says("#key .error", "has been revoked"))


def unlock(page: Page, key: str) -> None:
    page.run(f"document.querySelector('[name=key]').value = {key!r}")
    click_button(page, "Unlock")
    page.wait("document.querySelector('#key').hidden && !document.querySelector('#upload').hidden")


def test_a_new_tab_asks_for_the_key_before_a_change(settings: Settings, page: Page, tmp_path: Path) -> None:
    """The cookie shows the jobs in a new tab, but only the key uploads."""
    keys = make_keys(settings.data_dir)
    clip = make_clip(tmp_path / "clip.mp4", frames=4)
    with serving(settings) as service:
        job_of(keys.ids["own"], JobState.DONE, service.operations.store, service.operations.storage, clip)
        page.open(service.url)
        page.wait("!document.querySelector('#key').hidden")
        unlock(page, keys.text("own"))
        page.run("sessionStorage.clear()")
        page.open(service.url)
        page.wait(says(".job .badge", "done"))
        page.choose_file("#drop input", clip)
        page.click("#start")
        page.wait("!document.querySelector('#key').hidden && document.querySelector('#upload').hidden")
        unlock(page, keys.text("own"))
        page.click("#start")
        page.wait(says("#jobs", "queued"))


def test_page_with_a_key_that_only_submits(settings: Settings, page: Page, tmp_path: Path) -> None:
    """Each message has its place, and stays: what the key cannot see, and why an upload was refused."""
    keys = make_keys(settings.data_dir)
    clip = make_clip(tmp_path / "clip.mp4", frames=4)
    key = keys.file.add("limited", frozenset({Scope.SUBMIT}), Limits(max_jobs=1))[1]
    with serving(settings) as service:
        page.open(service.url)
        page.wait("!document.querySelector('#key').hidden")
        unlock(page, key)
        page.wait(says("#none", "lacks the scope read"))
        page.choose_file("#drop input", clip)
        page.click("#start")
        page.wait(says(".job .badge", "queued"))
        page.choose_file("#drop input", clip)
        page.click("#start")
        page.wait(says("#upload .error", "jobs at a time"))
        page.run("refresh()")
        assert page.run(says("#upload .error", "jobs at a time"))
        click_button(page, "Change API key")
        unlock(page, keys.text("own"))
        page.wait(says("#none", "No jobs yet"))
        assert page.run("document.querySelectorAll('.job').length") == 0


def test_description_page(service: Service, page: Page) -> None:
    page.open(f"{service.url}/docs")
    page.wait("document.querySelectorAll('details').length > 10")
    shown = set(page.run("[...document.querySelectorAll('summary')].map(s => s.textContent)"))
    for path, operations in service.app.openapi()["paths"].items():
        for method, operation in operations.items():
            assert f"{method}{path}{operation['summary']}" in shown
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert "lookahead" in page.text()
    assert page.errors == []
