"""NHS login, CIS2, organisations' providers: what they say is checked, and what they do wrong opens nothing."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from tests.conftest import Hospital, free_port, unique
from tests.people_kit import BACK, App, NewVisitor, Page, People, Somebody, Visitor

from carefolio.identity import invitations, providers, registry
from carefolio.identity.registry import AppSettings

OUR_KEY = RSAKey.generate_key(2048, auto_kid=True)


@dataclass
class Provider:
    """A provider that does as it is told, wrong things too: ``claims`` and ``userinfo`` over what would be right."""

    issuer: str
    algorithm: str
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, auto_kid=True))
    person: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    token_status: int = 200
    token_delay: float = 0
    sign_with: Any = None
    sign_as: str = ""
    published: list[RSAKey] | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    assertions: list[dict[str, Any]] = field(default_factory=list)
    asked_for_keys: int = 0
    userinfo_sub: str = ""

    async def discovery(self, request: web.Request) -> web.Response:
        return web.json_response({
            "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token", "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/keys",
        } | self.metadata)  # fmt: skip

    async def keys(self, request: web.Request) -> web.Response:
        self.asked_for_keys += 1
        keys = self.published if self.published is not None else [self.key]
        return web.json_response({"keys": [key.as_dict(private=False) for key in keys]})

    async def authorize(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.asked.append(query)
        told = {"code": "c-o-d-e", "state": query["state"]} | self.answer
        raise web.HTTPSeeOther(f"{query['redirect_uri']}?{urlencode({n: v for n, v in told.items() if v})}")

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        await asyncio.sleep(self.token_delay)
        if self.token_status != 200:
            return web.json_response({"error": "invalid_grant"}, status=self.token_status)
        if assertion := form.get("client_assertion"):
            token = jwt.decode(str(assertion), OUR_KEY, algorithms=["RS512", "RS256"])
            self.assertions.append({"alg": token.header["alg"], **token.claims})
        now, asked = int(time.time()), self.asked[-1]
        claims: dict[str, Any] = {"iss": self.issuer, "aud": "carefolio", "sub": "subject", "iat": now, "exp": now + 99,
                                  "nonce": asked["nonce"]}  # fmt: skip
        if "vtr" in asked:
            claims |= {"vot": json.loads(asked["vtr"])[0], "vtm": f"{self.issuer}/trustmark"}
        claims = {name: value for name, value in (claims | self.claims).items() if value is not None}
        algorithm = self.sign_as or self.algorithm
        if algorithm in ("none", "HS256"):
            # By hand: no library makes such a token of a public key.
            parts = [_encoded(json.dumps(part).encode()) for part in ({"alg": algorithm, "kid": self.key.kid}, claims)]
            made = hmac.digest(self.key.as_pem(private=False), ".".join(parts).encode(), "sha256")
            signed = ".".join([*parts, _encoded(made) if algorithm == "HS256" else ""])
        else:
            signed = jwt.encode(
                {"alg": algorithm, "kid": self.key.kid}, claims, self.sign_with or self.key, [algorithm]
            )
        return web.json_response({"access_token": "t-o-k-e-n", "token_type": "Bearer", "id_token": signed})

    async def userinfo(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer t-o-k-e-n"
        return web.json_response({"sub": self.userinfo_sub or self.claims.get("sub", "subject")} | self.person)


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


@dataclass
class Registered:
    """A running provider, registered here."""

    provider: Provider
    name: str

    async def sign_in(self, visitor: Visitor, path: str = "") -> Page:
        """The browser's way to the provider and back, which is another site."""
        page = await visitor.get(path or f"/login/with/{self.name}?next=/account")
        if not page.url.startswith(f"{self.provider.issuer}/authorize"):
            return page
        return await self.go_back(visitor, page)

    async def go_back(self, visitor: Visitor, page: Page) -> Page:
        async with visitor.http.get(page.url, allow_redirects=False) as answer:
            page = await visitor.get(answer.headers["Location"].removeprefix(visitor.base))
        return await self.go_back(visitor, page) if page.url.startswith(self.provider.issuer) else page


