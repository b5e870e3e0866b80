"""The web page in a real browser, against the real service."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from jobs.schema import JobState, Progress
from jobs.settings import Settings
from tests.support.browser import chromium
from tests.support.clips import make_clip
from tests.support.crew import submit
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until
from tests.support.web_page import card, choose, until

# CI installs the browser, so a missing browser fails there. Elsewhere the tests are skipped.
expect.set_options(timeout=60_000)
pytestmark = pytest.mark.skipif(not (chromium() or os.environ.get("CI")), reason="needs Chromium: apt install chromium")


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


def test_upload_progress_and_comparison(service: Service, page: Page, tmp_path: Path) -> None:
    name = "Köge <img src=x onerror=alert(1)>.mp4"
    clip = make_clip(tmp_path / name, frames=24, width=64, height=48)
    page.goto(service.url)
    expect(page.locator("#status")).to_contain_text("no worker is alive")
    service.announce_worker()
    page.reload()
    expect(page.locator("#status")).to_have_text("ready · tiny on cpu")

    choose(page, clip)
    expect(page.locator("#chosen strong")).to_have_text(name)
    assert page.locator("#options [name=model] option").all_inner_texts() == ["Automatic", "small: for most videos"]
    page.locator("#options").get_by_label("Size").select_option("scale=2")
    page.get_by_role("button", name="Upscale", exact=True).dblclick()  # a second click sends nothing twice
    job_card = card(page, name)
    expect(job_card.locator(".badge")).to_have_text("Queued")
    (job,) = service.operations.recent()
    assert job.options.scale == 2
    assert job.filename == name

    store = service.operations.store
    claim = store.claim(job.id, "test-worker")
    assert claim is not None
    store.heartbeat(claim, {"progress": Progress(frames_done=6, frames_total=24, fps=3.0, eta_seconds=6.0)})
    expect(job_card.locator(".pace")).to_have_text("25 % · 6 of 24 frames · 3.00 frames/s · about 10 s left")
    expect(page).to_have_title(f"25 % · {name}")
    pause = job_card.get_by_role("button", name="Pause")
    pause.click()
    expect(job_card.locator(".badge")).to_have_text("Pausing…")
    expect(pause).to_be_focused()
    expect(pause).to_have_attribute("aria-disabled", "true")
    wait_until(lambda: store.heartbeat(claim).request == "pause", 60, "the button did nothing")
    store.release(claim, JobState.PAUSED)
    expect(job_card.locator(".badge")).to_have_text("Paused")
    expect(job_card.get_by_role("button").first).to_be_focused()
    job_card.get_by_role("button", name="Resume").click()
    wait_until(lambda: store.get(job.id).state is JobState.QUEUED, 60, "the button did nothing")

    result = make_clip(tmp_path / "result.mp4", frames=24, width=128, height=96)
    service.finish(job.id, result.read_bytes())
    expect(job_card.locator(".badge")).to_have_text("Done")
    expect(page.locator("#announce")).to_have_text(f"{name}: Done")
    with page.expect_download() as download:
        job_card.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes() == result.read_bytes()
    job_card.get_by_role("button", name="Compare").click()
    until(page, "['.after', '.before'].map(s => document.querySelector(s).videoWidth).join() === '128,64'")


def test_compare_with_the_keyboard(service: Service, page: Page, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=24, width=64, height=48)).json()["id"]
    service.finish(job_id, make_clip(tmp_path / "result.mp4", frames=24, width=128, height=96).read_bytes())
    page.goto(service.url)
    compare = card(page, "clip.mp4").get_by_role("button", name="Compare")
    compare.press("Enter")
    stage = page.locator(".stage")
    expect(stage).to_be_focused()
    until(page, "document.querySelector('.after').readyState >= 3")
    after, style = page.locator(".after"), "e => getComputedStyle(e).getPropertyValue"
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert stage.evaluate(f"{style}('--cut')") == "60%"
    expect(page.get_by_label("Divider", exact=True)).to_have_value("60")
    page.keyboard.press(".")
    page.keyboard.press(".")
    expect(page.locator(".time")).to_contain_text("frame 2")
    page.keyboard.press(",")
    expect(page.locator(".time")).to_contain_text("frame 1")
    page.keyboard.press("+")
    expect(page.locator(".zoom")).to_have_text("1.4 ×")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("0")
    expect(page.locator(".zoom")).to_have_text("1.0 ×")
    page.keyboard.press("m")
    assert not after.evaluate("e => e.muted")
    page.keyboard.press("Space")
    until(page, "!document.querySelector('.after').paused && document.querySelector('.after').currentTime > .1")
    page.keyboard.press("Space")
    until(page, "document.querySelector('.after').paused")
    page.keyboard.press("Escape")
    expect(stage).to_have_count(0)
    expect(compare).to_be_focused()


def test_wheel_and_drag_zoom_and_pan(service: Service, page: Page, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=4, width=64, height=48)).json()["id"]
    service.finish(job_id, make_clip(tmp_path / "result.mp4", frames=4, width=128, height=96).read_bytes())
    page.goto(service.url)
    card(page, "clip.mp4").get_by_role("button", name="Compare").click()
    stage = page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    expect(page.locator(".zoom")).to_have_text("2.7 ×")
    read = "e => [e.style.getPropertyValue('--x'), e.style.getPropertyValue('--cut')]"
    before, cut = stage.evaluate(read)
    page.mouse.down()
    page.mouse.move(x + 50, y)
    page.mouse.up()
    after, cut_after = stage.evaluate(read)
    assert float(after[:-2]) - float(before[:-2]) == pytest.approx(50)
    assert cut == cut_after == "50%"
    page.get_by_role("button", name="Zoom out").click()
    expect(page.locator(".zoom")).to_have_text("1.9 ×")
    page.get_by_label("Divider", exact=True).fill("20")
    assert stage.evaluate("e => e.style.getPropertyValue('--cut')") == "20%"


def test_refused_upload_keeps_its_reason_and_can_be_removed(service: Service, page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video " * 1000)
    page.goto(service.url)
    choose(page, tmp_path / "notes.mp4")
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(page.locator("#uploads .error")).to_contain_text("not an accepted video format")
    expect(page.locator("#uploads .facts")).to_have_text("Failed · 9 kB")  # and no full bar
    expect(page.locator("#uploads progress")).to_be_hidden()
    assert page.locator(".job").count() == 0
    page.get_by_role("button", name="Try again: notes.mp4").click()
    expect(page.locator("#uploads .error")).to_contain_text("not an accepted video format")
    page.get_by_role("button", name="Remove: notes.mp4").click()
    expect(page.locator("#uploads li")).to_have_count(0)


def test_a_video_that_the_estimate_refuses_is_not_sent(service: Service, page: Page, tmp_path: Path) -> None:
    """A reason is enough, and bytes are not needed. The user may insist."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/uploads") else None)
    (tmp_path / "notes.mp4").write_text("no video " * 1000)
    page.goto(service.url)
    choose(page, make_clip(tmp_path / "clip.mp4", frames=2), tmp_path / "notes.mp4")
    expect(page.locator("#chosen .error").nth(1)).to_contain_text("not an accepted video format")
    expect(page.locator("#total")).to_contain_text("1 not possible")
    page.get_by_role("button", name="Upscale 2 videos").click()
    expect(card(page, "clip.mp4")).to_be_visible()
    expect(page.locator("#uploads .facts")).to_have_text("Failed · 9 kB")
    expect(page.locator("#uploads .error")).to_contain_text("not an accepted video format")
    assert len(sent) == 1
    page.get_by_role("button", name="Try again: notes.mp4").click()
    expect(page.locator("#uploads .error")).to_contain_text("not an accepted video format")
    assert len(sent) == 2


