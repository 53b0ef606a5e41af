"""People at the pages: a browser without a screen, letters, patients and professionals with accounts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import aiohttp
import asyncpg
import pyotp
import pytest
from yarl import URL

from carefolio.identity import invitations, registry
from carefolio.identity.registry import AppSettings, NewClient
from tests.conftest import Hospital, Reply, Running, basic, unique

PASSWORD = "teapot lantern gravel"
BACK = "https://app.example/back"


@dataclass
class Page:
    """Where the browser ended, and what it shows."""

    status: int
    url: str
    text: str
    headers: Any

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.url).query).items()}

    @property
    def title(self) -> str:
        found = re.search(r"<h1>(.*?)</h1>", self.text, re.DOTALL)
        return html.unescape(found.group(1)) if found else ""

    @property
    def errors(self) -> str:
        found = re.search(r'<div class="errors".*?</ul>', self.text, re.DOTALL)
        return html.unescape(re.sub(r"<[^>]*>", " ", found.group(0))) if found else ""

    def hidden(self) -> dict[str, str]:
        """The hidden fields of the last form with several, and its token."""
        found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', self.text)
        return {name: html.unescape(value) for name, value in found}

    def boxes(self) -> dict[str, str]:
        """The checkboxes that are ticked."""
        found = re.findall(r'<input type="checkbox" id="[^"]*" name="([^"]+)" value="([^"]*)" checked', self.text)
        return {name: html.unescape(value) for name, value in found}


@dataclass
class Visitor:
    """One browser: cookies of its own, follows redirects on this site and no further."""

    base: str
    http: aiohttp.ClientSession
    page: Page | None = None
    history: list[str] = field(default_factory=list)

    async def get(self, path: str, **headers: str) -> Page:
        return await self._go("GET", path, None, headers)

    async def submit(self, path: str, **fields: str) -> Page:
        """Send a form of the page that is shown."""
        known = self.page.hidden() if self.page else {}
        body = {"form_token": known.get("form_token", "")} | fields
        return await self._go("POST", path, body, {"Origin": self.base})

    async def post_json(self, path: str, said: Any) -> Reply:
        token = self.page.hidden()["form_token"] if self.page else ""
        headers = {"Origin": self.base, "X-Form-Token": token}
        async with self.http.post(self.base + path, json=said, headers=headers) as answer:
            return Reply(answer.status, await answer.read(), answer.headers)

    async def _go(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Page:
        url = urljoin(self.base, path)
        for _ in range(12):
            self.history.append(url)
            if not url.startswith(f"{self.base}/"):
                self.page = Page(0, url, "", {})
                return self.page
            async with self.http.request(
                method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status in (302, 303):
                    method, body = "GET", None
                    headers = {name: value for name, value in headers.items() if name != "Origin"}
                    url = urljoin(url, answer.headers["Location"])
                    continue
                self.page = Page(answer.status, url, await answer.text(), answer.headers)
                return self.page
        raise AssertionError(f"redirected in a circle: {self.history[-4:]}")

    def cookie(self, name: str) -> str:
        found = [cookie.value for cookie in self.http.cookie_jar if cookie.key == name]
        return found[0] if found else ""

    async def sign_in(self, email: str, password: str = PASSWORD, **fields: str) -> Page:
        await self.get(f"/login?{urlencode({'again': '1'} | fields)}")
        return await self.submit("/login", email=email, password=password, **fields)


NewVisitor = Callable[[], Visitor]


@pytest.fixture
async def new_visitor(installation: Running) -> AsyncIterator[NewVisitor]:
    made: list[aiohttp.ClientSession] = []

    def make() -> Visitor:
        jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=URL(installation.url))
        made.append(aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=30)))
        return Visitor(installation.url, made[-1])

    yield make
    for session in made:
        await session.close()


@pytest.fixture
async def visitor(new_visitor: NewVisitor) -> Visitor:
    return new_visitor()


@dataclass
class Mailbox:
    """The letters of this machine."""

    url: str
    http: aiohttp.ClientSession

    async def letters(self, to: str) -> list[dict[str, str]]:
        async with self.http.get(f"{self.url}/mailbox", headers={"Accept": "application/json"}) as answer:
            return [each for each in await answer.json() if each["to"].casefold() == to.casefold()]

    async def wait(self, to: str, subject: str, *, but: int = 0) -> dict[str, str]:
        """The newest letter with that in its subject, when more than ``but`` of them are there."""
        import asyncio

        for _ in range(200):
            found = [each for each in await self.letters(to) if subject in each["subject"]]
            if len(found) > but:
                return found[0]
            await asyncio.sleep(0.05)
        raise AssertionError(f"no letter {subject!r} to {to}")

    async def code(self, to: str, *, but: int = 0) -> str:
        return (await self.wait(to, "is your Carefolio code", but=but))["subject"][:6]


@pytest.fixture
def mailbox(installation: Running, http: aiohttp.ClientSession) -> Mailbox:
    return Mailbox(installation.url, http)


@dataclass
class Somebody:
    """A person with an account. ``nhs_number`` and ``born`` (YYYY-MM-DD) of a patient, ``secret`` of an app's code."""

    email: str
    name: str
    nhs_number: str = ""
    born: str = ""
    record: str = ""
    secret: str = ""

    def code(self, seconds: float = 0) -> str:
        import time

        return pyotp.TOTP(self.secret).at(int(time.time() + seconds))


