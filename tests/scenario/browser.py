"""Debian's Chromium, driven by Playwright, with an ear for everything that should not be said."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

CHROMIUM = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

_FRAME = re.compile(r"/inbox/[^/]+/[^/]+/html\b|198\.51\.100\.")

SERIOUS = ("serious", "critical")


@dataclass
class Ear:
    """What was heard of a page.

    Attributes:
        faults: errors of the console and of scripts, dialogs that nobody asked for.
        foreign: what was loaded from anywhere but the relay.
    """

    url: str
    faults: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def listen(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("response", lambda response: self._answered(response.url))

    def _said(self, line: ConsoleMessage) -> None:
        # What a browser says when it keeps a stranger's HTML from doing things is what is wanted.
        framed = _FRAME.search(line.location["url"]) or _FRAME.search(line.text)
        if line.type == "error" and not framed:
            self.faults.append(f"{line.text} ({line.location['url']}:{line.location['lineNumber']})")

    def _answered(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "about:", "blob:")):
            self.foreign.append(url)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


def logged_in(context: BrowserContext, url: str, token: str, ear: Ear) -> Page:
    page = context.new_page()
    page.set_default_timeout(20_000)
    ear.listen(page)
    page.goto(f"{url}/login")
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{url}/")
    return page


def serious(found: Any) -> list[str]:
    """What axe found, one line each."""
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0].get('failureSummary', '')[:300]}"
        for each in found.response["violations"]
        if each["impact"] in SERIOUS
    ]


def save(page: Page, folder: Path, name: str) -> bytes:
    """A picture, for people to look at afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    return page.screenshot(path=folder / f"{name}.png")