@pytest.fixture
async def provider_of(pool: asyncpg.Pool, hospital: Hospital) -> AsyncIterator[Any]:
    runners = []

    async def make(kind: str, **options: Any) -> Registered:
        port, name = free_port(), f"p-{uuid.uuid4().hex[:10]}"
        made = Provider(f"http://localhost:{port}/{name}", "RS512" if kind == "nhs-login" else "RS256")
        app = web.Application()
        app.router.add_get(f"/{name}/.well-known/openid-configuration", made.discovery)
        app.router.add_get(f"/{name}/keys", made.keys)
        app.router.add_get(f"/{name}/authorize", made.authorize)
        app.router.add_post(f"/{name}/token", made.token)
        app.router.add_get(f"/{name}/userinfo", made.userinfo)
        runner = web.AppRunner(app, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "localhost", port).start()
        runners.append(runner)
        key = OUR_KEY.as_pem(private=True) if kind in ("nhs-login", "cis2") else b"a-client-secret"
        organisation = hospital.ods_code if kind == "oidc" else None
        await providers.add(pool, name, kind, issuer=made.issuer, client_id="carefolio", key=key,
                            organisation=organisation, title=f"The provider {name}", **options)  # fmt: skip
        return Registered(made, name)

    yield make
    for runner in runners:
        await runner.cleanup()
    await pool.execute("UPDATE provider SET ended_at = now() WHERE name LIKE 'p-%' AND ended_at IS NULL")


async def nhs_login(people: People, provider_of: Any, **options: Any) -> tuple[Registered, Somebody]:
    """NHS login, and a patient of the hospital whom it knows."""
    who, _ = await people.invited()
    there = await provider_of("nhs-login", **options)
    there.provider.person = {
        "nhs_number": who.nhs_number, "birthdate": who.born, "family_name": "Example", "given_name": "Pat",
        "identity_proofing_level": "P9", "email": who.email, "email_verified": True,
    }  # fmt: skip
    return there, who


async def test_a_patient_comes_by_nhs_login(people: People, visitor: Visitor, provider_of: Any) -> None:
    there, who = await nhs_login(people, provider_of)
    page = await there.sign_in(visitor)
    assert page.path == "/account"
    assert who.email in page.text
    asked = there.provider.asked[0]
    assert asked["response_type"] == "code"
    assert json.loads(asked["vtr"]) == ["P9.Cp.Cd", "P9.Cp.Ck", "P9.Cm"]
    assert "code_challenge" not in asked
    assertion = there.provider.assertions[0]
    assert assertion["alg"] == "RS512"
    assert assertion["iss"] == assertion["sub"] == "carefolio"
    assert assertion["aud"] == f"{there.provider.issuer}/token"
    assert assertion["jti"]
    await visitor.submit("/login/out")
    assert (await there.sign_in(visitor)).path == "/account"


async def test_first_use_links_the_account_that_is_there(
    people: People, visitor: Visitor, provider_of: Any, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    who = await people.patient(new_visitor())
    there = await provider_of("nhs-login")
    there.provider.person = {"nhs_number": who.nhs_number, "birthdate": who.born, "family_name": "Example",
                             "email": "another@nhs.example", "email_verified": True}  # fmt: skip
    page = await there.sign_in(visitor)
    assert page.path == "/login/email"
    assert "another@nhs.example" in page.text
    token = page.hidden()["token"]
    assert (await visitor.submit("/login/email", token=token, choice="old")).path == "/account"
    accounts = "SELECT count(*) FROM account WHERE record_id = $1"
    assert await pool.fetchval(accounts, uuid.UUID(who.record)) == 1
    assert (await new_visitor().sign_in(who.email)).path == "/login/second"


async def test_the_address_of_nhs_login_is_used_where_the_person_says_so(
    people: People, visitor: Visitor, provider_of: Any, new_visitor: NewVisitor
) -> None:
    who = await people.patient(new_visitor())
    new = f"{unique('nhs').lower()}@example.org"
    there = await provider_of("nhs-login")
    there.provider.person = {"nhs_number": who.nhs_number, "birthdate": who.born, "email": new, "email_verified": True}
    page = await there.sign_in(visitor)
    await visitor.submit("/login/email", token=page.hidden()["token"], choice="new")
    assert new in (await visitor.get("/account")).text
    await people.mailbox.wait(who.email, "was changed")


NOW = time.time()


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"iss": "https://auth.evil.example"}, "iss"),
        ({"aud": "somebody-else"}, "aud"),
        ({"aud": ["carefolio", "somebody-else"]}, "azp"),
        ({"azp": "somebody-else"}, "azp"),
        ({"exp": int(NOW) - 600}, "exp"),
        ({"exp": None}, "exp"),
        ({"iat": int(NOW) + 6000}, "iat"),
        ({"nbf": int(NOW) + 6000}, "nbf"),
        ({"sub": ""}, "sub"),
        ({"sub": None}, "sub"),
        ({"vot": "P0.Cp"}, "vot"),
        ({"vot": "P5.Cp.Cd"}, "vot"),
        ({"vot": None}, "vot"),
        ({"vtm": "https://evil.example/trustmark"}, "vtm"),
    ],
)
async def test_an_id_token_that_is_wrong_in_anything_opens_nothing(
    people: People, visitor: Visitor, provider_of: Any, pool: asyncpg.Pool, claims: dict[str, Any], why: str
) -> None:
    there, _ = await nhs_login(people, provider_of)
    there.provider.claims = claims
    page = await there.sign_in(visitor)
    assert page.status == 403
    assert (await visitor.get("/account")).path == "/login"
    detail = f"provider {there.name}: id_token {why}"
    assert await pool.fetchval("SELECT count(*) FROM security_event WHERE detail = $1", detail) == 1


