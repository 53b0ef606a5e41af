"""Signing in as people do: Chromium, a phone's width, passkeys by the browser's own virtual authenticator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page
from tests.conftest import Running, running
from tests.people_kit import PASSWORD, Mailbox, People

pytestmark = pytest.mark.timeout(180)
PHONE = {"viewport": {"width": 390, "height": 844}}


async def opened(browser: Browser) -> tuple[BrowserContext, Page, list[str]]:
    """A page of a phone, and what its console complains about."""
    context = await browser.new_context(**PHONE)
    page = await context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return context, page, said


async def with_authenticator(context: BrowserContext, page: Page) -> None:
    devtools = await context.new_cdp_session(page)
    await devtools.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
               "isUserVerified": True, "automaticPresenceSimulation": True}  # fmt: skip
    await devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})


def complaints(said: list[str]) -> list[str]:
    """Without those about answers that the test has asked for, and about the missing icon."""
    return [line for line in said if "status of 4" not in line]


async def test_a_patient_registers_signs_in_and_adds_a_passkey(
    browser: Browser, people: People, tmp_path: Path
) -> None:
    who, code = await people.invited()
    context, page, said = await opened(browser)
    year, month, day = who.born.split("-")
    await page.goto(f"{people.hospital.installation.url}/login/register?code={code}")
    for field, value in (("day", day), ("month", month), ("year", year)):
        await page.fill(f"#{field}", value)
    await page.click("text=Continue")
    await page.fill("#name", who.name)
    await page.fill("#email", who.email)
    await page.fill("#password", "short")
    await page.click("text=Open my account")
    assert "at least 10 characters" in await page.inner_text("[role=alert]")
    # The summary leads to the field (WCAG 3.3.1).
    await page.click("[role=alert] a")
    assert await page.evaluate("document.activeElement.id") == "password"
    await page.fill("#password", PASSWORD)
    await page.click("text=Open my account")
    await page.fill("#email", who.email)
    await page.fill("#password", PASSWORD)
    await page.click("button:has-text('Sign in')")
    await page.fill("#code", await people.mailbox.code(who.email))
    await page.click("text=Continue")
    assert await page.inner_text("h1") == "Your health record"
    await page.click("header a >> text=Pat")
    assert await page.inner_text("h1") == "Your account"
    await with_authenticator(context, page)
    await page.fill("#passkey-name", "my phone")
    await page.click("text=Add a passkey")
    await page.wait_for_url("**note=passkey")
    assert "my phone" in await page.inner_text("main")
    # No scrolling sideways on a phone, nor at four times the size (WCAG 1.4.10).
    for width in (390, 320):
        await page.set_viewport_size({"width": width, "height": 844})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await page.click("text=Sign out")
    await page.fill("#email", who.email)
    await page.fill("#password", PASSWORD)
    await page.click("button:has-text('Sign in')")
    await page.click("button:has-text('Use a passkey')")
    await page.wait_for_url("**/record")
    await page.goto(page.url.replace("/record", "/account"))
    assert "Where you are signed in" in await page.inner_text("main")
    assert complaints(said) == []
    await context.close()


async def test_a_professional_enrols_with_a_passkey(browser: Browser, people: People) -> None:
    from carefolio.identity import invitations, registry

    owner = await registry.organisation_id(people.pool, people.hospital.ods_code)
    email = f"doctor-{owner.hex[:6]}@example.org"
    made = await invitations.invite_professional(people.pool, owner, "Dr Ada Example", email)
    context, page, said = await opened(browser)
    await page.goto(f"{people.hospital.installation.url}/login/register?code={made.code}")
    await page.click("text=Continue")
    await page.fill("#password", PASSWORD)
    await page.click("text=Open my account")
    await page.fill("#email", email)
    await page.fill("#password", PASSWORD)
    await page.click("button:has-text('Sign in')")
    await page.fill("#code", await people.mailbox.code(email))
    await page.click("text=Continue")
    assert "One more step" in await page.inner_text("main")
    await with_authenticator(context, page)
    await page.click("text=Add a passkey")
    await page.wait_for_url("**note=passkey")
    assert "Where you are signed in" in await page.inner_text("main")
    assert complaints(said) == []
    await context.close()


@pytest.mark.parametrize("path", ["/login", "/login/register", "/login/forgotten", "/login/reset?token=x"])
async def test_every_field_has_a_label_and_every_page_a_title(
    browser: Browser, installation: Running, path: str
) -> None:
    context, page, said = await opened(browser)
    await page.goto(f"{installation.url}{path}")
    assert (await page.title()).endswith(" - Carefolio")
    assert await page.get_attribute("html", "lang") == "en-GB"
    assert await page.locator("h1").count() == 1
    for field in await page.locator("input:not([type=hidden])").all():
        name = await field.get_attribute("id")
        assert await page.locator(f"label[for='{name}']").count() == 1
    # By keyboard alone the first stop leads past the header.
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the main content"
    assert complaints(said) == []
    await context.close()


@pytest.fixture(scope="module")
def demonstration(homes: Callable[[], Path]) -> Iterator[Running]:
    with running(homes()) as made:
        yield made


@pytest.mark.parametrize(
    ("person", "title"),
    [
        ("Gwen Aldersley", "Your health record"),
        ("Another date of birth", "We cannot open your record"),
        ("Somebody of 12", "You must be 16 or older"),
        ("Somebody without NHS number", "We cannot find your record"),
        ("Somebody without a record", "There is no record for you yet"),
        ("I do not want to share", "You chose not to share your NHS login information"),
    ],
)
async def test_the_stand_in_nhs_login(browser: Browser, demonstration: Running, person: str, title: str) -> None:
    context, page, _ = await opened(browser)
    await page.goto(f"{demonstration.url}/login")
    await page.click("text=Continue with NHS login")
    assert "A stand-in of this machine" in await page.inner_text("body")
    await page.click(f"button:has-text('{person}')")
    assert await page.inner_text("h1") == title
    await context.close()


async def test_the_stand_in_nhs_app_and_organisation(browser: Browser, demonstration: Running) -> None:
    context, page, _ = await opened(browser)
    await page.goto(f"{demonstration.url}/stand-in/nhs-app")
    await page.click("text=Shanti Marlowe")
    assert await page.inner_text("h1") == "Your account"
    assert "shanti@patient.example" in await page.inner_text("main")
    await context.close()
    context, page, _ = await opened(browser)
    await page.goto(f"{demonstration.url}/login")
    await page.fill("#work_email", "asha.verity@whitcombe.example")
    await page.click("form[action='/login/organisation'] button")
    await page.click("button:has-text('Asha Verity')")
    assert await page.inner_text("h1") == "Patients"
    await page.goto(f"{demonstration.url}/account")
    assert "asha.verity@whitcombe.example" in await page.inner_text("main")
    await context.close()


async def test_what_scripts_up_prints_lets_a_patient_in(browser: Browser, demonstration: Running) -> None:
    printed = "".join(demonstration.printed)
    code = re.search(r"a patient's invitation: (\S+) with the date of birth (\d+) (\d+) (\d+)", printed)
    assert code
    context, page, _ = await opened(browser)
    await page.goto(f"{demonstration.url}/login/register")
    for field, value in zip(("code", "day", "month", "year"), code.groups(), strict=True):
        await page.fill(f"#{field}", value)
    await page.click("text=Continue")
    assert await page.input_value("#name") == "Idris Okonjo-Hale"
    await context.close()


async def test_letters_are_read_in_the_mailbox(browser: Browser, people: People, mailbox: Mailbox) -> None:
    who = await people.registered()
    context, page, _ = await opened(browser)
    await page.goto(f"{mailbox.url}/login/forgotten")
    await page.fill("#email", who.email)
    await page.click("text=Send the link")
    await mailbox.wait(who.email, "new password")
    await page.goto(f"{mailbox.url}/mailbox")
    await page.click("a[href*='/login/reset'] >> nth=0")
    assert await page.inner_text("h1") == "Choose a new password"
    await context.close()
