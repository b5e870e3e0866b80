"""The machine's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--mute-audio", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required")


def chromium() -> str | None:
    """Return the path of an installed browser, or None."""
    return next((path for name in BINARIES if (path := shutil.which(name))), None)


@contextmanager
def browsing() -> Iterator[Browser]:
    """Run a headless browser during the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS], chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()
