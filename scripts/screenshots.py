"""Go through the portal as each of the demonstration's people, and take a picture of every page that is reached."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Browser, Page, async_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PEOPLE = {
    "patient": ("nhs-login", "Gwen Aldersley"),
    "professional": ("whitcombe", "Dr Asha Verity"),
    "operator": ("whitcombe", "Morgan Reyes"),
}
WIDTHS = {"phone": 360, "desk": 1280}
# Pages that many links lead to are taken a few times only.
_MOST_OF_A_KIND = 3
_NO_PAGES = re.compile(
    r"/(record\.pdf|calendar\.ics)$|/files/|format=csv|download=|/login|/account|/mailbox|^https?://(?!localhost)"
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


async def take(browser: Browser, base: str, folder: Path) -> int:
    taken = 0
    for person in PEOPLE:
        context = await browser.new_context(viewport={"width": WIDTHS["desk"], "height": 900})
        page = await context.new_page()
        await sign_in(page, base, person)
        paths = await pages_of(page, base)
        for name, width in WIDTHS.items():
            await page.set_viewport_size({"width": width, "height": 800})
            for path in paths:
                await page.goto(base + path)
                file = re.sub(r"[^a-zA-Z0-9]+", "-", kind_of(path)).strip("-") or "home"
                await page.screenshot(path=folder / f"{person}-{name}-{file}.png", full_page=True)
                taken += 1
        await context.close()
    return taken


async def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="carefolio-pictures-"))
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="carefolio-screenshots-"))
    environment = os.environ | {"CAREFOLIO_HOME": str(home / "home"), "PORT": "8099"}
    up = subprocess.Popen([ROOT / "scripts/up"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert up.stdout is not None
        for line in up.stdout:
            if line.startswith("ready: "):
                break
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            print(await take(browser, "http://localhost:8099", folder), "pictures in", folder)
            await browser.close()
    finally:
        up.terminate()
        up.wait(30)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
