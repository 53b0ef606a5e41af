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

from playwright.async_api import Browser, async_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser_kit import CHROMIUM, PEOPLE, kind_of, pages_of, sign_in  # noqa: E402

WIDTHS = {"phone": 360, "desk": 1280}


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
