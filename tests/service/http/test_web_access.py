"""The page is usable by everybody: axe finds no fault in any state, two sizes and both themes; nothing overflows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from pydantic import SecretStr

from jobs.schema import JobState, Progress
from jobs.settings import Settings
from tests.support.browser import chromium
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving

expect.set_options(timeout=60_000)
pytestmark = pytest.mark.skipif(not (chromium() or os.environ.get("CI")), reason="needs Chromium: apt install chromium")

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(reduced_motion="reduce") as context:
        yield context.new_page()


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        running.announce_worker()
        yield running


def check(page: Page, state: str, rules: list[str] = RULES) -> None:
    """Compare the page with the rules, at both sizes and in both themes."""
    if not page.evaluate("!!window.axe"):
        page.evaluate(Axe().axe_script)
    for width, scheme in product((390, 1440), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        found = page.evaluate("rules => axe.run({runOnly: {type: 'tag', values: rules}})", rules)
        faults = [f"{one['id']}: {node['html'][:200]}" for one in found["violations"] for node in one["nodes"]]
        assert faults == [], f"{state}, {width}, {scheme}: {faults}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{state}: wider than {width}"


@pytest.mark.slow
def test_choosing_and_uploading(service: Service, page: Page, tmp_path: Path) -> None:
    long_name = "a_very_long_name_without_any_spaces_of_a_concert_recording_take_17_final.mp4"
    clips = [make_clip(tmp_path / name, frames=2) for name in (long_name, "b.mp4")]
    (tmp_path / "notes.mp4").write_text("no video " * 100)
    page.goto(service.url)
    expect(page.locator("#none")).to_be_visible()
    check(page, "empty")
    page.set_input_files("#files", [*clips, tmp_path / "notes.mp4"])
    page.locator("#options summary").click()
    check(page, "chosen")
    page.locator("#options [name=crf]").fill("99")
    page.locator("#start").click()
    expect(page.locator("#options .error")).to_be_visible()
    check(page, "impossible option")
    page.locator("#options [name=crf]").fill("18")
    page.get_by_role("button", name="Options of b.mp4").click()
    check(page, "options of one video")
    page.keyboard.press("Escape")
    page.locator("#start").click()
    expect(page.locator(".job")).to_have_count(2)
    expect(page.locator("#uploads .error")).to_be_visible()
    check(page, "refused upload")


@pytest.mark.slow
def test_jobs_in_every_state(service: Service, page: Page, tmp_path: Path) -> None:
    clips = {state: make_clip(tmp_path / f"{state}.mp4", frames=8, width=96, height=54) for state in JobState}
    ids = {state: service.post(clip).json()["id"] for state, clip in clips.items()}
    store = service.operations.store
    for state in (JobState.PAUSED, JobState.CANCELLED):
        service.client.post(f"/jobs/{ids[state]}/{'pause' if state is JobState.PAUSED else 'cancel'}")
    service.finish(ids[JobState.DONE], clips[JobState.DONE].read_bytes())
    service.finish(ids[JobState.FAILED], b"", JobState.FAILED)
    claim = store.claim(ids[JobState.RUNNING], "test-worker")
    assert claim is not None
    progress = Progress(frames_done=2, frames_total=8, fps=3.0, eta_seconds=2.0)
    store.heartbeat(claim, {"progress": progress, "warnings": ["the sound becomes AAC", "captions are dropped"]})
    page.goto(service.url)
    expect(page.locator(".job .badge")).to_have_count(len(JobState))
    page.locator(".warnings:visible summary").click()
    running = page.locator(f"#job-{ids[JobState.RUNNING]}")
    check(page, "jobs")
    running.get_by_role("button", name="Watch").click()
    expect(running.locator(".live")).to_be_visible()
    check(page, "watching")
    running.get_by_role("button", name="Cancel").click()
    check(page, "question")
    page.get_by_role("button", name="Cancel the job").click()
    expect(running.locator(".badge")).to_have_text("Cancelling…")
    check(page, "cancelling")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".stage")).to_be_focused()
    check(page, "comparison")
    page.locator("#search").fill("nothing")
    expect(page.locator("#none")).to_have_text("No job matches.")
    check(page, "no match")


def test_asking_for_the_key(settings: Settings, page: Page) -> None:
    with serving(settings.model_copy(update={"api_key": SecretStr("secret")})) as service:
        page.goto(service.url)
        page.get_by_label("Key", exact=True).fill("wrong")
        page.get_by_role("button", name="Unlock").click()
        expect(page.locator("#key .error")).to_be_visible()
        check(page, "key")


@pytest.mark.slow
def test_documentation(service: Service, page: Page) -> None:
    page.goto(f"{service.url}/docs")
    page.locator("#operations-jobs-upscale button.opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    check(page, "documentation", rules=[rule for rule in RULES if rule != "best-practice"])
