"""Identity providers and OAuth2 clients that others wrote, installed as they are, against a running installation."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import functools
import html
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from joserfc.jwk import KeySet, RSAKey
from playwright.async_api import async_playwright
from tests.browser_kit import CHROMIUM
from tests.conftest import free_port, unique
from tests.people.test_apps import with_result
from tests.people_kit import App, NewApp, Page, People, Visitor

from carefolio.identity import providers

HERE = Path(__file__).parent
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
Install = Callable[..., Path]


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Install:
    """A folder with packages of npm in it; the scripts lie beside them."""

    @functools.cache
    def make(*packages: str) -> Path:
        if not shutil.which("npm"):
            pytest.skip("npm is not on this machine")
        folder = tmp_path_factory.mktemp("npm")
        done = subprocess.run(["npm", "install", "--silent", "--no-audit", *packages], cwd=folder, check=False)
        if done.returncode:
            pytest.skip(f"{packages} cannot be installed here")
        for script in HERE.glob("*.mjs"):
            shutil.copy(script, folder)
        return folder

    return make


@contextlib.asynccontextmanager
async def started(folder: Path, script: str, **environment: str) -> AsyncIterator[None]:
    """A server of others', until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        "node", script, cwd=folder, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        while line and b"listening" not in line:
            line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line, "it did not start"
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def through(visitor: Visitor, page: Page, issuer: str) -> Page:
    """Follow a foreign site's redirects until it sends the browser back to us."""
    for _ in range(12):
        if not page.url.startswith(issuer):
            return page
        async with visitor.http.get(page.url, allow_redirects=False) as answer:
            assert answer.status in (302, 303), await answer.text()
            where = answer.headers["Location"]
        page = await visitor.get(where) if where.startswith(visitor.base) else Page(0, _absolute(issuer, where), "", {})
    raise AssertionError("redirected in a circle")


def _absolute(issuer: str, where: str) -> str:
    return where if where.startswith("http") else f"{issuer}{where}"


@pytest.mark.parametrize("kind", ["nhs-login", "oidc", "cis2"])
async def test_oidc_provider_signs_people_in(
    people: People, visitor: Visitor, pool: asyncpg.Pool, install: Install, kind: str
) -> None:
    folder, port, name = install("oidc-provider@9.13.3"), free_port(), f"foreign-{uuid.uuid4().hex[:8]}"
    issuer = f"http://localhost:{port}"
    who, _ = await people.invited()
    person: dict[str, Any] = {"email": who.email, "email_verified": True, "name": "Pat Example"}
    person |= {"nhs_number": who.nhs_number, "birthdate": who.born, "family_name": "Example", "given_name": "Pat"}
    person["nhsid_nrbac_roles"] = [
        {"person_roleid": "r", "org_code": people.hospital.ods_code, "role_name": "Clinician"}
    ]
    key = RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)
    await providers.add(
        pool, name, kind, issuer=issuer, client_id="carefolio", title=name,
        key=b"a-client-secret" if kind == "oidc" else json.dumps(key.as_dict(private=True)).encode(),
        organisation=people.hospital.ods_code if kind == "oidc" else None,
        domains=("example.org",) if kind == "oidc" else (),
    )  # fmt: skip
    environment = {
        "PORT": str(port), "KIND": kind, "CALLBACK": f"{visitor.base}/login/with/{name}/callback",
        "PERSON": json.dumps(person),
        "CLIENT_JWKS": json.dumps(KeySet([RSAKey.import_key(key.as_dict(private=False))]).as_dict()),
    }  # fmt: skip
    async with started(folder, "foreign_provider.mjs", **environment):
        for _ in range(2):
            page = await visitor.get(f"/login/with/{name}?next=/account")
            page = await through(visitor, page, issuer)
            assert page.path == "/account", page.text
            assert who.email in page.text
            await visitor.submit("/login/out")
    await providers.end(pool, name)


