"""The REST API as its callers see it: sharing, glass, freeze, access log, patients, teams; and what it refuses."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from tests.conftest import NewHospital, Reply, nhs, unique
from tests.sharing_kit import Person, World

from carefolio.identity import tokens
from carefolio.local import load
from carefolio.record.labels import GENERAL, LABELS, MENTAL

_PATIENT = "patient/Sharing.ru patient/AccessLog.r"
_PROFESSIONAL = "user/Patient.s user/Glass.cs user/Freeze.ud user/Team.crus"


async def ask(world: World, token: str, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    sent = {"Authorization": f"Bearer {token}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    data = json.dumps(body) if body is not None else None
    return await world.hospital.request(method, f"/api/v1{path}", data=data, headers=sent)


async def granted(world: World, person: Person) -> str:
    """A token whose app lives in the person's session."""
    grant = uuid.uuid4()
    client = world.hospital.client["client_id"]
    await world.pool.execute(
        """
        INSERT INTO app_grant (id, account_id, client_id, scope, session_id, methods, level, authenticated_at,
                               expires_at)
        VALUES ($1, $2, $3, '', (SELECT id FROM session WHERE number = $4), '{}', 'strong', now(),
                now() + interval '1 hour')
        """,
        grant, person.account, client, person.session,
    )  # fmt: skip
    return person.token(_PROFESSIONAL, grant)


async def test_a_patient_shares_and_stops(world: World) -> None:
    """Share, see who sees what, change, stop, stop altogether."""
    await world.state("none")
    token, team = world.people["patient"].token(_PATIENT), world.teams["b1"]
    one = f"/patients/me/sharings/{team}"
    shared = await ask(world, token, "PUT", one, {"role": "team", "labels": [MENTAL, GENERAL]})
    assert (shared.status, shared.json["labels"], shared.json["name"]) == (200, [GENERAL, MENTAL], "b1"), shared.body
    listed = await ask(world, token, "GET", f"/patients/{world.patient}/sharings")
    assert listed.json["on"]
    assert [each["grantee"] for each in listed.json["sharings"]] == [str(team)]
    unchanged = await ask(world, token, "GET", f"/patients/{world.patient}/sharings",
                          If_None_Match=listed.headers["ETag"])  # fmt: skip
    assert unchanged.status == 304
    assert (await ask(world, token, "DELETE", one)).status == 204
    [refused] = (await ask(world, token, "GET", "/patients/me/sharings")).json["sharings"]
    assert refused["labels"] == []
    assert (await ask(world, token, "DELETE", f"/patients/me/sharings/{uuid.uuid4()}")).status == 404
    assert (await ask(world, token, "PUT", "/patients/me/sharing", {"on": False})).status == 204
    assert not (await ask(world, token, "GET", "/patients/me/sharings")).json["on"]
    assert (await ask(world, token, "PUT", "/patients/me/sharing", {"on": True})).status == 204
    item = next(each for each in world.items if each.label == GENERAL and not each.delayed)
    for label in (MENTAL, GENERAL):
        path = f"/patients/me/items/Observation/{item.id}/label"
        assert (await ask(world, token, "PUT", path, {"label": label})).status == 204
    assert (await ask(world, token, "PUT", f"/patients/me/team-labels/{team}", {"label": MENTAL})).status == 204


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"role": "team"}, "labels"),
        ({"role": "friend", "labels": []}, "role"),
        ({"role": "team", "labels": ["secret"]}, "labels.0"),
        ({"role": "team", "labels": [], "until": "yesterday"}, "until"),
        ({"role": "team", "labels": [], "until": "2020-01-01T00:00:00Z"}, "until"),
        ({"role": "carer", "labels": [GENERAL], "confidential": True}, "confidential"),
        ({"role": "team", "labels": [], "more": 1}, "more"),
        ([], "the body"),
    ],
)
async def test_what_is_wrong_is_named(world: World, body: Any, place: str) -> None:
    """422, application/problem+json, and the place."""
    token = world.people["patient"].token(_PATIENT)
    reply = await ask(world, token, "PUT", f"/patients/me/sharings/{world.teams['b1']}", body)
    assert (reply.status, reply.headers["Content-Type"]) == (422, "application/problem+json")
    assert reply.json["detail"].startswith(place), reply.json