async def test_a_clock_that_is_a_minute_off_is_tolerated(people: People, visitor: Visitor, provider_of: Any) -> None:
    there, _ = await nhs_login(people, provider_of)
    there.provider.claims = {"exp": int(time.time()) - 50, "iat": int(time.time()) + 50}
    assert (await there.sign_in(visitor)).path == "/account"


@pytest.mark.parametrize("wrong", ["none", "HS256", "RS256", "other key"])
async def test_only_the_providers_own_signature_counts(
    people: People, visitor: Visitor, provider_of: Any, wrong: str
) -> None:
    there, _ = await nhs_login(people, provider_of)
    provider = there.provider
    if wrong == "other key":
        provider.sign_with = RSAKey.generate_key(2048)
    else:
        provider.sign_as = wrong
    assert (await there.sign_in(visitor)).status == 403
    assert (await visitor.get("/account")).path == "/login"


async def test_a_state_is_good_once_and_in_the_browser_that_began(
    people: People, visitor: Visitor, provider_of: Any, new_visitor: NewVisitor
) -> None:
    there, _ = await nhs_login(people, provider_of)
    page = await visitor.get(f"/login/with/{there.name}")
    state = page.query["state"]
    callback = f"/login/with/{there.name}/callback?code=c-o-d-e&state={state}"
    thief = new_visitor()
    await thief.get("/login")
    assert "too old" in (await thief.get(callback)).title
    async with visitor.http.get(page.url, allow_redirects=False):
        pass
    assert (await visitor.get(callback)).path == "/record"
    assert "too old" in (await visitor.get(callback)).title
    for wrong in ("", "made-up"):
        assert (await visitor.get(f"/login/with/{there.name}/callback?code=x&state={wrong}")).status == 403


async def test_one_providers_answer_is_not_taken_for_anothers(
    people: People, visitor: Visitor, provider_of: Any
) -> None:
    there, _ = await nhs_login(people, provider_of)
    other = await provider_of("cis2")
    page = await visitor.get(f"/login/with/{there.name}")
    state = page.query["state"]
    assert (await visitor.get(f"/login/with/{other.name}/callback?code=c&state={state}")).status == 403
    there.provider.answer = {"iss": other.provider.issuer}
    assert (await there.sign_in(visitor)).status == 403


async def test_a_provider_that_promises_iss_must_send_it(people: People, visitor: Visitor, provider_of: Any) -> None:
    there, _ = await nhs_login(people, provider_of)
    there.provider.metadata = {"authorization_response_iss_parameter_supported": True}
    assert (await there.sign_in(visitor)).status == 403
    there.provider.answer = {"iss": there.provider.issuer}
    assert (await there.sign_in(visitor)).path == "/account"


async def test_userinfo_must_be_about_the_same_person(people: People, visitor: Visitor, provider_of: Any) -> None:
    there, _ = await nhs_login(people, provider_of)
    there.provider.userinfo_sub = "somebody else"
    assert (await there.sign_in(visitor)).status == 403


