"""The docs page in a real Chromium, where one is found: CHROMIUM names it, else the PATH is searched."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.faults.server import KEY, cold

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")


class Visit:
    """A page, every address that it asked for, and what the browser complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.context.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


@asynccontextmanager
async def visit() -> AsyncIterator[Visit]:
    arguments = ["--no-sandbox", "--disable-background-networking"]  # no sandbox: Chromium refuses root otherwise
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield Visit(await browser.new_page())
        finally:
            await browser.close()


async def test_the_docs_page_sends_an_email_and_asks_no_other_host(tmp_path: Path) -> None:
    async with cold(tmp_path, port=0, bootstrap_key=KEY) as hes, visit() as visitor:
        page = visitor.page
        await hes.ready()
        await page.goto(f"{hes.url}/docs")
        await page.get_by_role("button", name="Authorize").first.click()
        await page.get_by_label("auth-bearer-value").fill(KEY)
        await page.get_by_role("button", name="Apply credentials").first.click()
        await page.get_by_role("button", name="Close").first.click()
        operation = page.locator("#operations-emails-sendEmail")
        await operation.locator(".opblock-summary-control").click()
        await operation.get_by_role("button", name="Try it out").click()
        await operation.get_by_role("button", name="Execute").click()
        answer = operation.locator(".live-responses-table .response")
        await expect(answer).to_contain_text("202")
        await expect(answer).to_contain_text('"status": "queued"')
        assert {urlsplit(url)[:2] for url in visitor.asked if not url.startswith("data:")} == {urlsplit(hes.url)[:2]}
        assert f"{hes.url}/v1/emails" in visitor.asked
        assert visitor.complaints == []
