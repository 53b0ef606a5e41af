"""Apps for people: authorization code, refresh, devices, launches (RFC 6749, 7636, 8628, 9126, 9207; SMART 2.2)."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import asyncpg
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from tests.conftest import Hospital, unique
from tests.people_kit import BACK, App, NewApp, NewVisitor, People, Visitor

from carefolio.identity import registry
from carefolio.identity.registry import AppSettings
from carefolio.local import load


async def with_result(people: People, number: str) -> None:
    """A result comes for a patient."""
    row = await people.hospital.accepted(load.report(number, unique()))
    assert row["status"] == "applied"


async def test_a_patient_lets_an_app_read_his_record_and_nobody_elses(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    other = await people.hospital.registered()
    await with_result(people, other)
    who = await people.patient(visitor)
    await with_result(people, who.nhs_number)
    app = await new_app()
    page = await app.allow("openid fhirUser launch/patient patient/*.rs offline_access")
    assert page.url.startswith(f"{BACK}?")
    assert page.query["state"] == "s-t-a-t-e"
    assert page.query["iss"] == visitor.base
    reply = await app.token(page)
    assert reply.status == 200, reply.body
    token = reply.json
    assert token["patient"] == who.record
    assert token["token_type"] == "Bearer"
    assert set(token["scope"].split()) == {"openid", "fhirUser", "launch/patient", "patient/*.rs", "offline_access"}
    claims = await id_token(visitor, token["id_token"])
    assert claims["nonce"] == "n-o-n-c-e"
    assert claims["aud"] == app.client.client_id
    assert claims["fhirUser"] == f"{visitor.base}/fhir/R4/Patient/{who.record}"
    found = (await app.fhir(token["access_token"], "Patient")).json["entry"]
    assert [entry["resource"]["id"] for entry in found if entry["search"]["mode"] == "match"] == [who.record]
    results = (await app.fhir(token["access_token"], "Observation")).json["entry"]
    assert results
    assert {entry["resource"]["subject"]["reference"] for entry in results} == {f"Patient/{who.record}"}
    stranger = (await people.hospital.patient(other))["id"]
    assert (await app.fhir(token["access_token"], f"Patient/{stranger}")).status == 404
    assert (await app.fhir(token["access_token"], f"Observation?patient={stranger}")).json["total"] == 0
    assert (await app.fhir(token["access_token"], f"Patient/{stranger}/$everything")).status == 404
    # What the results refer to and is nobody's is open to him too.
    for entry in results:
        for performer in entry["resource"].get("performer", []):
            if "reference" in performer:
                assert (await app.fhir(token["access_token"], performer["reference"])).status == 200


async def id_token(visitor: Visitor, text: str) -> dict[str, Any]:
    async with visitor.http.get(f"{visitor.base}/.well-known/jwks.json") as answer:
        keys = KeySet.import_key_set(await answer.json())
    token = jwt.decode(text, keys, algorithms=["RS256"])
    assert token.claims["iss"] == visitor.base
    assert token.claims["exp"] > time.time()
    return dict(token.claims)


async def test_what_is_not_yet_open_to_the_patient_is_hidden_from_his_app(
    people: People, visitor: Visitor, new_app: NewApp, pool: asyncpg.Pool
) -> None:
    who = await people.patient(visitor)
    await with_result(people, who.nhs_number)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.rs"))).json["access_token"]
    before = (await app.fhir(token, "Observation")).json["total"]
    assert before
    await pool.execute(
        "UPDATE resource SET available_from = now() + interval '1 day' WHERE type = 'Observation' AND patient_id = $1",
        uuid.UUID(who.record),
    )
    assert (await app.fhir(token, "Observation")).json["total"] == 0


async def test_an_app_writes_only_into_the_record_that_is_open(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    other = (await people.hospital.patient(await people.hospital.registered()))["id"]
    who = await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.cruds"))).json["access_token"]

    def weight(patient: str) -> dict[str, Any]:
        return {"resourceType": "Observation", "status": "final", "code": {"text": "weight"},
                "subject": {"reference": f"Patient/{patient}"}, "valueString": "70 kg"}  # fmt: skip

    made = await app.fhir(token, "Observation", "POST", weight(who.record))
    assert made.status == 201, made.body
    number = made.headers["Location"].split("/Observation/")[1].split("/")[0]
    assert (await app.fhir(token, f"Observation/{number}")).status == 200
    assert (await app.fhir(token, f"Observation/{number}", "DELETE")).status == 204
    refused = await app.fhir(token, "Observation", "POST", weight(other))
    assert refused.status == 403, refused.body
    nobody = {"resourceType": "Organization", "name": "Mine"}
    assert (await app.fhir(token, "Organization", "POST", nobody)).status == 403
    changed = (await app.fhir(token, f"Patient/{who.record}")).json | {"gender": "other"}
    assert (await app.fhir(token, f"Patient/{who.record}", "PUT", changed)).status == 403


async def test_the_person_may_keep_something_back(people: People, visitor: Visitor, new_app: NewApp) -> None:
    await people.patient(visitor)
    app = await new_app()
    page = await app.ask("launch/patient patient/Patient.rs patient/Observation.rs")
    chosen = {name: value for name, value in page.boxes().items() if "Patient" in value}
    token = (await app.token(await app.answer(page, "allow", **chosen))).json
    assert set(token["scope"].split()) == {"launch/patient", "patient/Patient.rs"}
    assert (await app.fhir(token["access_token"], "Observation")).status == 403


async def test_no_is_told_to_the_app(people: People, visitor: Visitor, new_app: NewApp) -> None:
    await people.patient(visitor)
    app = await new_app()
    page = await app.answer(await app.ask("launch/patient patient/*.rs"), "refuse")
    assert (page.query["error"], page.query["state"], page.query["iss"]) == ("access_denied", "s-t-a-t-e", visitor.base)


async def test_whoever_is_not_signed_in_signs_in_first(people: People, visitor: Visitor, new_app: NewApp) -> None:
    who = await people.registered()
    app = await new_app()
    page = await app.ask("launch/patient patient/*.rs")
    assert page.path == "/login"
    back = page.query["next"]
    page = await visitor.submit("/login", email=who.email, password="teapot lantern gravel", next=back)
    assert page.path == "/login/second"
    code = await people.mailbox.code(who.email)
    page = await visitor.submit("/login/second", kind="code", code=code, next=page.query["next"])
    assert page.title.startswith("Allow")
    assert (await app.token(await app.answer(page, "allow"))).status == 200


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"redirect_uri": "https://app.example/other"}, "Redirect URI"),
        ({"redirect_uri": "https://app.example/back/"}, "Redirect URI"),
        ({"redirect_uri": ""}, "redirect_uri"),
        ({"client_id": "nobody"}, "does not exist"),
        ({"response_type": "é"}, "letters that it may not have"),
    ],
)
async def test_a_stranger_is_never_sent_anywhere(
    people: People, visitor: Visitor, new_app: NewApp, wrong: dict[str, str], says: str
) -> None:
    page = await (await new_app()).ask("patient/*.rs", **wrong)
    assert page.status == 400
    assert says in page.text


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"code_challenge": "", "code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"aud": "https://elsewhere.example/fhir"}, "invalid_request"),
        ({"scope": "system/*.rs"}, "invalid_scope"),
        ({"scope": "launch patient/*.rs"}, "invalid_request"),
        ({"launch": "made-up", "scope": "launch patient/*.rs"}, "invalid_request"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
    ],
)
async def test_a_wrong_request_is_told_to_the_app(
    people: People, visitor: Visitor, new_app: NewApp, wrong: dict[str, str], error: str
) -> None:
    if "launch" in wrong:
        await people.patient(visitor)
    page = await (await new_app()).ask(wrong.pop("scope", "patient/*.rs"), **wrong)
    assert (page.query.get("error"), page.query.get("state")) == (error, "s-t-a-t-e"), page.url + page.text


async def test_request_objects_must_be_signed(
    hospital: Hospital, pool: asyncpg.Pool, people: People, visitor: Visitor
) -> None:
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
    public = json.dumps({"keys": [key.as_dict(private=False)]})
    settings = AppSettings(False, (BACK,), ("authorization_code",))
    client = await registry.add_client(
        pool, "signs", hospital.ods_code, "launch/patient patient/*.rs", public, settings
    )
    app = App(client, visitor)
    await people.patient(visitor)
    claims = {**app.parameters("launch/patient patient/*.rs"), "iss": client.client_id, "aud": visitor.base}
    claims |= {"exp": int(time.time()) + 60}
    signed = jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key)
    page = await visitor.get(f"/oauth2/authorize?client_id={client.client_id}&request={signed}")
    assert page.title.startswith("Allow"), page.text
    head, body, _ = signed.split(".")
    for wrong in (
        f"{head}.{body}.",
        f"eyJhbGciOiJub25lIn0.{body}.",
        jwt.encode({"alg": "ES256"}, claims, ECKey.generate_key()),
    ):
        page = await visitor.get(f"/oauth2/authorize?client_id={client.client_id}&request={wrong}")
        assert page.status == 400
        assert "invalid_request_object" in page.text


async def test_a_code_is_good_once_and_its_reuse_ends_the_family(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    await people.patient(visitor)
    app = await new_app()
    page = await app.allow("launch/patient patient/*.rs offline_access")
    replies = await asyncio.gather(*(app.token(page) for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 400, 400, 400, 400]
    token = next(reply.json for reply in replies if reply.status == 200)
    refused = await app.refresh(token["refresh_token"])
    assert (refused.status, refused.json["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    "wrong", [{"code_verifier": "x" * 43}, {"code_verifier": ""}, {"redirect_uri": "https://app.example/other"}]
)
async def test_a_code_is_bound_to_who_asked(
    people: People, visitor: Visitor, new_app: NewApp, wrong: dict[str, str]
) -> None:
    await people.patient(visitor)
    app = await new_app()
    page = await app.allow("launch/patient patient/*.rs")
    assert (await app.token(page, **wrong)).status == 400
    other = await new_app()
    page = await app.allow("launch/patient patient/*.rs")
    stolen = App(other.client, visitor, app.verifier)
    assert (await stolen.token(page)).json["error"] == "invalid_grant"


async def test_refresh_tokens_rotate_and_a_reused_one_ends_the_family(
    people: People, visitor: Visitor, new_app: NewApp, pool: asyncpg.Pool
) -> None:
    await people.patient(visitor)
    app = await new_app()
    first = (await app.token(await app.allow("launch/patient patient/*.rs openid offline_access"))).json
    too_much = await app.refresh(first["refresh_token"], scope="user/*.cruds")
    assert too_much.json["error"] == "invalid_scope"
    second = (await app.refresh(first["refresh_token"], scope="patient/*.rs")).json
    assert second["scope"] == "patient/*.rs"
    third = (await app.refresh(second["refresh_token"])).json
    assert "offline_access" in third["scope"]
    assert third["refresh_token"] not in (first["refresh_token"], second["refresh_token"])
    replayed = await app.refresh(first["refresh_token"])
    assert (replayed.status, replayed.json["error"]) == (400, "invalid_grant")
    assert (await app.refresh(third["refresh_token"])).status == 400
    event = await pool.fetchrow("SELECT * FROM security_event WHERE client_id = $1 AND kind = 'token_reused'",
                                app.client.client_id)  # fmt: skip
    assert event is not None


async def test_sign_out_ends_online_access_after_a_second_sign_in_too(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    who = await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.rs online_access"))).json
    await people.signed_in(visitor, who)
    assert (await app.refresh(token["refresh_token"])).status == 400


async def test_a_reset_password_ends_every_app(people: People, visitor: Visitor, new_app: NewApp) -> None:
    who = await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.rs offline_access"))).json
    await visitor.get("/login/forgotten")
    await visitor.submit("/login/forgotten", email=who.email)
    letter = await people.mailbox.wait(who.email, "new password")
    link = letter["body"].split("token=")[1].split()[0]
    await visitor.get(f"/login/reset?token={link}")
    await visitor.submit("/login/reset", token=link, password="marble otter caravan")
    assert (await app.refresh(token["refresh_token"])).status == 400


async def test_a_join_that_was_undone_opens_nothing_however_far_back(
    people: People, visitor: Visitor, new_app: NewApp, new_visitor: NewVisitor
) -> None:
    other = await people.hospital.registered()
    await with_result(people, other)
    stranger = (await people.hospital.patient(other))["id"]
    who = await people.patient(visitor)
    app = await new_app()
    cli = people.hospital.installation.cli
    made = json.loads(cli("record", "join", who.record, stranger, "--json").stdout)
    token = (await app.token(await app.allow("launch/patient patient/*.rs"))).json["access_token"]
    assert (await app.fhir(token, f"Patient/{stranger}")).status == 200
    await asyncio.sleep(1.1)
    then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    await asyncio.sleep(1.1)
    cli("record", "undo", str(made["id"] if "id" in made else made["join"]))
    for path in (f"Patient/{stranger}", f"Patient/{stranger}?_at={then}"):
        assert (await app.fhir(token, path)).status == 404, path
    everything = await app.fhir(token, f"Patient/{stranger}/$everything?_at={then}")
    assert {entry["resource"]["id"] for entry in everything.json["entry"]} == {who.record}
    assert (await app.fhir(token, f"Observation?_at={then}")).json["total"] == 0


async def test_an_app_that_may_not_read_is_told_nothing_by_writing(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    patient = (await people.hospital.patient(await people.hospital.registered()))["id"]
    await people.professional(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("user/Patient.u"))).json["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json-patch+json"}
    url = f"{visitor.base}/fhir/R4/Patient/{patient}"
    async with visitor.http.patch(url, data="[]", headers=headers) as answer:
        assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.parametrize("query", ["category:not=laboratory", "_lastUpdated=gt1900-01-01", "nonsense=1"])
async def test_a_scope_whose_words_would_lie_is_refused(
    people: People, visitor: Visitor, new_app: NewApp, query: str
) -> None:
    await people.patient(visitor)
    page = await (await new_app()).ask(f"patient/Observation.rs?{query}")
    assert page.query["error"] == "invalid_scope"
    page = await (await new_app()).ask("patient/Observation.rs?category=laboratory")
    assert "only those whose category is laboratory" in page.text


async def test_a_professional_gives_his_organisations_records_to_its_own_apps_alone(
    people: People, visitor: Visitor, new_hospital: Any, pool: asyncpg.Pool
) -> None:
    other = await new_hospital()
    settings = AppSettings(True, (BACK,), ("authorization_code",))
    client = await registry.add_client(pool, "theirs", other.ods_code, "user/*.rs", app=settings)
    await people.professional(visitor)
    assert (await App(client, visitor).ask("user/*.rs")).status == 403


async def test_a_verifier_without_a_challenge_is_refused(people: People, visitor: Visitor, new_app: NewApp) -> None:
    await people.patient(visitor)
    app = await new_app(public=False)
    page = await app.allow("launch/patient patient/*.rs", code_challenge="", code_challenge_method="")
    assert (await app.token(page)).json["error"] == "invalid_request"
    page = await app.allow("launch/patient patient/*.rs", code_challenge="", code_challenge_method="", prompt="consent")
    assert (await app.token(page, code_verifier="")).status == 200


async def test_a_refresh_token_belongs_to_its_client(people: People, visitor: Visitor, new_app: NewApp) -> None:
    await people.patient(visitor)
    app, other = await new_app(), await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.rs offline_access"))).json
    assert (await other.refresh(token["refresh_token"])).status == 400
    assert (await app.refresh(token["refresh_token"])).status == 200


async def test_stopping_an_app_ends_its_tokens(people: People, visitor: Visitor, new_app: NewApp) -> None:
    await people.patient(visitor)
    app = await new_app(public=False)
    token = (await app.token(await app.allow("launch/patient patient/*.rs offline_access"))).json
    told = (await app.post("/oauth2/introspect", {"token": token["refresh_token"]})).json
    assert told["active"] is True
    again = (await app.token(await app.allow("launch/patient patient/*.rs offline_access"))).json
    page = await visitor.get("/account")
    assert page.text.count('action="/account/apps/end"') == 1
    assert (await visitor.submit("/account/apps/end", client_id=app.client.client_id)).query["note"] == "app"
    assert (await app.refresh(again["refresh_token"])).status == 400
    assert (await app.refresh(token["refresh_token"])).status == 400
    told = (await app.post("/oauth2/introspect", {"token": token["access_token"]})).json
    assert told == {"active": False}


async def test_revoking_a_refresh_token_takes_its_family(people: People, visitor: Visitor, new_app: NewApp) -> None:
    await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.rs offline_access"))).json
    assert (await app.post("/oauth2/revoke", {"token": token["refresh_token"]})).status == 200
    assert (await app.refresh(token["refresh_token"])).status == 400


async def test_online_access_ends_with_the_session(people: People, visitor: Visitor, new_app: NewApp) -> None:
    await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.rs online_access"))).json
    assert (await app.refresh(token["refresh_token"])).status == 200
    token = (await app.token(await app.allow("launch/patient patient/*.rs online_access"))).json
    await visitor.get("/account")
    await visitor.submit("/login/out")
    assert (await app.refresh(token["refresh_token"])).status == 400


async def test_without_offline_or_online_access_there_is_no_refresh_token(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    await people.patient(visitor)
    app = await new_app()
    assert "refresh_token" not in (await app.token(await app.allow("launch/patient patient/*.rs"))).json


async def test_a_pushed_request_is_good_once_and_for_its_client(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    await people.patient(visitor)
    app, other = await new_app(public=False), await new_app(public=False)
    pushed = await app.post("/oauth2/par", app.parameters("launch/patient patient/*.rs"))
    assert pushed.status == 201, pushed.body
    where = f"/oauth2/authorize?client_id={app.client.client_id}&request_uri={pushed.json['request_uri']}"
    page = await visitor.get(where)
    assert page.title.startswith("Allow"), page.text
    assert (await app.token(await app.answer(page, "allow"))).status == 200
    assert (await visitor.get(where)).status == 400
    pushed = await app.post("/oauth2/par", app.parameters("launch/patient patient/*.rs"))
    wrong = f"/oauth2/authorize?client_id={other.client.client_id}&request_uri={pushed.json['request_uri']}"
    assert (await visitor.get(wrong)).status == 400
    bad = await app.post("/oauth2/par", app.parameters("patient/*.rs", redirect_uri="https://evil.example"))
    assert (bad.status, bad.json["error"]) == (400, "invalid_request")
    nobody = App(registry.NewClient(app.client.client_id, "wrong", ""), visitor)
    assert (await nobody.post("/oauth2/par", app.parameters("patient/*.rs"))).status == 401


async def test_prompt_and_max_age(people: People, visitor: Visitor, new_app: NewApp, pool: asyncpg.Pool) -> None:
    app = await new_app(public=False)
    page = await app.ask("launch/patient patient/*.rs", prompt="none")
    assert page.query["error"] == "login_required"
    who = await people.patient(visitor)
    page = await app.ask("launch/patient patient/*.rs", prompt="none")
    assert page.query["error"] == "consent_required"
    await app.token(await app.allow("launch/patient patient/*.rs"))
    assert "code" in (await app.ask("launch/patient patient/*.rs", prompt="none")).query
    assert "code" in (await app.ask("launch/patient patient/*.rs")).query
    assert (await app.ask("launch/patient patient/*.rs", prompt="consent")).title.startswith("Allow")
    await pool.execute(
        "UPDATE session SET authenticated_at = now() - interval '1 hour' FROM account"
        " WHERE account.id = account_id AND email = $1",
        who.email,
    )
    assert (await app.ask("launch/patient patient/*.rs", max_age="600")).path == "/login"
    assert (await app.ask("launch/patient patient/*.rs", prompt="login")).path == "/login"


async def test_a_native_apps_loopback_port_is_free_and_nothing_else(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    await people.patient(visitor)
    app = await new_app(redirect_uris=("http://127.0.0.1:1234/back", "uk.example.app:/back"))
    good = await app.ask("launch/patient patient/*.rs", redirect_uri="http://127.0.0.1:40123/back")
    assert good.title.startswith("Allow")
    assert (await app.ask("patient/*.rs", redirect_uri="uk.example.app:/back")).title.startswith("Allow")
    for wrong in ("http://127.0.0.1:1/other", "http://127.0.0.1@evil.example/back", "http://localhost:1234/back"):
        assert (await app.ask("patient/*.rs", redirect_uri=wrong)).status == 400


async def test_a_device_is_connected_by_a_code(people: People, visitor: Visitor, new_app: NewApp) -> None:
    who = await people.patient(visitor)
    app = await new_app()
    asked = (
        await app.post("/oauth2/device_authorization", {"scope": "launch/patient patient/*.rs offline_access"})
    ).json
    poll = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": asked["device_code"]}
    assert (await app.post("/oauth2/token", poll)).json["error"] == "authorization_pending"
    assert (await app.post("/oauth2/token", poll)).json["error"] == "slow_down"
    await visitor.get(asked["verification_uri_complete"])
    assert (await visitor.submit("/oauth2/device", user_code="BBBB-BBBB")).errors
    page = await visitor.submit("/oauth2/device", user_code=asked["user_code"].lower())
    assert page.title.startswith("Allow")
    page = await app.answer(page, "allow")
    assert page.title == "Your device is connected"
    token = await app.post("/oauth2/token", poll)
    assert token.json["patient"] == who.record
    assert token.json["refresh_token"]
    assert (await app.post("/oauth2/token", poll)).status == 400


async def test_a_device_is_told_of_a_no(people: People, visitor: Visitor, new_app: NewApp) -> None:
    await people.patient(visitor)
    app = await new_app()
    asked = (await app.post("/oauth2/device_authorization", {"scope": "launch/patient patient/*.rs"})).json
    await visitor.get("/oauth2/device")
    page = await visitor.submit("/oauth2/device", user_code=asked["user_code"])
    await app.answer(page, "refuse")
    poll = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": asked["device_code"]}
    assert (await app.post("/oauth2/token", poll)).json["error"] == "access_denied"


async def test_a_professional_chooses_a_patient(people: People, visitor: Visitor, new_app: NewApp) -> None:
    number = await people.hospital.registered()
    other = (await people.hospital.patient(await people.hospital.registered()))["id"]
    patient = await people.hospital.patient(number)
    await people.professional(visitor)
    app = await new_app()
    page = await app.ask("openid fhirUser launch/patient patient/*.rs")
    assert page.title.startswith("Whose record")
    reference = page.hidden()["reference"]
    page = await visitor.submit("/oauth2/authorize", reference=reference, answer="find", who=number)
    assert patient["id"] in page.text
    assert (
        "Choose a patient"
        in (await visitor.submit("/oauth2/authorize", reference=reference, answer="patient", who=number)).errors
    )
    page = await visitor.submit("/oauth2/authorize", reference=reference, answer="patient", patient=patient["id"])
    assert patient["name"][0]["family"] in page.text
    token = (await app.token(await app.answer(page, "allow"))).json
    assert token["patient"] == patient["id"]
    assert token["need_patient_banner"] is True
    assert (await app.fhir(token["access_token"], f"Patient/{patient['id']}")).status == 200
    assert (await app.fhir(token["access_token"], f"Patient/{other}")).status == 404
    claims = await id_token(visitor, token["id_token"])
    me = await app.fhir(token["access_token"], claims["fhirUser"].split("/fhir/R4/")[1])
    assert me.json["name"][0]["text"] == "Dr Ada Example"


async def test_user_scopes_are_for_all_that_the_person_may_see(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    one = (await people.hospital.patient(await people.hospital.registered()))["id"]
    two = (await people.hospital.patient(await people.hospital.registered()))["id"]
    await people.professional(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("user/*.rs"))).json["access_token"]
    for patient in (one, two):
        assert (await app.fhir(token, f"Patient/{patient}")).status == 200
    page = await app.ask("user/Patient.rs patient/Observation.rs")
    assert page.title.startswith("Whose record")
    page = await visitor.submit(
        "/oauth2/authorize", reference=page.hidden()["reference"], answer="patient", patient=one
    )
    token = (await app.token(await app.answer(page, "allow"))).json["access_token"]
    assert (await app.fhir(token, f"Patient/{two}")).status == 200
    await with_result(people, (await app.fhir(token, f"Patient/{two}")).json["identifier"][0]["value"])
    assert (await app.fhir(token, f"Observation?patient={two}")).json["total"] == 0


async def test_an_app_is_opened_from_the_account(
    people: People, visitor: Visitor, new_app: NewApp, new_visitor: NewVisitor
) -> None:
    who = await people.patient(visitor)
    app = await new_app(launch_uri="https://app.example/launch")
    await visitor.get("/account")
    page = await visitor.submit("/account/apps/open", client_id=app.client.client_id)
    assert page.url.startswith("https://app.example/launch?")
    assert page.query["iss"] == f"{visitor.base}/fhir/R4"
    stranger = new_visitor()
    await people.patient(stranger)
    stolen = App(app.client, stranger)
    assert (await stolen.ask("launch patient/*.rs", launch=page.query["launch"])).query["error"] == "invalid_request"
    back = await app.allow("launch openid patient/*.rs", launch=page.query["launch"])
    assert (await app.token(back)).json["patient"] == who.record
    assert (await app.ask("launch patient/*.rs", launch=page.query["launch"])).query["error"] == "invalid_request"


async def test_a_client_registers_itself_with_an_operators_token(
    people: People, visitor: Visitor, hospital: Hospital
) -> None:
    allowed = hospital.installation.cli(
        "client",
        "allow",
        "--organisation",
        hospital.ods_code,
        "--scope",
        "launch/patient patient/*.rs openid",
        "--json",
    )
    bearer = {"Authorization": f"Bearer {json.loads(allowed.stdout)['initial_access_token']}"}
    wanted = {"client_name": "Self made", "redirect_uris": [BACK], "token_endpoint_auth_method": "none",
              "grant_types": ["authorization_code", "refresh_token"], "scope": "patient/*.rs"}  # fmt: skip

    async def register(**more: Any) -> Any:
        return await hospital.request("POST", "/oauth2/register", json=wanted | more, headers=bearer)

    for more, error in (
        ({"redirect_uris": ["http://app.example/back"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"scope": "system/*.cruds"}, "invalid_client_metadata"),
        ({"grant_types": ["implicit"]}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "client_secret_jwt"}, "invalid_client_metadata"),
        ({"client_name": ""}, "invalid_client_metadata"),
        (
            {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://169.254.169.254/"},
            "invalid_client_metadata",
        ),
    ):
        reply = await register(**more)
        assert (reply.status, reply.json["error"]) == (400, error), reply.body
    made = await register()
    assert made.status == 201, made.body
    assert (await register()).status == 401
    await people.patient(visitor)
    app = App(registry.NewClient(made.json["client_id"], None, ""), visitor)
    assert (await app.token(await app.allow("patient/*.rs"))).status == 200
    assert (await hospital.request("POST", "/oauth2/register", json=wanted)).status == 401


async def test_who_only_asks_who_somebody_is_hears_of_no_record(
    people: People, visitor: Visitor, new_app: NewApp
) -> None:
    who = await people.patient(visitor)
    app = await new_app(public=False)
    for _ in range(2):
        token = (await app.token(await app.allow("openid email"))).json
        assert "patient" not in token
        assert who.record not in json.dumps(await id_token(visitor, token["id_token"]))
        assert (await app.fhir(token["access_token"], f"Patient/{who.record}")).status == 403


async def test_userinfo_is_about_who_allowed_it(people: People, visitor: Visitor, new_app: NewApp) -> None:
    who = await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("openid profile email launch/patient patient/*.rs"))).json
    async with visitor.http.get(
        f"{visitor.base}/oauth2/userinfo", headers={"Authorization": f"Bearer {token['access_token']}"}
    ) as answer:
        told = await answer.json()
    assert (told["email"], told["name"]) == (who.email, who.name)
    assert told["sub"] == (await id_token(visitor, token["id_token"]))["sub"]
    token = (await app.token(await app.allow("launch/patient patient/*.rs"))).json
    async with visitor.http.get(
        f"{visitor.base}/oauth2/userinfo", headers={"Authorization": f"Bearer {token['access_token']}"}
    ) as answer:
        assert answer.status == 403


async def test_reads_are_audited_with_the_person_and_the_app(
    people: People, visitor: Visitor, new_app: NewApp, pool: asyncpg.Pool
) -> None:
    who = await people.patient(visitor)
    app = await new_app()
    token = (await app.token(await app.allow("launch/patient patient/*.rs"))).json["access_token"]
    await app.fhir(token, f"Patient/{who.record}")
    actor = await pool.fetchval(
        "SELECT actor FROM audit WHERE patient_id = $1 ORDER BY id DESC LIMIT 1", uuid.UUID(who.record)
    )
    assert actor.startswith("account/")
    assert actor.endswith(f"client/{app.client.client_id}")