@pytest.mark.parametrize(
    ("person", "title"),
    [
        ({"nhs_number": None}, "We cannot find your record"),
        ({"nhs_number": "12345"}, "We cannot find your record"),
        ({"nhs_number": "9990001154"}, "There is no record for you yet"),
        ({"birthdate": "1901-01-01"}, "We cannot open your record"),
        ({"birthdate": "yesterday"}, "We cannot find your record"),
        ({"birthdate": f"{time.gmtime().tm_year - 15}-12-31"}, "You must be 16 or older"),
    ],
)
async def test_a_person_who_is_not_the_record_s_is_turned_away(
    people: People, visitor: Visitor, provider_of: Any, person: dict[str, Any], title: str
) -> None:
    there, _ = await nhs_login(people, provider_of)
    told = there.provider.person | person
    there.provider.person = {name: value for name, value in told.items() if value is not None}
    assert (await there.sign_in(visitor)).title == title


async def test_a_linked_person_with_another_nhs_number_is_turned_away(
    people: People, visitor: Visitor, provider_of: Any
) -> None:
    there, _ = await nhs_login(people, provider_of)
    assert (await there.sign_in(visitor)).path == "/account"
    other, _ = await people.invited()
    there.provider.person |= {"nhs_number": other.nhs_number, "birthdate": other.born}
    await visitor.submit("/login/out")
    assert (await there.sign_in(visitor)).title == "We cannot open your record"


async def test_p5_is_stepped_up_to_p9(people: People, visitor: Visitor, provider_of: Any) -> None:
    there, _ = await nhs_login(people, provider_of, chosen={"vtr": ["P5.Cp.Cd", "P9.Cp.Cd"]})
    assert (await there.sign_in(visitor)).path == "/account"
    assert [json.loads(asked["vtr"])[0] for asked in there.provider.asked] == ["P5.Cp.Cd", "P9.Cp.Cd"]
    there.provider.claims = {"vot": "P5.Cp.Cd"}
    await visitor.submit("/login/out")
    assert (await there.sign_in(visitor)).status == 403


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ({"code": "", "error": "access_denied", "error_description": "ConsentNotGiven"}, "You chose not to share"),
        ({"code": "", "error": "access_denied"}, "You did not sign in"),
        ({"code": "", "error": "server_error"}, "You could not be signed in"),
        ({"code": "", "error": "<script>"}, "You could not be signed in"),
        ({"code": ""}, "You could not be signed in"),
    ],
)
async def test_an_error_of_the_provider_has_a_page(
    people: People, visitor: Visitor, provider_of: Any, answer: dict[str, str], title: str
) -> None:
    there, _ = await nhs_login(people, provider_of)
    there.provider.answer = answer
    page = await there.sign_in(visitor)
    assert page.title.startswith(title)
    assert "<script>" not in page.text


async def test_a_provider_that_is_slow_or_broken_has_a_page(people: People, visitor: Visitor, provider_of: Any) -> None:
    there, _ = await nhs_login(people, provider_of)
    for status in (400, 500, 503):
        there.provider.token_status = status
        assert (await there.sign_in(visitor)).status in (403, 502)
    there.provider.token_status, there.provider.token_delay = 200, 30
    started = time.monotonic()
    page = await there.sign_in(visitor)
    assert page.status == 502
    assert "cannot be reached" in page.title
    assert time.monotonic() - started < 15


async def test_a_provider_that_is_away_has_a_page(people: People, visitor: Visitor, pool: asyncpg.Pool) -> None:
    name = f"p-{uuid.uuid4().hex[:8]}"
    key = OUR_KEY.as_pem(private=True)
    await providers.add(pool, name, "nhs-login", issuer=f"http://localhost:{free_port()}", client_id="c", key=key)
    page = await visitor.get(f"/login/with/{name}")
    assert (page.status, "cannot be reached" in page.title) == (502, True)
    await providers.end(pool, name)
    assert (await visitor.get(f"/login/with/{name}")).status == 404


