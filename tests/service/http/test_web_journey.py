"""What people do with the page, from the first file to the download, with a real worker."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from jobs.settings import Settings
from tests.service.http.test_web_access import check
from tests.support.browser import chromium
from tests.support.clips import make_clip
from tests.support.crew import crew
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until

expect.set_options(timeout=60_000)
pytestmark = pytest.mark.skipif(not (chromium() or os.environ.get("CI")), reason="needs Chromium: apt install chromium")

PART = 32 << 20
"""Bytes of one request of an upload; uploads.js has the same."""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        tab = context.new_page()
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        yield tab
        assert errors == []


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


def until(page: Page, condition: str, seconds: float = 30) -> None:
    wait_until(lambda: bool(page.evaluate(condition)), seconds, condition)


def padded(clip: Path, size: int) -> Path:
    """Make an MP4 file larger, by a box that players pass over."""
    with clip.open("ab") as file:
        file.write(struct.pack(">I4s", size, b"free"))
        file.truncate(file.tell() + size - 8)
    return clip


@pytest.mark.slow
def test_three_videos_from_the_choice_to_the_download(
    settings: Settings, service: Service, page: Page, tmp_path: Path
) -> None:
    clips = [make_clip(tmp_path / f"{name}.mp4", frames=60, width=320, height=180) for name in "abc"]
    with crew(settings, tmp_path):
        page.goto(service.url)
        expect(page.locator("#status.ready")).to_be_visible()
        page.set_input_files("#files", [str(clip) for clip in clips])
        facts = page.locator("#chosen .facts")
        for number in range(3):
            expect(facts.nth(number)).to_contain_text("→ 1280×720")
        page.locator("#options summary").click()
        page.locator("#options [name=chunk]").fill("8")
        page.get_by_role("button", name="Upscale 3 videos").click()
        expect(page.locator(".job")).to_have_count(3)
        running = page.locator(".job").first
        expect(running.locator(".badge")).to_have_text("Running", timeout=60_000)
        name = running.locator("h3").inner_text()
        running = page.get_by_role("article", name=name, exact=True)
        watch_live(page, name)
        running.get_by_role("button", name="Pause").click()
        expect(running.locator(".badge")).to_have_text("Paused")
        running.get_by_role("button", name="Resume").click()
        expect(page.locator(".job .badge.done")).to_have_count(3, timeout=120_000)
        compare(page, name)
        with page.expect_download() as download:
            running.get_by_role("link", name="Download").click()
        job = next(job for job in service.operations.recent() if job.filename == name)
        assert download.value.path().read_bytes() == service.operations.storage.result_path(job.id).read_bytes()


def watch_live(page: Page, name: str) -> None:
    """Frames are counted one by one, and the newest is shown in three pictures."""
    card = page.get_by_role("article", name=name, exact=True)
    card.get_by_role("button", name="Watch").click()
    seen: set[str] = set()
    deadline = time.monotonic() + 60
    loaded = "[...document.querySelectorAll('.live img')].every(i => i.complete && i.naturalWidth)"
    while not (len(seen) > 3 and page.evaluate(loaded)):
        assert time.monotonic() < deadline, (seen, page.locator(".live").inner_text())
        assert card.locator(".badge").inner_text() == "Running"
        seen.add(card.locator(".pace").inner_text())
        page.wait_for_timeout(100)
    assert any("frames/s" in words and "left" in words for words in seen)
    widths = page.evaluate("[...document.querySelectorAll('.live img')].map(i => i.naturalWidth)")
    assert len(widths) == 3


def compare(page: Page, name: str) -> None:
    page.get_by_role("article", name=name, exact=True).get_by_role("button", name="Compare").press("Enter")
    expect(page.locator(".stage")).to_be_focused()
    until(page, "document.querySelector('.after').readyState >= 3")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_label("Divider", exact=True)).to_have_value("48")
    page.keyboard.press(".")
    expect(page.locator(".time")).to_contain_text("frame 1")
    expect(page.locator(".chart svg")).to_have_count(2)
    page.keyboard.press("s")
    until(page, "document.querySelector('canvas.skipmap').width > 1")
    check(page, "comparison with skip map and charts")
    expect(page.get_by_label("Skip map", exact=True)).to_be_checked()
    page.get_by_label("Compare with").select_option("bicubic")
    until(page, "document.querySelector('.cut img').naturalWidth > 0")
    page.locator(".stage").press(" ")
    until(page, "!document.querySelector('.after').paused")
    page.keyboard.press("Escape")


def test_an_upload_goes_on_after_a_reload(service: Service, page: Page, tmp_path: Path) -> None:
    """The browser warns, and the page keeps what the server has. Only the rest is sent."""
    clip = padded(make_clip(tmp_path / "long.mp4", frames=2), PART + (8 << 20))
    questions: list[str] = []
    offsets: list[int] = []
    page.on("dialog", lambda dialog: (questions.append(dialog.type), dialog.accept()))
    page.on("request", lambda request: offsets.append(offset(request)) if request.method == "PATCH" else None)
    page.goto(service.url)
    page.route("**/uploads/*", lambda route: route.abort() if offset(route.request) else route.continue_())
    page.set_input_files("#files", str(clip))
    page.locator("#options [name=size]").select_option("scale=3")
    page.get_by_role("button", name="Upscale", exact=True).click()
    wait_until(lambda: page.evaluate("true") and PART in offsets, 60, "the first part did not arrive")
    page.reload()
    page.unroute_all()
    assert questions == ["beforeunload"]
    expect(page.locator("#uploads .facts")).to_contain_text("choose the file again")
    other = make_clip(tmp_path / "other.mp4", frames=2)
    page.get_by_label("Choose long.mp4 again").set_input_files(str(other))
    expect(page.locator("#uploads .error")).to_contain_text("other.mp4 is another file")
    page.get_by_label("Choose long.mp4 again").set_input_files(str(clip))
    expect(page.get_by_role("article", name="long.mp4", exact=True)).to_be_visible(timeout=60_000)
    assert offsets.count(0) == 1  # the first part is sent once
    assert set(offsets) == {0, PART}
    (job,) = service.operations.recent()
    assert job.options.scale == 3
    assert service.operations.storage.input_path(job.id).stat().st_size == clip.stat().st_size
    page.reload()
    expect(page.locator(".job")).to_have_count(1)
    expect(page.locator("#uploads li")).to_have_count(0)
    assert questions == ["beforeunload"]  # nothing is lost now


def test_a_refused_upload_keeps_its_reason_after_a_reload(service: Service, page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video\n" * 1000)
    page.goto(service.url)
    page.route("**/estimate", lambda route: route.abort())  # else the page refuses the file before the upload
    page.set_input_files("#files", str(tmp_path / "notes.mp4"))
    page.get_by_role("button", name="Upscale", exact=True).click()
    facts, error = page.locator("#uploads .facts"), page.locator("#uploads .error")
    expect(facts).to_contain_text("Failed", timeout=30_000)
    reason = error.text_content()
    assert reason
    page.reload()
    expect(facts).to_contain_text("Failed")
    expect(error).to_have_text(reason)
    page.get_by_role("button", name="Try again: notes.mp4").click()  # the server still has the file
    expect(error).to_have_text(reason, timeout=30_000)


def test_an_upload_that_the_server_does_not_take_asks_for_its_file_again(
    service: Service, page: Page, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    problem = {"type": "/problems/upload-too-large", "status": 413, "detail": "Too large today."}
    page.goto(service.url)
    page.route("**/uploads", lambda route: route.fulfill(status=413, json=problem))
    page.set_input_files("#files", str(clip))
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(page.locator("#uploads .error")).to_have_text("Too large today.")
    page.reload()
    page.unroute_all()
    expect(page.locator("#uploads .error")).to_have_text("Too large today.")
    page.get_by_label("Choose clip.mp4 again").set_input_files(str(clip))
    expect(page.get_by_role("article", name="clip.mp4", exact=True)).to_be_visible(timeout=60_000)


def test_an_upload_can_be_paused_and_resumed(service: Service, page: Page, tmp_path: Path) -> None:
    clip = padded(make_clip(tmp_path / "long.mp4", frames=2), PART + (8 << 20))
    page.goto(service.url)
    page.route("**/uploads/*", lambda route: route.abort() if offset(route.request) else route.continue_())
    page.set_input_files("#files", str(clip))
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(page.locator("#uploads .facts")).to_contain_text("Uploading")
    page.get_by_role("button", name="Pause: long.mp4").click()
    expect(page.locator("#uploads .facts")).to_contain_text("Paused")
    page.unroute_all()
    page.get_by_role("button", name="Resume: long.mp4").click()
    expect(page.get_by_role("article", name="long.mp4", exact=True)).to_be_visible(timeout=60_000)


def offset(request: Request) -> int:
    return int(request.headers.get("upload-offset", 0)) if request.method == "PATCH" else 0