def test_a_busy_estimate_is_shown_and_refuses_nothing(service: Service, page: Page, tmp_path: Path) -> None:
    problem = {"type": "/problems/too-many-estimates", "detail": "ask again in some seconds"}
    page.route("**/estimate", lambda route: route.fulfill(status=503, json=problem))
    page.goto(service.url)
    choose(page, make_clip(tmp_path / "clip.mp4", frames=2))
    expect(page.locator("#chosen .error")).to_have_text("ask again in some seconds")
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(card(page, "clip.mp4")).to_be_visible()


def test_files_are_queued_and_one_bad_file_stops_no_other(service: Service, page: Page, tmp_path: Path) -> None:
    """Videos that are chosen during an upload wait for their start. Each has its own options."""
    clips = [make_clip(tmp_path / f"{number}.mp4", frames=2) for number in range(3)]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    (tmp_path / "empty.mp4").touch()
    page.goto(service.url)
    choose(page, clips[0], bad, tmp_path / "empty.mp4", clips[1])
    expect(page.locator("#refused")).to_have_text("empty.mp4: the file is empty.")
    choose(page, clips[0])
    expect(page.locator("#refused")).to_have_text("1 video already in the list.")
    page.get_by_role("button", name="Options of 1.mp4").click()
    page.locator("#edit").get_by_label("Size").select_option("scale=3")
    page.locator("#edit").get_by_role("button", name="Save").click()
    page.locator("#options").get_by_text("Fast", exact=True).click()
    page.get_by_role("button", name="Upscale 3 videos").click()
    choose(page, clips[2])
    expect(card(page, "1.mp4")).to_be_visible()
    expect(page.locator("#uploads strong")).to_have_text("bad.mp4")
    expect(page.locator("#chosen strong")).to_have_text("2.mp4")
    options = {job.filename: job.options for job in service.operations.recent()}
    assert {name: (one.scale, one.routing) for name, one in options.items()} == {
        "0.mp4": (None, "fast"),
        "1.mp4": (3, "balanced"),
    }