async def test_rotated_keys_are_found_and_made_up_ones_cost_nothing(
    people: People, visitor: Visitor, provider_of: Any
) -> None:
    there, _ = await nhs_login(people, provider_of)
    assert (await there.sign_in(visitor)).path == "/account"
    old, there.provider.key = there.provider.key, RSAKey.generate_key(2048, auto_kid=True)
    there.provider.published = [old]
    for _ in range(5):
        assert (await there.sign_in(visitor)).status == 403
    assert there.provider.asked_for_keys <= 2


async def test_the_nhs_app_opens_a_page_without_a_form(people: People, visitor: Visitor, provider_of: Any) -> None:
    there, _ = await nhs_login(people, provider_of)
    await people.pool.execute("UPDATE provider SET created_at = 'epoch' WHERE name = $1", there.name)
    asserted = "eyJ.as-ser-ted.jwt"
    agent = {"User-Agent": "Mozilla/5.0 nhsapp-ios/1.2.3"}
    visitor.http.headers.update(agent)
    path = f"/nhs-login/login?{urlencode({'phrPath': '/account?note=email', 'assertedLoginIdentity': asserted})}"
    page = await there.sign_in(visitor, path)
    assert page.url.endswith("/account?note=email")
    assert there.provider.asked[0]["asserted_login_identity"] == asserted
    assert there.provider.asked[0]["prompt"] == "none"
    assert '<header class="top">' not in page.text
    assert "nhsapp.js" in page.text
    assert asserted not in people.hospital.installation.logs()
    there.provider.answer = {"code": "", "error": "sso_login_required"}
    page = await there.sign_in(visitor, path)
    assert page.title == "Go back to the NHS App"
    assert "<form" not in page.text
    for evil in ("https://evil.example", "//evil.example/x", "/\\evil.example"):
        there.provider.answer = {}
        page = await there.sign_in(visitor, f"/nhs-login/login?{urlencode({'phrPath': evil})}")
        assert page.path == "/record"


async def test_the_nhs_apps_word_is_checked_where_its_keys_are_known(
    people: People, visitor: Visitor, provider_of: Any
) -> None:
    there, _ = await nhs_login(people, provider_of)
    provider = there.provider
    await people.pool.execute(
        "UPDATE provider SET created_at = 'epoch', settings = $2 WHERE name = $1", there.name,
        json.dumps({"nhs_app_keys": f"{provider.issuer}/keys"}),
    )  # fmt: skip

    def word(expires: float, key: RSAKey = provider.key) -> str:
        claims = {"iss": "nhs-app", "code": "x", "jti": uuid.uuid4().hex, "exp": int(time.time() + expires)}
        return jwt.encode({"alg": "RS512", "kid": key.kid}, claims, key, ["RS512"])

    async def come(text: str) -> Page:
        query = urlencode({"phrPath": "/account", "assertedLoginIdentity": text})
        return await there.sign_in(visitor, f"/nhs-login/login?{query}")

    assert (await come(word(50))).path == "/account"
    for wrong in (word(-300), word(3600), word(50, RSAKey.generate_key(2048, auto_kid=True)), "rubbish"):
        assert (await come(wrong)).title == "Go back to the NHS App"
    await people.pool.execute("UPDATE provider SET created_at = now() WHERE name = $1", there.name)


async def test_an_organisations_people_get_an_account_at_their_first_sign_in(
    people: People, visitor: Visitor, provider_of: Any, pool: asyncpg.Pool, new_visitor: NewVisitor
) -> None:
    people.hospital.installation.cli("team", "add", f"Renal {unique()}", "--organisation", people.hospital.ods_code)
    team = await pool.fetchval("SELECT name FROM team ORDER BY created_at DESC LIMIT 1")
    domain = f"{unique('d').lower()}.example"
    there = await provider_of("oidc", domains=(domain,), chosen={"teams": {"g-renal": team}})
    there.provider.claims = {"email": f"ada@{domain}", "name": "Ada Example", "groups": ["g-renal", "g-other"]}
    assert "code_challenge" in (await visitor.get(f"/login/organisation?work_email=ada@{domain}")).query
    assert (await there.sign_in(visitor)).path == "/account"
    row = await pool.fetchrow("SELECT * FROM account WHERE email = $1", f"ada@{domain}")
    assert row["kind"] == "professional"
    in_team = "SELECT count(*) FROM account_team WHERE account_id = $1"
    assert await pool.fetchval(in_team, row["id"]) == 1
    there.provider.claims["groups"] = []
    await there.sign_in(new_visitor())
    assert await pool.fetchval(in_team, row["id"]) == 0
    other = new_visitor()
    there.provider.claims = {"sub": "other", "email": "eve@elsewhere.example", "name": "Eve"}
    assert (await there.sign_in(other)).title == "This account cannot be used here"
    assert (await other.get("/login/organisation?work_email=x@unknown.example")).status == 404


