"""The web page of a server with API keys, in a real browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from jobs.allowance import Limits
from jobs.schema import JobState
from jobs.settings import Settings
from service.callers import Scope
from tests.support.api_keys import job_of, make_keys
from tests.support.browser import chromium
from tests.support.clips import make_clip
from tests.support.http_server import serving
from tests.support.web_page import card, choose, unlock, until

expect.set_options(timeout=60_000)
pytestmark = pytest.mark.skipif(not (chromium() or os.environ.get("CI")), reason="needs Chromium: apt install chromium")


def test_page_asks_for_the_api_key(settings: Settings, page: Page, tmp_path: Path) -> None:
    key = "s3cret, with; signs"
    with serving(settings.model_copy(update={"api_key": SecretStr(key)})) as service:
        page.goto(service.url)
        expect(page.locator("#composer")).to_be_hidden()
        unlock(page, "wrong")
        expect(page.locator("#key .error")).to_contain_text("the API key is wrong")
        unlock(page, key)
        expect(page.locator("#key")).to_be_hidden()
        clip = make_clip(tmp_path / "clip.mp4", frames=4)
        choose(page, clip)
        page.get_by_role("button", name="Upscale", exact=True).click()
        expect(card(page, "clip.mp4").locator(".badge")).to_have_text("Queued")
        (job,) = service.operations.recent()
        service.finish(job.id, clip.read_bytes())
        card(page, "clip.mp4").get_by_role("button", name="Compare").click()
        until(page, "document.querySelector('.after').readyState >= 2")  # its request carries the cookie
        assert page.evaluate("document.cookie") == "", "scripts can read the cookie"


def test_a_key_that_only_reads(settings: Settings, page: Page, tmp_path: Path) -> None:
    """The page shows and plays own jobs only, and offers nothing that the key may not do."""
    keys = make_keys(settings.data_dir)
    clip = make_clip(tmp_path / "clip.mp4", frames=4)
    with serving(settings) as service:
        store, storage = service.operations.store, service.operations.storage
        own, _ = (job_of(keys.ids[kind], JobState.QUEUED, store, storage, clip) for kind in ("read", "own"))
        service.finish(own, clip.read_bytes())
        page.goto(service.url)
        unlock(page, keys.text("read"))
        expect(page.locator(".job .badge")).to_have_text(["Done"])
        expect(page.locator("#composer")).to_be_hidden()
        assert page.locator(".job .actions > *").all_inner_texts() == ["Download", "Compare"]
        page.get_by_role("button", name="Compare").click()
        until(page, "document.querySelector('.after').readyState >= 2")
        keys.file.revoke("read")
        expect(page.locator("#key .error")).to_contain_text("has been revoked")


def test_a_new_tab_asks_for_the_key_before_a_change(settings: Settings, page: Page, tmp_path: Path) -> None:
    """The cookie shows the jobs in a new tab, but only the key uploads. The chosen video stays."""
    keys = make_keys(settings.data_dir)
    clip = make_clip(tmp_path / "clip.mp4", frames=4)
    with serving(settings) as service:
        job_of(keys.ids["own"], JobState.DONE, service.operations.store, service.operations.storage, clip)
        page.goto(service.url)
        unlock(page, keys.text("own"))
        expect(page.locator("#key")).to_be_hidden()
        page.evaluate("sessionStorage.clear()")
        page.reload()
        expect(page.locator(".job .badge")).to_have_text(["Done"])
        choose(page, clip)
        expect(page.locator("#key")).to_be_visible()
        unlock(page, keys.text("own"))
        page.get_by_role("button", name="Upscale", exact=True).click()
        expect(page.locator(".job .badge")).to_have_text(["Queued", "Done"])


def test_a_key_that_only_submits(settings: Settings, page: Page, tmp_path: Path) -> None:
    """Each message has its place, and stays: what the key cannot see, and why an upload was refused."""
    keys = make_keys(settings.data_dir)
    clip, other = (make_clip(tmp_path / f"{name}.mp4", frames=4) for name in ("clip", "other"))
    key = keys.file.add("limited", frozenset({Scope.SUBMIT}), Limits(max_jobs=1))[1]
    with serving(settings) as service:
        page.goto(service.url)
        unlock(page, key)
        expect(page.locator("#none")).to_contain_text("lacks the scope read")
        choose(page, clip, other)
        page.get_by_role("button", name="Upscale 2 videos").click()
        expect(page.locator("#uploads strong")).to_have_text(["other.mp4"])
        expect(page.locator("#uploads .error")).to_contain_text("jobs at a time")
        page.get_by_role("button", name="Change API key").click()
        unlock(page, keys.text("own"))
        expect(page.locator("#none")).to_contain_text("No jobs yet")
        expect(page.locator("#uploads .error")).to_contain_text("jobs at a time")