@dataclass
class People:
    """Makes people, through the pages."""

    hospital: Hospital
    pool: asyncpg.Pool
    mailbox: Mailbox
    new_visitor: NewVisitor

    async def invited(self) -> tuple[Somebody, str]:
        """A patient of the hospital, and the code of his invitation."""
        number = await self.hospital.registered()
        patient = await self.hospital.patient(number)
        owner = await registry.organisation_id(self.pool, self.hospital.ods_code)
        made = await invitations.invite_patient(self.pool, owner, nhs_number=number)
        email = f"{unique('p').lower()}-{secrets.token_hex(3)}@example.org"
        return Somebody(email, "Pat Example", number, patient["birthDate"], patient["id"]), made.code

    async def registered(self) -> Somebody:
        """The same with an account."""
        who, code = await self.invited()
        page = await self.register(self.new_visitor(), who, code)
        assert page.query.get("note") == "registered", page.text
        return who

    async def register(self, visitor: Visitor, who: Somebody, code: str, password: str = PASSWORD) -> Page:
        year, month, day = who.born.split("-") if who.born else ("", "", "")
        born = {"code": code, "day": day, "month": month, "year": year}
        await visitor.get("/login/register")
        page = await visitor.submit("/login/register", stage="code", **born)
        if page.errors:
            return page
        return await visitor.submit(
            "/login/register", stage="account", name=who.name, email=who.email, password=password, **born
        )

    async def signed_in(self, visitor: Visitor, who: Somebody) -> Page:
        """Signed in by the second factor that the person has."""
        before = len([each for each in await self.mailbox.letters(who.email) if "is your Carefolio" in each["subject"]])
        page = await visitor.sign_in(who.email)
        assert page.path == "/login/second", page.text
        if who.secret:
            await self.pool.execute("UPDATE account SET totp_step = 0 WHERE email = $1", who.email)
            return await visitor.submit("/login/second", kind="totp", code=who.code(), next="/account")
        code = await self.mailbox.code(who.email, but=before)
        return await visitor.submit("/login/second", kind="code", code=code, next="/account")

    async def patient(self, visitor: Visitor) -> Somebody:
        """A patient who is signed in."""
        who = await self.registered()
        page = await self.signed_in(visitor, who)
        assert page.path == "/account", page.text
        return who

    async def professional(self, visitor: Visitor) -> Somebody:
        """A professional of the hospital with an authenticator app, who is signed in."""
        owner = await registry.organisation_id(self.pool, self.hospital.ods_code)
        email = f"{unique('d').lower()}-{secrets.token_hex(3)}@example.org"
        who = Somebody(email, "Dr Ada Example")
        made = await invitations.invite_professional(self.pool, owner, who.name, email)
        await self.register(self.new_visitor(), who, made.code)
        page = await visitor.sign_in(email)
        assert page.path == "/login/second", page.text
        code = await self.mailbox.code(email)
        page = await visitor.submit("/login/second", kind="code", code=code, next="/account")
        assert "One more step" in page.text
        who.secret = await add_authenticator(visitor)
        return who


