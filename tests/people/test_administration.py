"""What an organisation's own client administers, keys that rotate, and mail that goes out."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import asyncpg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from joserfc import jwt
from joserfc.jwk import KeySet
from tests.conftest import Hospital, NewHospital, Reply, free_port
from tests.people_kit import People, Somebody, Visitor

from carefolio.cloud import mail, secrets
from carefolio.cloud.settings import settings
from carefolio.doors import letters as door
from carefolio.identity import letters, tokens


@pytest.fixture(scope="module")
async def administrator(new_hospital: NewHospital) -> Hospital:
    return await new_hospital(scope="system/Provider.cruds system/Invitation.c system/*.rs")


async def ask(hospital: Hospital, method: str, path: str, said: Any = None) -> Reply:
    return await hospital.request(method, path, json=said, headers=await hospital.bearer())


async def test_a_hospital_invites_its_own_patients(
    administrator: Hospital, people: People, visitor: Visitor, hospital: Hospital
) -> None:
    number = await administrator.registered()
    patient = await administrator.patient(number)
    reply = await ask(administrator, "POST", "/login/invitations", {"nhs_number": number})
    assert reply.status == 201, reply.body
    who = Somebody(f"{uuid.uuid4().hex[:8]}@example.org", "Pat", number, patient["birthDate"], patient["id"])
    assert (await people.register(visitor, who, reply.json["code"])).query["note"] == "registered"
    await people.signed_in(visitor, who)
    again = await ask(administrator, "POST", "/login/invitations", {"nhs_number": number})
    assert (again.status, "account already" in again.json["error"]) == (422, True)
    others = await ask(administrator, "POST", "/login/invitations", {"nhs_number": await hospital.registered()})
    assert others.status == 422
    for wrong in (
        {},
        {"nhs_number": 5},
        {"name": "A"},
        {"name": "A", "email": "no"},
        [],
        {"name": "x\x00", "email": "a@b.cd"},
    ):
        assert (await ask(administrator, "POST", "/login/invitations", wrong)).status in (400, 422)
    refused = await ask(hospital, "POST", "/login/invitations", {"nhs_number": number})
    assert refused.status == 403


async def test_a_hospital_sets_up_its_own_provider(administrator: Hospital, hospital: Hospital) -> None:
    name = f"rest-{uuid.uuid4().hex[:8]}"
    wanted = {
        "kind": "oidc",
        "issuer": "https://idp.example",
        "client_id": "c",
        "secret": "s",
        "domains": ["a.example"],
    }
    made = await ask(administrator, "PUT", f"/login/providers/{name}", wanted)
    assert made.status == 201, made.body
    assert made.json["callback"].endswith(f"/login/with/{name}/callback")
    assert "secret" not in json.dumps(made.json)
    assert (await ask(administrator, "PUT", f"/login/providers/{name}", wanted)).status == 422
    listed = (await ask(administrator, "GET", "/login/providers")).json["providers"]
    assert [each["name"] for each in listed] == [name]
    for more in ({"kind": "nhs-login"}, {"issuer": "http://idp.example"}, {"issuer": "https://10.0.0.1"},
                 {"settings": {"made_up": 1}}, {"domains": [1]}, {"kind": "saml"}):  # fmt: skip
        assert (await ask(administrator, "PUT", f"/login/providers/{name}-2", wanted | more)).status == 422
    assert (await ask(hospital, "DELETE", f"/login/providers/{name}")).status == 403
    assert (await ask(administrator, "DELETE", f"/login/providers/{name}")).status == 204
    assert (await ask(administrator, "DELETE", f"/login/providers/{name}")).status == 404


async def test_keys_rotate_without_an_outage(pool: asyncpg.Pool, hospital: Hospital, monkeypatch: Any) -> None:
    before = await hospital.authorize()
    kid = jwt_header(before)["kid"]
    now = time.time()
    rotated = tokens.rotated(secrets.read(tokens.SECRET), now)
    kept = json.loads(rotated)["keys"]
    assert kid in [key["kid"] for key in kept]
    secrets.write(tokens.SECRET, rotated)
    await tokens.publish_keys(pool)
    published = {key["kid"] for key in (await hospital.request("GET", "/.well-known/jwks.json")).json["keys"]}
    # Published at once, before it signs.
    assert {key["kid"] for key in kept} <= published
    assert tokens.signing_key("ES256").kid == kid
    monkeypatch.setattr(tokens.time, "time", lambda: now + 601)
    fresh = tokens.issue("somebody", "system/*.rs", organisation=uuid.uuid4())
    assert jwt_header(fresh)["kid"] != kid
    monkeypatch.undo()
    jwt.decode(fresh, KeySet.import_key_set(await tokens.public_keys(pool)), algorithms=["ES256"])
    reply = await hospital.request("GET", "/fhir/R4/Patient?_count=1", headers={"Authorization": f"Bearer {before}"})
    assert reply.status == 200


def jwt_header(text: str) -> dict[str, Any]:
    import base64

    head = text.split(".")[0]
    return dict(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))))


class Received:
    """A mail server's inbox."""

    def __init__(self) -> None:
        self.letters: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        self.letters.append(envelope)
        return "250 OK"


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
async def test_letters_go_out_by_smtp_when_the_server_is_back(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, inbox = free_port(), Received()
    monkeypatch.setenv("SMTP_URL", f"smtp://postman@localhost:{port}")
    settings.cache_clear()
    secrets.write(mail.PASSWORD, b"a-password\n")
    async with pool.acquire() as connection, connection.transaction():
        await letters.write(connection, "code", "pat@example.org", name="Pat é", code="123456", minutes=10)
        number = await connection.fetchval("SELECT id FROM letter ORDER BY created_at DESC LIMIT 1")
        # The installation's own notify is not to have it.
        await connection.execute("DELETE FROM outbox WHERE ordering_key = $1", str(number))
    assert await door.send(pool, number) is False

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.login == b"postman" and data.password == b"a-password")

    controller = Controller(inbox, "localhost", port, authenticator=authenticate, auth_require_tls=False,
                            auth_required=True)  # fmt: skip
    controller.start()
    try:
        both = await asyncio.gather(door.send(pool, number), door.send(pool, number))
    finally:
        controller.stop()
    monkeypatch.undo()
    settings.cache_clear()
    assert both == [True, True]
    assert len(inbox.letters) == 1
    assert inbox.letters[0].rcpt_tos == ["pat@example.org"]
    assert b"123456" in inbox.letters[0].content
    assert await pool.fetchval("SELECT sealed IS NULL FROM letter WHERE id = $1", number)


@pytest.mark.parametrize("address", ["a@b.example\nBcc: eve@example.org", "a@b.example\r\n\r\nbody"])
async def test_an_address_that_would_add_headers_is_not_written_to(address: str, pool: asyncpg.Pool) -> None:
    with pytest.raises(mail.MailError):
        await mail.send(address, "Subject", "Body")