async def test_a_professional_sees_whom_he_may(world: World) -> None:
    """The list of patients, in pages; what a broken glass adds; the officer's report; the letter of the log."""
    await world.state("none")
    member = world.people["member"]
    token = await granted(world, member)

    async def listed() -> set[str]:
        found: set[str] = set()
        path = "/patients?count=1"
        while path:
            reply = await ask(world, token, "GET", path)
            assert reply.status == 200, reply.body
            found |= {each["id"] for each in reply.json["patients"]}
            path = f"/patients?count=1&cursor={reply.json['next']}" if reply.json["next"] else ""
        return found

    assert str(world.patient) not in await listed()
    await world.state("general")
    assert str(world.patient) in await listed()
    await world.state("none")
    broken = await ask(
        world, token, "POST", f"/patients/{world.patient}/glass", {"reason": "found unconscious at home"}
    )
    assert broken.status == 201, broken.body
    assert str(world.patient) in await listed()
    # An app that goes on without him cannot.
    without = await ask(world, member.token(_PROFESSIONAL), "POST", f"/patients/{world.patient}/glass",
                        {"reason": "found unconscious at home"})  # fmt: skip
    assert without.status == 403
    assert (await ask(world, token, "GET", "/glasses")).status == 403
    await world.pool.execute("UPDATE account SET roles = '{privacy-officer}' WHERE id = $1", member.account)
    report = await ask(world, token, "GET", "/glasses?days=1")
    assert {"found unconscious at home"} <= {each["reason"] for each in report.json["glasses"]}
    assert (await ask(world, token, "GET", "/glasses?days=x")).status == 422
    odd = await ask(world, token, "GET", "/findings?many=1&days=2")
    assert {"many patients in a day"} <= {each["what"] for each in odd.json["findings"]}, odd.body
    await world.pool.execute(
        "UPDATE resource SET content = jsonb_set(content::jsonb, '{name}', $2::text::jsonb)::text WHERE id = $1",
        world.patient,
        '[{"given": ["A."], "family": "Member"}]',
    )
    odd = await ask(world, token, "GET", "/findings")
    assert (str(world.patient), "a patient with his own name") in {
        (each["patient"], each["what"]) for each in odd.json["findings"]
    }
    assert (await ask(world, token, "GET", "/findings?many=0")).status == 422
    # The patient reads who, and why.
    patient = world.people["patient"].token(_PATIENT)
    log = await ask(world, patient, "GET", "/patients/me/access-log?count=200")
    mine = [each for each in log.json["looks"] if each["who"] == "member"]
    assert {"break-glass", "refused", "looked up"} <= {each["action"] for each in mine}
    assert any(each["reason"] == "found unconscious at home" for each in mine)
    assert not any(each["own"] for each in log.json["looks"])
    everything = await ask(world, patient, "GET", "/patients/me/access-log?count=200&own=true")
    assert any(each["own"] for each in everything.json["looks"])


async def test_an_officer_closes_a_record(world: World) -> None:
    """Of an organisation that contributes, and no other; to the patient as well, until it is opened again."""
    await world.state("all")
    officer, stranger = world.people["contributor"], world.people["outsider"]
    patient = world.people["patient"].token(_PATIENT)
    path, why = f"/patients/{world.patient}/freeze", {"reason": "a court says so"}
    assert (await ask(world, officer.token(_PROFESSIONAL), "PUT", path, why)).status == 403
    await world.pool.execute(
        "UPDATE account SET roles = '{privacy-officer}' WHERE id = ANY($1)", [officer.account, stranger.account]
    )
    assert (await ask(world, stranger.token(_PROFESSIONAL), "PUT", path, why)).status == 403
    assert (await ask(world, officer.token(_PROFESSIONAL), "PUT", path, why)).status == 204
    assert (await ask(world, patient, "GET", "/patients/me/sharings")).status == 403
    # Who closed it opens it: an officer of another organisation does not, though it contributes too.
    await world.pool.execute("UPDATE record SET frozen_by = $2 WHERE id = $1", world.patient,
                             f"account/{stranger.account}")  # fmt: skip
    assert (await ask(world, officer.token(_PROFESSIONAL), "DELETE", path)).status == 403
    await world.pool.execute("UPDATE record SET frozen_by = $2 WHERE id = $1", world.patient,
                             f"account/{officer.account}")  # fmt: skip
    assert (await ask(world, officer.token(_PROFESSIONAL), "DELETE", path)).status == 204
    assert (await ask(world, patient, "GET", "/patients/me/sharings")).status == 200


