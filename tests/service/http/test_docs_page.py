"""The API's documentation in a real browser: Swagger UI, offline and under the page's policy."""

from __future__ import annotations

import os

import pytest
from playwright.sync_api import Browser, expect

from jobs.settings import Settings
from tests.support.browser import chromium
from tests.support.http_server import serving

pytestmark = pytest.mark.skipif(not (chromium() or os.environ.get("CI")), reason="needs Chromium: apt install chromium")


def test_every_operation_is_shown_and_a_request_runs(settings: Settings, browser: Browser) -> None:
    with serving(settings) as service, browser.new_context() as context:
        service.announce_worker()
        page = context.new_page()
        errors: list[str] = []
        hosts: set[str] = set()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(f"{service.url}/docs")
        summaries = page.locator(".opblock-summary-description")
        operations = [one for path in service.app.openapi()["paths"].values() for one in path.values()]
        expect(summaries).to_have_count(len(operations), timeout=60_000)
        assert sorted(summaries.all_inner_texts()) == sorted(one["summary"] for one in operations)
        models = page.locator("#operations-jobs-list_models")
        models.locator("button.opblock-summary-control").click()
        models.get_by_role("button", name="Try it out").click()
        models.get_by_role("button", name="Execute").click()
        expect(models.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        expect(models.locator(".live-responses-table")).to_contain_text('"small"')
        assert errors == []
        assert hosts == {service.url.split("/")[2]}