async def add_authenticator(visitor: Visitor) -> str:
    """Add an authenticator app to the account that is open; returns its secret."""
    page = await visitor.get("/account/authenticator")
    secret = re.search(r'id="secret">([A-Z2-7 ]+)<', page.text).group(1).replace(" ", "")  # type: ignore[union-attr]
    page = await visitor.submit("/account/authenticator", sealed=page.hidden()["sealed"], code=pyotp.TOTP(secret).now())
    assert page.query.get("note") == "authenticator", page.text
    return secret


@pytest.fixture
def people(hospital: Hospital, pool: asyncpg.Pool, mailbox: Mailbox, new_visitor: NewVisitor) -> People:
    return People(hospital, pool, mailbox, new_visitor)


@dataclass
class App:
    """An app that people use."""

    client: NewClient
    visitor: Visitor
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    def parameters(self, scope: str, **more: str) -> dict[str, str]:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")
        wanted = {
            "response_type": "code", "client_id": self.client.client_id, "redirect_uri": BACK, "scope": scope,
            "state": "s-t-a-t-e", "nonce": "n-o-n-c-e", "code_challenge": challenge, "code_challenge_method": "S256",
            "aud": f"{self.visitor.base}/fhir/R4",
        }  # fmt: skip
        return {name: value for name, value in (wanted | more).items() if value}

    async def ask(self, scope: str, **more: str) -> Page:
        return await self.visitor.get(f"/oauth2/authorize?{urlencode(self.parameters(scope, **more))}")

    async def allow(self, scope: str, **more: str) -> Page:
        """Ask, and let the person say yes to everything."""
        page = await self.ask(scope, **more)
        if page.status == 0:
            return page
        assert page.title.startswith("Allow"), page.text
        return await self.answer(page, "allow")

    async def answer(self, page: Page, answer: str, **boxes: str) -> Page:
        known = page.hidden()
        return await self.visitor.submit(
            "/oauth2/authorize", reference=known["reference"], patient=known.get("patient", ""), answer=answer,
            **(boxes or page.boxes()),
        )  # fmt: skip

    async def token(self, page: Page, **more: str) -> Reply:
        """Exchange the code that the browser brought."""
        form = {"grant_type": "authorization_code", "code": page.query["code"], "redirect_uri": BACK,
                "code_verifier": self.verifier} | more  # fmt: skip
        return await self.post("/oauth2/token", form)

    async def refresh(self, refresh_token: str, **more: str) -> Reply:
        return await self.post("/oauth2/token", {"grant_type": "refresh_token", "refresh_token": refresh_token} | more)

    async def post(self, path: str, form: dict[str, str]) -> Reply:
        headers = {}
        if self.client.client_secret:
            headers["Authorization"] = basic(self.client.client_id, self.client.client_secret)
        else:
            form = {"client_id": self.client.client_id} | form
        form = {name: value for name, value in form.items() if value}
        async with self.visitor.http.post(self.visitor.base + path, data=form, headers=headers) as answer:
            return Reply(answer.status, await answer.read(), answer.headers)

    async def fhir(self, token: str, path: str, method: str = "GET", resource: Any = None) -> Reply:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
        data = json.dumps(resource) if resource is not None else None
        async with self.visitor.http.request(
            method, f"{self.visitor.base}/fhir/R4/{path}", data=data, headers=headers
        ) as answer:
            return Reply(answer.status, await answer.read(), answer.headers)


NewApp = Callable[..., Awaitable[App]]
SCOPES = "openid fhirUser profile email offline_access online_access launch launch/patient patient/*.cruds user/*.cruds"


@pytest.fixture
def new_app(hospital: Hospital, pool: asyncpg.Pool, visitor: Visitor) -> NewApp:
    async def make(scope: str = SCOPES, *, public: bool = True, at: Visitor | None = None, **settings: Any) -> App:
        grants = ("authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code")
        app = AppSettings(public, settings.pop("redirect_uris", (BACK,)), grants, **settings)
        name = f"App {uuid.uuid4().hex[:6]}"
        return App(await registry.add_client(pool, name, hospital.ods_code, scope, app=app), at or visitor)

    return make