async def test_a_provider_cannot_take_over_an_account_of_another_organisation(
    people: People, visitor: Visitor, provider_of: Any, new_visitor: NewVisitor
) -> None:
    patient = await people.patient(new_visitor())
    there = await provider_of("oidc", domains=("example.org",))
    there.provider.claims = {"sub": "s", "email": patient.email, "name": "Mallory"}
    assert (await there.sign_in(visitor)).title == "Your e-mail address has an account here already"


async def test_an_account_that_was_ended_does_not_come_back(people: People, visitor: Visitor, provider_of: Any) -> None:
    there, who = await nhs_login(people, provider_of)
    assert (await there.sign_in(visitor)).path == "/account"
    cli = people.hospital.installation.cli
    ended = json.loads(cli("account", "end", who.email, "--json").stdout)
    assert (await there.sign_in(visitor)).title == "Your account was closed"
    cli("account", "readmit", ended["id"])
    assert (await there.sign_in(visitor)).path == "/account"


async def test_an_account_that_a_colleague_made_with_ones_address_is_not_ones_own(
    people: People, visitor: Visitor, provider_of: Any, new_visitor: NewVisitor, pool: asyncpg.Pool
) -> None:
    domain = f"{unique('d').lower()}.example"
    owner = await registry.organisation_id(pool, people.hospital.ods_code)
    made = await invitations.invite_professional(pool, owner, "Mal Nurse", f"mal@{domain}")
    mal = Somebody(f"ada@{domain}", "Mal Nurse")
    await people.register(new_visitor(), mal, made.code)
    page = await new_visitor().sign_in(mal.email)
    assert page.path == "/login/second"
    there = await provider_of("oidc", domains=(domain,))
    there.provider.claims = {"email": f"ada@{domain}", "name": "Ada Example"}
    page = await there.sign_in(visitor)
    assert "Ada Example" in page.text
    assert "Mal" not in page.text
    assert (await new_visitor().sign_in(mal.email)).errors


async def test_whom_a_provider_signs_in_gets_no_password_by_his_mailbox(
    people: People, visitor: Visitor, provider_of: Any, new_visitor: NewVisitor
) -> None:
    domain = f"{unique('d').lower()}.example"
    there = await provider_of("oidc", domains=(domain,))
    there.provider.claims = {"email": f"ada@{domain}", "name": "Ada Example"}
    assert (await there.sign_in(visitor)).path == "/account"
    other = new_visitor()
    await other.get("/login/forgotten")
    assert (await other.submit("/login/forgotten", email=f"ada@{domain}")).query["note"] == "sent"
    await asyncio.sleep(1)
    assert not [each for each in await people.mailbox.letters(f"ada@{domain}") if "new password" in each["subject"]]


async def test_a_linked_way_to_sign_in_is_told_listed_and_disconnected(
    people: People, visitor: Visitor, provider_of: Any, new_visitor: NewVisitor
) -> None:
    who = await people.registered()
    await people.signed_in(new_visitor(), who)
    there = await provider_of("nhs-login")
    there.provider.person = {"nhs_number": who.nhs_number, "birthdate": who.born}
    page = await there.sign_in(visitor)
    assert f"Disconnect The provider {there.name}" in page.text
    letter = await people.mailbox.wait(who.email, "How you sign in to Carefolio was changed")
    assert "was connected" in letter["body"]
    await visitor.submit("/account/providers/remove", name=there.name)
    assert "Disconnect" not in (await visitor.get("/account")).text