def test_an_impossible_option_opens_its_section(service: Service, page: Page, tmp_path: Path) -> None:
    page.goto(service.url)
    choose(page, make_clip(tmp_path / "clip.mp4", frames=2))
    field = page.locator("#options").get_by_label(re.compile("CRF"))
    more = page.locator("#options summary")
    more.click()
    field.fill("99")
    more.click()
    expect(field).to_be_hidden()
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(field).to_be_focused()
    expect(page.locator("#options .error")).to_have_text("Compression (CRF): enter a whole number from 0 to 51.")
    field.fill("20")
    expect(page.locator("#options .error")).to_be_hidden()
    page.locator("#options").get_by_label("File format").select_option("webm")
    assert page.locator("#options [name=codec] option:enabled").all_inner_texts() == ["Automatic", "AV1"]
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(card(page, "clip.mp4")).to_be_visible()
    (job,) = service.operations.recent()
    assert (job.options.crf, job.options.container) == (20, "webm")


def test_a_lost_connection_shows_at_once(service: Service, page: Page) -> None:
    """The page asks for the server's health when its events break off, without a timer."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/readyz") else None)
    page.add_init_script("window.setInterval = () => 0")
    page.route("**/events", lambda route: route.abort())
    page.goto(service.url)
    wait_until(lambda: page.evaluate("true") and len(asked) > 1, 60, "the page did not ask again")


def test_order_filter_and_lasting_errors(service: Service, page: Page, tmp_path: Path) -> None:
    ids = [service.post(make_clip(tmp_path / f"{number}.mp4", frames=2)).json()["id"] for number in range(3)]
    page.goto(service.url)
    names = page.locator(".job h3")
    expect(names).to_have_text(["2.mp4", "1.mp4", "0.mp4"])
    claim = service.operations.store.claim(ids[0], "test-worker")
    assert claim is not None
    expect(names).to_have_text(["0.mp4", "2.mp4", "1.mp4"])  # a running job comes first
    service.finish(ids[2], b"", JobState.FAILED)
    expect(card(page, "2.mp4").locator(".badge")).to_have_text("Failed")
    service.operations.storage.remove(ids[2])
    card(page, "2.mp4").get_by_role("button", name="Try again").click()
    error = card(page, "2.mp4").locator(".error")
    expect(error).to_contain_text("has been removed")
    page.wait_for_timeout(2500)
    expect(error).to_contain_text("has been removed")  # not removed by the next look at the jobs
    service.operations.store.mark_files_removed(ids[2])
    expect(card(page, "2.mp4").get_by_role("button", name="Try again")).to_have_count(0)
    page.get_by_role("button", name=re.compile("^Failed")).click()
    expect(names).to_have_text(["2.mp4"])
    page.get_by_role("button", name=re.compile("^Done")).click()
    expect(page.locator("#none")).to_have_text("No job matches.")


def test_pages_and_search(service: Service, page: Page, tmp_path: Path) -> None:
    """A running job comes first, even one that is older than a page of others."""
    clip, rare = (make_clip(tmp_path / f"{name}.mp4", frames=2) for name in ("clip", "rare"))
    store, storage = service.operations.store, service.operations.storage
    oldest = submit(store, storage, rare)
    for _ in range(21):
        submit(store, storage, clip)
    assert store.claim(oldest, "test-worker") is not None
    page.goto(service.url)
    expect(page.locator(".job h3").first).to_have_text("rare.mp4")
    expect(page.locator("#pages")).to_contain_text("1 to 20 of 22")
    page.get_by_role("button", name="Older", exact=True).click()
    expect(page.locator("#pages")).to_contain_text("21 to 22 of 22")
    expect(page.locator(".job h3")).to_have_text(["rare.mp4", "clip.mp4"])
    page.get_by_label("Search jobs by name").fill("RAR")
    expect(page.locator(".job h3")).to_have_text(["rare.mp4"])
    expect(page.locator("#pages")).to_be_hidden()
    expect(page.get_by_role("button", name=re.compile("^In progress"))).to_have_text("In progress 1")


def test_cancel_and_delete_ask_first(service: Service, page: Page, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    page.goto(service.url)
    cancel = card(page, "clip.mp4").get_by_role("button", name="Cancel")
    cancel.click()
    expect(page.get_by_role("dialog")).to_contain_text("clip.mp4: the upload is removed from the server.")
    page.keyboard.press("Escape")
    expect(cancel).to_be_focused()
    assert service.client.get(f"/jobs/{job_id}").json()["state"] == "queued"
    cancel.click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(card(page, "clip.mp4").locator(".badge")).to_have_text("Cancelled")
    assert service.client.get(f"/jobs/{job_id}").json()["state"] == "cancelled"
    card(page, "clip.mp4").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".job")).to_have_count(0)
    expect(page.locator("#jobs-title")).to_be_focused()
    assert service.client.get(f"/jobs/{job_id}").status_code == 404


def test_warnings_are_a_list(service: Service, page: Page, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    claim = service.operations.store.claim(job_id, "test-worker")
    assert claim is not None
    service.operations.store.heartbeat(claim, {"warnings": ["captions are dropped", "sound becomes AAC"]})
    page.goto(service.url)
    page.get_by_text("2 warnings").click()
    expect(page.locator(".warnings li")).to_have_text(["captions are dropped", "sound becomes AAC"])


def test_run_again_with_other_options(service: Service, page: Page, tmp_path: Path) -> None:
    """The page takes the server's copy of the video."""
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    job_id = service.post(clip, scale="3").json()["id"]
    service.finish(job_id, clip.read_bytes())
    page.goto(service.url)
    card(page, "clip.mp4").get_by_role("button", name="Run again").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Size")).to_have_value("scale=3")
    dialog.get_by_label("Size").select_option("height=720")
    dialog.get_by_role("button", name="Add to the list").click()
    page.get_by_role("button", name="Upscale", exact=True).click()
    expect(page.locator(".job")).to_have_count(2)
    newest, _ = service.operations.recent()
    assert newest.options.height == 720
    assert service.operations.storage.input_path(newest.id).read_bytes() == clip.read_bytes()