@pytest.fixture(scope="session")
def certificate() -> tuple[str, str]:
    """A certificate and its key, as a SAML server has them (PEM)."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


async def test_a_saml_server_signs_people_in(
    people: People, visitor: Visitor, pool: asyncpg.Pool, install: Install, certificate: tuple[str, str]
) -> None:
    folder, port, name = install("samlp@8.0.0", "express@4.21.2"), free_port(), f"saml-{uuid.uuid4().hex[:8]}"
    domain = f"{unique('saml').lower()}.example"
    await providers.add(
        pool, name, "saml", issuer=f"http://localhost:{port}/idp", client_id="", organisation=people.hospital.ods_code,
        domains=(domain,), chosen={"sso_url": f"http://localhost:{port}/sso", "certificate": certificate[0]},
    )  # fmt: skip
    acs = f"{visitor.base}/login/with/{name}/acs"
    environment = {"PORT": str(port), "ACS": acs, "CERTIFICATE": certificate[0], "KEY": certificate[1],
                   "EMAIL": f"sam@{domain}"}  # fmt: skip

    async def answer(where: str) -> dict[str, str]:
        async with visitor.http.get(where) as reply:
            text = await reply.text()
        found = re.findall(r'name="(SAMLResponse|RelayState)"\s+value="([^"]*)"', text)
        assert found, text
        return {field: html.unescape(value) for field, value in found}

    async with started(folder, "foreign_saml.mjs", **environment):
        page = await visitor.get(f"/login/with/{name}?next=/account")
        said = await answer(page.url)
        # It comes by a POST from the other site.
        page = await visitor._go("POST", acs, said, {"Origin": f"http://localhost:{port}"})
        assert page.path == "/account", page.text
        assert f"sam@{domain}" in page.text
        assert (await visitor._go("POST", acs, said, {})).status == 403

        def altered(response: str) -> str:
            return base64.b64encode(base64.b64decode(response).replace(b"sam@", b"eve@")).decode()

        def unsigned(response: str) -> str:
            text = base64.b64decode(response).decode()
            return base64.b64encode(re.sub(r"<Signature.*?</Signature>", "", text, flags=re.DOTALL).encode()).decode()

        for wrong in (
            lambda fresh: said["SAMLResponse"],
            lambda fresh: altered(fresh["SAMLResponse"]),
            lambda fresh: unsigned(fresh["SAMLResponse"]),
            lambda fresh: "rubbish",
        ):
            fresh = await answer((await visitor.get(f"/login/with/{name}?next=/account")).url)
            assert (await visitor._go("POST", acs, fresh | {"SAMLResponse": wrong(fresh)}, {})).status == 403
        fresh = await answer((await visitor.get(f"/login/with/{name}?next=/account")).url)
        assert (await visitor._go("POST", acs, fresh | {"RelayState": "made-up"}, {})).status == 403
        again = await visitor.get(f"/login/with/{name}?next=/account")
        late = await answer(again.url + "&hurt=1")
        assert (await visitor._go("POST", acs, late, {})).status == 403
    told = await visitor.get(f"/login/with/{name}/metadata")
    assert acs in told.text
    await providers.end(pool, name)


async def test_openid_client_signs_people_in_here(
    people: People, visitor: Visitor, new_app: NewApp, install: Install
) -> None:
    folder = install("openid-client@6.9.0")
    await people.patient(visitor)
    app = await new_app(public=False)
    process = await asyncio.create_subprocess_exec(
        "node", "with_openid_client.mjs", cwd=folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "BASE": visitor.base, "CLIENT_ID": app.client.client_id,
                                             "CLIENT_SECRET": app.client.client_secret or ""},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    last = ""
    while line := (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip():
        last = line
        if line.startswith("GO "):
            page = await visitor.get(line[3:].removeprefix(visitor.base))
            page = await app.answer(page, "allow") if page.status else page
            process.stdin.write(f"{page.url}\n".encode())
        elif line.startswith("DEVICE "):
            await visitor.get("/oauth2/device")
            page = await visitor.submit("/oauth2/device", user_code=line[7:])
            assert (await app.answer(page, "allow")).title == "Your device is connected"
    assert last == "openid-client: good", last + (await process.stderr.read()).decode()
    await process.wait()


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_authlibs_client_signs_people_in_here(
    people: People, visitor: Visitor, new_app: NewApp, method: str
) -> None:
    who = await people.patient(visitor)
    app = await new_app(public=False)
    async with AsyncOAuth2Client(
        app.client.client_id, app.client.client_secret, token_endpoint_auth_method=method, code_challenge_method="S256",
        scope="openid fhirUser offline_access launch/patient patient/*.rs", redirect_uri="https://app.example/back",
        token_endpoint=f"{visitor.base}/oauth2/token",
    ) as client:  # fmt: skip
        url, state = client.create_authorization_url(f"{visitor.base}/oauth2/authorize", code_verifier=app.verifier)
        page = await visitor.get(url.removeprefix(visitor.base))
        page = await app.answer(page, "allow")
        token = await client.fetch_token(authorization_response=page.url, code_verifier=app.verifier, state=state)
        assert token["patient"] == who.record
        assert (await client.get(f"{visitor.base}/fhir/R4/Patient/{who.record}")).status_code == 200
        fresh = await client.refresh_token(f"{visitor.base}/oauth2/token")
        assert fresh["access_token"] != token["access_token"]
        told = await client.introspect_token(f"{visitor.base}/oauth2/introspect", token=fresh["access_token"])
        assert told.json()["active"] is True
        assert (
            await client.revoke_token(f"{visitor.base}/oauth2/revoke", token=fresh["refresh_token"])
        ).status_code == 200


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """The app's own site, at another origin than ours."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return None

    server = http.server.ThreadingHTTPServer(("localhost", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_fhirclient_launches_standalone_in_a_browser(
    people: People, visitor: Visitor, new_app: NewApp, install: Install
) -> None:
    if CHROMIUM is None:
        pytest.skip("Chromium is not on this machine")
    folder = install("fhirclient@2.6.3")
    shutil.copy(HERE / "standalone_launch.html", folder)
    shutil.copy(folder / "node_modules/fhirclient/build/fhir-client.min.js", folder)
    who = await people.registered()
    await with_result(people, who.nhs_number)
    with site(folder) as address:
        back = f"{address}/standalone_launch.html"
        app: App = await new_app(redirect_uris=(back,))
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = await browser.new_page()
            query = urlencode({"client_id": app.client.client_id, "iss": f"{visitor.base}/fhir/R4"})
            await page.goto(f"{back}?{query}")
            await page.fill("#email", who.email)
            await page.fill("#password", "teapot lantern gravel")
            await page.click("button:has-text('Sign in')")
            await page.fill("#code", await people.mailbox.code(who.email))
            await page.click("text=Continue")
            await page.click("button:has-text('Allow') >> nth=0")
            await page.wait_for_function("document.getElementById('said').textContent", timeout=20_000)
            said = await page.inner_text("#said")
            await browser.close()
    assert said.startswith("good: "), said
    assert " true " in said
    assert int(said.rpartition(" ")[2]) > 0