async def test_teams_and_their_people(world: World) -> None:
    """An administrator makes teams, a coordinator says who is in his; membership counts from the next request on."""
    await world.state("general")
    administrator, outsider = world.people["individual"], world.people["outsider"]
    token = administrator.token(_PROFESSIONAL)
    assert (await ask(world, token, "POST", "/teams", {"name": "Renal"})).status == 403
    await world.pool.execute("UPDATE account SET roles = '{administrator}' WHERE id = $1", administrator.account)
    made = await ask(world, token, "POST", "/teams", {"name": "Renal", "labels": [GENERAL, MENTAL]},
                     Idempotency_Key="k1")  # fmt: skip
    again = await ask(world, token, "POST", "/teams", {"name": "Renal", "labels": [GENERAL, MENTAL]},
                      Idempotency_Key="k1")  # fmt: skip
    assert (made.status, again.status, made.json) == (201, 201, again.json), again.body
    other = await ask(world, token, "POST", "/teams", {"name": "Other"}, Idempotency_Key="k1")
    assert other.status == 422
    assert (await ask(world, token, "POST", "/teams", {"name": "Renal"})).status == 422
    assert "Renal" in [each["name"] for each in (await ask(world, token, "GET", "/teams")).json["teams"]]
    changed = await ask(world, token, "PUT", f"/teams/{made.json['id']}", {"label": MENTAL, "labels": list(LABELS)})
    assert (changed.status, changed.json["label"]) == (200, MENTAL)
    bearer = {"Authorization": f"Bearer {outsider.token()}"}
    path = f"/fhir/R4/Patient/{world.patient}"
    assert (await world.hospital.request("GET", path, headers=bearer)).status == 404
    place = f"/teams/{world.teams['b1']}/members/{outsider.account}"
    assert (await ask(world, token, "PUT", place, {"coordinator": True})).status == 204
    assert (await world.hospital.request("GET", path, headers=bearer)).status == 200
    # A coordinator may, in his own team.
    coordinator = outsider.token(_PROFESSIONAL)
    member = f"/teams/{world.teams['b1']}/members/{administrator.account}"
    assert (await ask(world, coordinator, "PUT", member, {})).status == 204
    assert (
        await ask(world, coordinator, "PUT", member.replace(str(world.teams["b1"]), made.json["id"]), {})
    ).status == 403
    names = [each["name"] for each in (
        await ask(world, coordinator, "GET", f"/teams/{world.teams['b1']}/members")).json["members"]]  # fmt: skip
    assert {"individual", "outsider", "member"} <= set(names)
    for each in (member, place):
        assert (await ask(world, token, "DELETE", each)).status == 204
    assert (await world.hospital.request("GET", path, headers=bearer)).status == 404
    assert (await ask(world, token, "DELETE", place)).status == 404
    assert (await ask(world, token, "PUT", f"/teams/{world.teams['a1']}/members/{outsider.account}", {})).status == 404
    assert (await ask(world, token, "PUT", f"/accounts/{outsider.account}/roles", {"roles": []})).status == 204


