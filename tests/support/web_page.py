"""The web page in the browser: what tests look for and click."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Locator, Page

from tests.support.processes import wait_until


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name, exact=True)


def until(page: Page, condition: str) -> None:
    """Wait until an expression is true. (`wait_for_function` evaluates text in the page, which its policy forbids.)"""
    wait_until(lambda: bool(page.evaluate(condition)), 60, condition)


def choose(page: Page, *paths: Path) -> None:
    page.set_input_files("#files", [str(path) for path in paths])


def unlock(page: Page, key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Unlock").click()