async def test_cis2_signs_in_by_role(
    people: People, visitor: Visitor, provider_of: Any, pool: asyncpg.Pool, new_visitor: NewVisitor
) -> None:
    there = await provider_of("cis2")
    ods_code, email = people.hospital.ods_code, f"{unique('c').lower()}@nhs.example"

    def roles(*codes: str) -> list[dict[str, str]]:
        return [
            {"person_roleid": f"r{at}", "org_code": code, "role_name": f"Role {at}"} for at, code in enumerate(codes)
        ]

    there.provider.person = {"email": email, "name": "Cis Two", "nhsid_nrbac_roles": roles(ods_code)}
    there.provider.claims = {"acr": "AAL3_ANY"}
    assert (await there.sign_in(visitor)).path == "/account"
    assert there.provider.assertions[0]["sub"] == "carefolio"
    assert "AAL3" in there.provider.asked[0]["acr_values"]
    second = new_visitor()
    there.provider.person["nhsid_nrbac_roles"] = roles("NOT-OURS", ods_code, ods_code)
    page = await there.sign_in(second)
    assert page.title == "In which role do you work now?"
    assert "NOT-OURS" not in page.text
    sealed = page.hidden()["sealed"]
    thief = new_visitor()
    await thief.get("/login")
    assert (await thief.submit("/login/role", sealed=sealed, role="0")).status == 400
    assert (await second.submit("/login/role", sealed=sealed, role="1")).path == "/account"
    there.provider.person["nhsid_nrbac_roles"] = roles("NOT-OURS")
    assert (await there.sign_in(new_visitor())).title == "You have no role here"
    there.provider.claims = {"acr": "AAL1"}
    assert (await there.sign_in(new_visitor())).status == 403


async def test_a_hospitals_system_hands_its_user_over(
    people: People, visitor: Visitor, new_visitor: NewVisitor, hospital: Hospital
) -> None:
    made = json.loads(hospital.installation.cli(
        "client", "add", "EPR", "--organisation", hospital.ods_code, "--scope", "hand-over", "--json"
    ).stdout)  # fmt: skip
    system = Hospital(hospital.ods_code, {}, made, hospital.installation, hospital.http, hospital.database)
    number = await hospital.registered()

    async def ask(**more: str) -> Any:
        headers = {"Authorization": f"Bearer {await system.authorize()}"}
        said = {"user": "ada", "nhs_number": number, "page": "/account"} | more
        return await system.request("POST", "/login/hand-over", json=said, headers=headers)

    assert (await ask(nhs_number="9990001154")).status == 404
    who = await people.professional(visitor)
    reply = await ask()
    assert reply.status == 201, reply.body
    other = new_visitor()
    page = await other.get(reply.json["url"].removeprefix(other.base))
    assert page.path == "/login"
    assert (await new_visitor().get(reply.json["url"].removeprefix(other.base))).status == 403
    # The first time he proves who he is; then the link is enough.
    page = await visitor.get((await ask()).json["url"].removeprefix(visitor.base))
    assert page.path == "/login/pair"
    assert (await visitor.submit("/login/pair", token=page.hidden()["token"])).path == "/account"
    page = await other.get((await ask()).json["url"].removeprefix(other.base))
    assert page.path == "/account"
    assert who.email in page.text
    # The session that he was handed over with is for that patient alone.
    app = App(await registry.add_client(
        people.pool, "app", hospital.ods_code, "launch/patient patient/*.rs user/*.rs",
        app=AppSettings(True, (BACK,), ("authorization_code",)),
    ), other)  # fmt: skip
    token = (await app.token(await app.allow("launch/patient patient/*.rs user/*.rs"))).json
    assert token["patient"] == (await hospital.patient(number))["id"]
    assert "user/" not in token["scope"]
    # A patient cannot pair, nor somebody of another organisation.
    patient = new_visitor()
    await people.patient(patient)
    page = await patient.get((await ask(user="pat")).json["url"].removeprefix(patient.base))
    assert page.status == 403
    normal = await hospital.authorize()
    refused = await hospital.request("POST", "/login/hand-over", json={}, headers={"Authorization": f"Bearer {normal}"})
    assert refused.status == 403


async def test_our_public_key_can_be_registered_there(people: People, provider_of: Any) -> None:
    there, _ = await nhs_login(people, provider_of)
    keys = (await people.hospital.request("GET", f"/login/with/{there.name}/jwks.json")).json
    imported = KeySet.import_key_set(keys)
    assert imported.keys[0].kid == OUR_KEY.kid
    assert "d" not in keys["keys"][0]