async def test_manipulated_requests_are_refused(world: World) -> None:
    """Another's record, another's cursor, another client's scope, a token that was changed: each refused, and noted."""
    await world.state("general")
    patient, stranger, member = (world.people[name] for name in ("patient", "stranger", "member"))
    await world.pool.execute("UPDATE account SET roles = '{}' WHERE id = $1", member.account)
    before = await world.pool.fetchval("SELECT count(*) FROM audit WHERE action = 'refused'")
    mine, others = patient.token(_PATIENT), stranger.token(_PATIENT)
    of = f"/patients/{world.patient}"
    share = {"role": "team", "labels": [GENERAL]}
    refused = [
        (others, "GET", f"{of}/sharings", None),
        (others, "PUT", f"{of}/sharings/{world.teams['b1']}", share),
        (others, "DELETE", f"{of}/sharings/{world.teams['b1']}", None),
        (others, "PUT", f"{of}/sharing", {"on": False}),
        (others, "PUT", f"{of}/items/Observation/{world.items[0].id}/label", {"label": GENERAL}),
        (others, "PUT", f"{of}/team-labels/{world.teams['b1']}", {"label": GENERAL}),
        (others, "GET", f"{of}/access-log", None),
        (member.token("user/Sharing.ru"), "GET", f"{of}/sharings", None),
        (member.token("user/AccessLog.r"), "GET", f"{of}/access-log", None),
        (patient.token("patient/Glass.c"), "POST", f"{of}/glass", {"reason": "I want to see it"}),
        (patient.token("patient/Freeze.u"), "PUT", f"{of}/freeze", {"reason": "I want it closed"}),
        (tokens.issue("app", "system/Sharing.ru", organisation=uuid.uuid4()), "GET", f"{of}/sharings", None),
        (patient.token("patient/AccessLog.r"), "GET", f"{of}/sharings", None),
        (others, "GET", f"{of}/carers", None),
        (others, "POST", f"{of}/carers", {"email": "kin@example.org", "labels": [GENERAL]}),
        (others, "DELETE", f"{of}/carers/{uuid.uuid4()}", None),
        (stranger.token("patient/*.cruds"), "POST", f"{of}/measurements", {"kind": "weight", "values": ["70"]}),
        (stranger.token("patient/*.cruds"), "POST", f"{of}/journal", {"text": "not his"}),
        (stranger.token("patient/*.cruds"), "POST", f"{of}/symptoms", {"name": "not his"}),
        (stranger.token("patient/*.cruds"), "POST", f"{of}/files", {"title": "x", "data": "JVBERi0="}),
        (member.token("user/*.cruds"), "POST", f"{of}/measurements", {"kind": "weight", "values": ["70"]}),
        (stranger.token("patient/Correction.cr"), "GET", f"{of}/corrections", None),
        (stranger.token("patient/Correction.cr"), "POST", f"{of}/corrections", {"item": "Observation/1", "text": "x"}),
        (member.token("user/Correction.us"), "GET", "/corrections", None),
        (stranger.token("patient/*.cruds"), "GET", f"{of}/conversations", None),
        (
            stranger.token("patient/*.cruds"),
            "POST",
            f"{of}/conversations",
            {"team": str(world.teams["b1"]), "topic": "x", "text": "x"},
        ),
        (
            member.token("user/*.cruds"),
            "POST",
            f"{of}/conversations",
            {"team": str(world.teams["a1"]), "topic": "x", "text": "x"},
        ),
        (member.token("user/Audit.s"), "GET", f"/audit?patient={world.patient}", None),
        (
            member.token("user/Purge.cs"),
            "POST",
            "/purges",
            {"patient": str(world.patient), "reason": "to hide what I did", "messages": [str(uuid.uuid4())]},
        ),
        (member.token("user/Client.cds"), "POST", "/clients", {"name": "x", "scope": "system/*.cruds"}),
        (member.token("user/Sender.crus"), "GET", "/senders", None),
        (member.token("user/Trace.cs"), "POST", f"{of}/trace", None),
        (member.token("user/Join.cds"), "POST", "/joins", {"survivor": str(world.patient), "other": str(stranger.own)}),
        (member.token("user/Invitation.cds"), "POST", "/invitations", {"name": "Me Too", "email": "me@example.org"}),
    ]
    for token, method, path, body in refused:
        reply = await ask(world, token, method, path, body)
        assert (reply.status, reply.headers["Content-Type"]) == (403, "application/problem+json"), (path, reply.body)
    noted = await world.pool.fetchval("SELECT count(*) FROM audit WHERE action = 'refused'")
    assert noted - before == len(refused)
    for token, status in ((mine[:-4] + "AAAA", 401), ("", 401), (patient.token("patient/AccessLog.r"), 403)):
        assert (await ask(world, token, "GET", f"{of}/sharings")).status == status
    page = await ask(world, mine, "GET", "/patients/me/access-log?count=1&own=true")
    cursor = page.json["next"]
    assert (await ask(world, mine, "GET", f"/patients/me/access-log?count=1&own=true&cursor={cursor}")).status == 200
    for token, path in ((others, "/patients/me/access-log"), (mine, f"{of}/access-log")):
        reply = await ask(world, token, "GET", f"{path}?cursor={cursor}")
        assert reply.status == 422, reply.body
    for path in ("/patients/me/access-log?cursor=x", "/patients/me/access-log?count=0", "/patients/me/sharings?x=1"):
        assert (await ask(world, mine, "GET", path)).status == 422
    assert (await ask(world, member.token("user/Sharing.ru"), "GET", "/patients/me/sharings")).status == 403
    assert (await ask(world, mine, "GET", "/patients/none/sharings")).status == 404


