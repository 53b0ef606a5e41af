"""A real browser: Debian's Chromium, headless."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not on this machine")
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        await made.close()


# The demonstration's people, by the provider that signs them in and the name that they have there.
PEOPLE = {
    "patient": ("nhs-login", "Gwen Aldersley"),
    "professional": ("whitcombe", "Dr Asha Verity"),
    "operator": ("whitcombe", "Morgan Reyes"),
}
# Pages that many links lead to are taken a few times only.
_MOST_OF_A_KIND = 3
_NO_PAGES = re.compile(
    r"/(record\.pdf|record\.json|calendar\.ics)(\?|$)|/files/|format=csv|download=|/login|/account|/mailbox|^https?://(?!localhost)"
)


async def sign_in(page: Page, base: str, person: str) -> None:
    """By the stand-in of the person's provider."""
    provider, name = PEOPLE[person]
    await page.goto(f"{base}/login/with/{provider}")
    await page.click(f"text={name}")
    await page.wait_for_load_state()
    if "/login/email" in page.url:
        await page.click("button")
        await page.wait_for_load_state()


def kind_of(path: str) -> str:
    """What a page is, without whose: numbers and ids are one."""
    path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27,}", "_", path)
    return re.sub(r"(/items/[A-Za-z]+/)[^/]+", r"\1_", path.partition("?")[0])


async def pages_of(page: Page, base: str, start: str = "/") -> list[str]:
    """The addresses of the pages that links lead to, each kind a few times."""
    waiting, seen, counted = [start], {start}, {kind_of(start): 1}
    found = []
    while waiting:
        path = waiting.pop(0)
        answer = await page.goto(base + path)
        assert answer is not None
        found.append(path)
        if answer.status >= 400:
            raise AssertionError(f"{path} answers {answer.status}")
        links = await page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
        for link in links:
            parts = urlsplit(link)
            to = parts.path + (f"?{parts.query}" if parts.query else "")
            if not link.startswith(base) or to in seen or _NO_PAGES.search(to):
                continue
            seen.add(to)
            kind = kind_of(to)
            counted[kind] = counted.get(kind, 0) + 1
            if counted[kind] <= _MOST_OF_A_KIND:
                waiting.append(to)
    return found
