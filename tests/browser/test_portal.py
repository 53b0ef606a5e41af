"""The portal in a real browser: as a patient on a phone, with and without scripts; as a professional; as an operator.

What the demonstration makes is what they find. Every page that a link leads to is opened, on a phone and on a desk,
and looked through by axe-core.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from playwright.async_api import Browser, BrowserContext, Page
from tests.browser_kit import PEOPLE, pages_of, sign_in
from tests.conftest import Running, running

_AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_PHONE, _DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
_MOST_BYTES = 60_000


@pytest.fixture(scope="module")
def demonstration(homes: Any) -> Iterator[Running]:
    """An installation with the demonstration."""
    with running(homes()) as made:
        yield made


@pytest.fixture
async def phone(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(viewport=_PHONE)  # type: ignore[arg-type]
    yield context
    await context.close()


async def as_(context: BrowserContext, base: str, person: str) -> Page:
    page = await context.new_page()
    await sign_in(page, base, person)
    return page


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
async def test_a_patient_finds_what_he_came_for(demonstration: Running, browser: Browser, scripts: bool) -> None:
    """The last blood test and what it means, who looked, and how to stop sharing with a team: by links alone."""
    context = await browser.new_context(viewport=_PHONE, java_script_enabled=scripts)  # type: ignore[arg-type]
    page = await as_(context, demonstration.url, "patient")
    assert page.url.endswith("/record")
    await page.click("nav >> text=Test results")
    await page.click("text=Total white cell count")
    assert "fight infections" in await page.inner_text("main")
    assert "High" in await page.inner_text("main")
    await page.click("text=Where did this come from?")
    assert "OBX" in await page.inner_text("main")
    await page.click("nav >> text=Sharing")
    await page.click("text=Who looked at your record")
    assert "Dr Asha Verity" in await page.inner_text("main")
    await page.click("nav >> text=Sharing")
    await page.click("text=Change or stop")
    await page.click("text=Stop sharing with Renal clinic")
    assert "no longer see your record" in await page.inner_text("main")
    await page.click("text=Change or stop")
    await page.check("text=General health")
    await page.click("text=Save")
    assert "Yes" in await page.inner_text("table")
    await context.close()


async def test_a_patient_writes_and_is_told_what_is_wrong(demonstration: Running, phone: BrowserContext) -> None:
    """A measurement with a slip is refused at its field; then it is there, with a chart; and taken back."""
    page = await as_(phone, demonstration.url, "patient")
    await page.goto(f"{demonstration.url}/record/add/measurement?kind=weight")
    await page.fill("#value0", "7100")
    await page.click("text=Save")
    assert (await page.title()).startswith("Error:")
    assert "Body weight is from" in await page.inner_text(".errors")
    for weight in ("71.5", "70,9"):
        await page.goto(f"{demonstration.url}/record/add/measurement?kind=weight")
        await page.fill("#value0", weight)
        await page.click("text=Save")
    assert "Your measurement is in the record" in await page.inner_text("[role=status]")
    assert "70.9 kg" in await page.inner_text("main")
    await page.click("main li >> text=Body weight >> nth=0")
    await page.click("text=All your values of this test")
    assert await page.locator("svg.chart circle").count() == 2
    assert await page.locator("tbody tr").count() == 2
    await page.go_back()
    await page.click("text=Take this out of the record")
    assert "taken out" in await page.inner_text("[role=status]")
    await page.goto(f"{demonstration.url}/record/add/file")
    await page.set_input_files("#file", files=[{"name": "x.html", "mimeType": "text/html", "buffer": b"<script>1"}])
    await page.fill("#title", "Letter")
    await page.click("text=Save")
    assert "a PDF, a picture" in (await page.inner_text(".errors")).lower().replace("a pdf", "a PDF")
    await page.set_input_files(
        "#file", files=[{"name": "x.txt", "mimeType": "text/plain", "buffer": b"Dear <b>you</b>"}]
    )
    await page.fill("#title", "A letter of mine")
    await page.click("text=Save")
    await page.click("text=A letter of mine")
    assert "<b>you</b>" in await page.inner_text("pre")


async def test_a_message_goes_to_the_team_and_back(demonstration: Running, browser: Browser) -> None:
    """Written on a phone, answered at a desk, read on the phone."""
    context = await browser.new_context(viewport=_PHONE)  # type: ignore[arg-type]
    page = await as_(context, demonstration.url, "patient")
    await page.goto(f"{demonstration.url}/record/write")
    await page.select_option("#team", label="Renal clinic, Whitcombe Demonstration Hospital")
    await page.fill("#topic", "My appointment")
    await page.fill("#text", "May I come an hour later?")
    await page.click("text=Send")
    assert "May I come an hour later?" in await page.inner_text("main")
    desk = await browser.new_context(viewport=_DESK)  # type: ignore[arg-type]
    work = await as_(desk, demonstration.url, "professional")
    await work.click("nav >> text=Inbox")
    await work.click("text=My appointment")
    await work.fill("#text", "Yes, at eleven.")
    await work.click("text=Send")
    await page.reload()
    assert "Yes, at eleven." in await page.inner_text("main")
    await context.close()
    await desk.close()


async def test_a_professional_sees_whom_he_may(demonstration: Running, browser: Browser) -> None:
    """His list, the record with its labels, a glass that is broken with a reason, and no page of an administrator's."""
    desk = await browser.new_context(viewport=_DESK)  # type: ignore[arg-type]
    page = await as_(desk, demonstration.url, "professional")
    await page.click("text=Gwen Catrin Aldersley")
    own = page.url
    await page.click("nav >> text=Test results")
    assert "Full blood count" in await page.inner_text("main")
    assert (await page.goto(f"{demonstration.url}/organisation")).status == 403  # type: ignore[union-attr]
    assert (await page.goto(f"{demonstration.url}/operator")).status == 403  # type: ignore[union-attr]
    assert (await page.goto(f"{own}/sharing")).status == 403  # type: ignore[union-attr]
    # A record of the hospital's that has no team is open to its people; one that is not there is not.
    missing = re.sub(r"[0-9a-f]{12}$", "0" * 12, own)
    assert (await page.goto(missing)).status == 404  # type: ignore[union-attr]
    await page.fill("#reason", "short")
    await page.click("text=Break the glass")
    assert "There is a problem" in await page.inner_text("main")
    await desk.close()