async def test_the_document_is_what_there_is(world: World) -> None:
    """OpenAPI 3.1, and a page; every operation of it is there."""
    reply = await world.hospital.request("GET", "/api/v1/openapi.json")
    document = reply.json
    assert document["openapi"].startswith("3.1")
    assert len(document["paths"]) > 20
    for path, operations in document["paths"].items():
        for method in operations:
            found = await world.hospital.request(method.upper(), path.replace("{", "").replace("}", ""))
            assert found.status == 401, (method, path, found.status)
    page = await world.hospital.request("GET", "/api/v1")
    assert b"<h1>Carefolio REST API</h1>" in page.body
    assert b"/patients/{patient}/access-log" in page.body


async def test_an_organisation_works_its_queue(world: World, new_hospital: NewHospital) -> None:
    """Held messages, what they ask, yes and no, and to whom they belong; nobody else's."""
    hospital = await new_hospital(scope="system/*.rs system/Message.rus")
    token = await hospital.authorize()
    number = nhs()
    born = load.registration(number, unique())
    assert (await hospital.accepted(born))["status"] == "applied"
    held = []
    for _ in range(2):
        text = load.registration(number, unique()).decode().replace("A28", "A08")
        parts = [line.split("|") for line in text.split("\r")]
        for part in parts:
            if part[0] == "PID":
                part[7] = "19010203"
        row = await hospital.accepted("\r".join("|".join(part) for part in parts).encode())
        assert row["status"] == "held", row["reason"]
        held.append(row)
    listed = await ask(world, token, "GET", "/messages?status=held&count=1")
    assert [each["id"] for each in listed.json["messages"]] == [str(held[1]["id"])], listed.body
    following = await ask(world, token, "GET", f"/messages?status=held&count=1&cursor={listed.json['next']}")
    assert [each["id"] for each in following.json["messages"]] == [str(held[0]["id"])]
    whole = await ask(world, token, "GET", f"/messages/{held[0]['id']}")
    assert whole.json["raw"].startswith("MSH|")
    assert (await ask(world, token, "GET", "/messages?status=odd")).status == 422
    other = tokens.issue("app", "system/Message.rus", organisation=world.people["member"].organisation)
    for path in (f"/messages/{held[0]['id']}/approve", f"/messages/{held[0]['id']}/reject"):
        assert (await ask(world, other, "POST", path)).status == 404
    move = f"/messages/{held[0]['id']}/move"
    assert (await ask(world, other, "POST", move, {"patient": str(world.patient)})).status == 404
    assert (await ask(world, other, "GET", f"/messages/{held[0]['id']}")).status == 404
    person = world.people["contributor"].token("user/Message.rus")
    await world.pool.execute("UPDATE account SET roles = '{}' WHERE id = $1", world.people["contributor"].account)
    assert (await ask(world, person, "GET", "/messages")).status == 403
    rejected = await ask(world, token, "POST", f"/messages/{held[0]['id']}/reject")
    assert (rejected.status, "birth" in rejected.json["reason"]) == (200, True), rejected.body
    assert (await ask(world, token, "POST", f"/messages/{held[0]['id']}/approve")).status == 409
    assert (await ask(world, token, "POST", move, {"patient": str(uuid.uuid4())})).status == 409