async def test_a_sender_is_tried_in_the_browser(demonstration: Running, browser: Browser) -> None:
    """Paste, and see the acknowledgement, findings and where each value goes; rubbish is answered AR."""
    desk = await browser.new_context(viewport=_DESK)  # type: ignore[arg-type]
    page = await as_(desk, demonstration.url, "operator")
    await page.goto(f"{demonstration.url}/organisation/senders")
    await page.click("main a >> text=Demonstration")
    message = Path("shared/carefolio/local/demonstration/03-full-blood-count.hl7").read_text()
    await page.fill("#message", message.replace("\r", "\n"))
    await page.click("text=Try it")
    said = await page.inner_text("main")
    assert "The answer: AA" in said
    assert "Observation" in said
    assert await page.locator("mark").count() > 20
    await page.fill("#message", "this is no message")
    await page.click("text=Try it")
    assert "The answer: AR" in await page.inner_text("main")
    await page.goto(f"{demonstration.url}/operator")
    assert "Messages in each hour" in await page.inner_text("main")
    await desk.close()


async def test_the_keyboard_is_enough(demonstration: Running, phone: BrowserContext) -> None:
    """The first tab stop skips to the content; every stop is seen; Enter follows a link."""
    page = await as_(phone, demonstration.url, "patient")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the main content"
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    for _ in range(4):
        await page.keyboard.press("Tab")
        seen = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert seen != "none"
    await page.keyboard.press("Enter")
    await page.wait_for_load_state()
    assert page.url != f"{demonstration.url}/record"


_NHS_APP = """
window.said = [];
window.nhsapp = {
  tools: {isOpenInNHSApp: () => true},
  navigation: {setBackAction: () => said.push("back"), goToHomepage: () => said.push("home")},
  storage: {downloadFromBytes: (bytes, name, media) => said.push([name, media, atob(bytes).slice(0, 5)]),
            addEventToCalendar: (...event) => said.push(event)},
};
"""


async def test_inside_the_nhs_app(demonstration: Running, browser: Browser) -> None:
    """Neither header nor footer of ours; its own way back, downloads and calendar."""
    context = await browser.new_context(viewport=_PHONE, user_agent="nhsapp-android/3.1 Chrome/120")  # type: ignore[arg-type]
    await context.route("https://www.nhsapp.service.nhs.uk/**", lambda route: route.fulfill(
        body=_NHS_APP, content_type="text/javascript"))  # fmt: skip
    page = await as_(context, demonstration.url, "patient")
    assert await page.locator("header.top").count() == 0
    await page.goto(f"{demonstration.url}/record/all")
    await page.click("text=Print or keep: PDF")
    said: list[Any] = []
    for _ in range(100):
        said = await page.evaluate("said")
        if len(said) > 1:
            break
        await page.wait_for_timeout(50)
    assert said == ["back", ["health-record.pdf", "application/pdf", "%PDF-"]]
    await page.goto(f"{demonstration.url}/record/appointments")
    await page.click("main li a >> nth=0")
    if await page.locator("text=Add to your calendar").count():
        await page.click("text=Add to your calendar")
        title, _, _, start, end = (await page.evaluate("said"))[-1]
        assert title
        assert end > start > 0
    await context.close()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("person", PEOPLE)
async def test_every_page_is_for_everybody(demonstration: Running, browser: Browser, person: str) -> None:
    """No violation of WCAG 2.2 AA, nothing wider than the screen (also at 200% zoom), nothing from elsewhere, small."""
    context = await browser.new_context(viewport=_PHONE, bypass_csp=True)  # type: ignore[arg-type]
    page = await as_(context, demonstration.url, person)
    paths = await pages_of(page, demonstration.url)
    assert len(paths) > 20
    elsewhere: list[str] = []
    page.on(
        "request", lambda request: None if request.url.startswith(demonstration.url) else elsewhere.append(request.url)
    )
    wrong: list[str] = []
    for path in paths:
        for viewport, scheme in ((_PHONE, "light"), (_DESK, "dark")):
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            await page.set_viewport_size(viewport)  # type: ignore[arg-type]
            answer = await page.goto(demonstration.url + path)
            assert answer is not None
            if len(await answer.body()) > _MOST_BYTES:
                wrong.append(f"{path}: {len(await answer.body())} bytes")
            if await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                wrong.append(f"{path} at {viewport['width']}: wider than the screen")
            await page.evaluate(_AXE)
            found = await page.evaluate(f"axe.run({{runOnly: {_RULES}}})")
            wrong += [f"{path} {scheme}: {each['id']} {each['nodes'][0]['html'][:200]}" for each in found["violations"]]
    assert wrong == []
    assert elsewhere == []
    await context.close()
