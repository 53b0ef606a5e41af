"""What hostile readers tried against the patient's word, and what must not come of it."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.conftest import Reply, unique
from tests.functions.fhir_client import made, observation, send
from tests.sharing_kit import Item, Person, World, new_session

from carefolio.record import access_log, choosing_labels, decisions, glass, sharing
from carefolio.record.ids import derived
from carefolio.record.labels import GENERAL, LABELS, MENTAL, SEXUAL, SYSTEM
from carefolio.record.sharing import SharingError

_WHY = "found unconscious in A&E"


async def fhir(world: World, person: Person, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    sent = {"Authorization": f"Bearer {person.token()}", "Content-Type": "application/fhir+json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = json.dumps(body) if body is not None else None
    return await world.hospital.request(method, f"/fhir/R4/{path}", headers=sent, data=data)


async def status(world: World, name: str, path: str) -> int:
    return (await fhir(world, world.people[name], "GET", path)).status


def plain(world: World, label: str = GENERAL) -> Item:
    return next(each for each in world.items if each.label == label and not each.confidential and not each.delayed)


async def joined(world: World) -> uuid.UUID:
    """A second record of the same person, by the hospital."""
    other = uuid.UUID(await made(world.hospital, {"resourceType": "Patient", "identifier": [
        {"system": "urn:w", "value": unique("J")}]}))  # fmt: skip
    await decisions.join(world.pool, world.patient, other, "test")
    return other


async def parted(world: World) -> None:
    for row in await world.pool.fetch(
        "SELECT id FROM record_link WHERE undone_at IS NULL AND (survivor = $1 OR other = $1)", world.patient
    ):
        await decisions.undo(world.pool, row["id"], "test")
    await world.pool.execute("DELETE FROM sharing WHERE created_by = 'test'")


async def test_a_no_stays_a_no_whatever_a_joined_record_implies(world: World) -> None:
    await world.state("refused")
    item, other = plain(world), await joined(world)
    try:
        await world.pool.execute(
            """
            INSERT INTO sharing (record_id, grantee, role, kind, labels, contributed, created_by)
            VALUES ($1, $2, 'team', 'implied', $3, true, 'test')
            """,
            other, world.teams["b1"], list(LABELS),
        )  # fmt: skip
        assert await status(world, "member", f"Observation/{item.id}") == 404
        # Who he is, a team that contributed knows, also when the patient's yes has run out.
        assert await status(world, "member", f"Patient/{other}") == 200
    finally:
        await parted(world)


async def test_what_was_nobodys_is_his_when_it_says_so(world: World) -> None:
    await world.state("none")
    body = observation(str(world.patient), code=unique("N"))
    subject = body.pop("subject")
    number = await made(world.hospital, body)
    changed = await send(world.hospital, "PUT", f"Observation/{number}", body | {"id": number, "subject": subject})
    assert changed.status == 200, changed.body
    rows = await world.pool.fetch(
        "SELECT patient_id FROM resource WHERE id = $1 UNION ALL SELECT patient_id FROM resource_history WHERE id = $1",
        uuid.UUID(number),
    )
    assert [row["patient_id"] for row in rows] == [world.patient] * 2
    assert await status(world, "patient", f"Observation/{number}") == 200


async def test_nobody_takes_the_id_that_an_organisations_message_will_make(world: World) -> None:
    number = await world.hospital.registered()
    patient = (await world.hospital.patient(number))["id"]
    organisation = world.people["contributor"].organisation
    stranger = await made(world.other, {"resourceType": "Patient"})
    taken = derived("Condition", patient, str(organisation), "B20", "I10")
    squat = {"resourceType": "Condition", "id": str(taken), "subject": {"reference": f"Patient/{stranger}"},
             "code": {"text": "mine"}}  # fmt: skip
    assert (await send(world.other, "PUT", f"Condition/{taken}", squat)).status == 201
    message = "\n".join([
        f"MSH|^~\\&|LAB|X|||20260101120000||ADT^A28|{unique()}|P|2.4",
        f"PID|||{number}^^^NHS^NH||Load^Test||19700101|F",
        "DG1|1||B20^HIV disease^I10||20250101",
    ])  # fmt: skip
    row = await world.hospital.accepted(message)
    if row["status"] == "applied":
        kept = await world.pool.fetchval("SELECT content FROM resource WHERE id = $1", taken)
        assert "HIV" not in kept
    else:
        assert (row["status"], "another organisation" in row["reason"]) == ("held", True)


async def test_what_is_closed_is_not_read_by_writing(world: World) -> None:
    item, patch = plain(world), {"Content_Type": "application/json-patch+json"}
    await world.state("frozen")
    answered = await send(world.hospital, "PATCH", f"Observation/{item.id}", [], **patch)
    assert (answered.status, b"valueQuantity" in answered.body) == (403, False)
    await world.state("none")
    for method, path, body, expected in (
        ("PATCH", f"Observation/{item.id}", [], 404), ("PATCH", f"Observation/{uuid.uuid4()}", [], 404),
        ("DELETE", f"Observation/{item.id}", None, 204), ("DELETE", f"Observation/{uuid.uuid4()}", None, 204),
    ):  # fmt: skip
        headers = patch if method == "PATCH" else {}
        reply = await fhir(world, world.people["outsider"], method, path, body, **headers)
        assert (reply.status, b"valueQuantity" in reply.body) == (expected, False), (method, path, reply.body)
    assert await status(world, "contributor", f"Observation/{item.id}") == 200
    stranger, number = world.people["stranger"], uuid.UUID(item.id)
    own = stranger.own or uuid.uuid4()
    with pytest.raises(SharingError, match="no such item"):
        await choosing_labels.relabel(world.pool, stranger.reader(), own, "Observation", number, MENTAL)


@pytest.mark.parametrize(("column", "ago"), [("seen_at", "40 minutes"), ("created_at", "13 hours")])
async def test_a_glass_does_not_outlive_its_session(world: World, column: str, ago: str) -> None:
    await world.state("none")
    person = world.people["outsider"]
    session = await new_session(world.pool, person.account)
    first = await glass.break_glass(world.pool, person.reader(), world.patient, _WHY, session)
    assert await glass.break_glass(world.pool, person.reader(), world.patient, _WHY, session) == first
    assert await status(world, "outsider", f"Patient/{world.patient}") == 200
    await world.pool.execute(f"UPDATE session SET {column} = now() - interval '{ago}' WHERE number = $1", session)
    assert await status(world, "outsider", f"Patient/{world.patient}") == 404


async def test_masks_hold(world: World) -> None:
    """Against absolute references, against deletion, against patches that copy, against words."""
    await world.state("general")
    word = unique("secretword").lower()
    sensitive = {"meta": {"security": [{"system": SYSTEM, "code": SEXUAL}]}}
    extra = await made(world.hospital, observation(str(world.patient), code=unique("M"), **sensitive))
    base = world.hospital.installation.url
    report = {
        "resourceType": "DiagnosticReport", "status": "final", "code": {"text": "a panel"},
        "subject": {"reference": f"Patient/{world.patient}"},
        "result": [{"reference": f"{base}/fhir/R4/Observation/{extra}", "display": word}],
    }  # fmt: skip
    number = await made(world.hospital, report)
    await world.pool.execute("UPDATE resource SET team_id = $2 WHERE id = $1", uuid.UUID(extra), world.teams["a1"])
    await world.pool.execute("UPDATE resource SET team_id = $2 WHERE id = $1", uuid.UUID(number), world.teams["a2"])
    colleague = world.people["colleague"]
    for _ in range(2):
        read = await fhir(world, colleague, "GET", f"DiagnosticReport/{number}")
        assert (read.status, word in read.body.decode(), extra in read.body.decode()) == (200, False, False)
        copied = await fhir(
            world, colleague, "PATCH", f"DiagnosticReport/{number}",
            [{"op": "copy", "from": "/result/0/extension/0/valueCode", "path": "/conclusion"}],
            Content_Type="application/json-patch+json",
        )  # fmt: skip
        assert word not in copied.body.decode()
        refused = await fhir(
            world, colleague, "PATCH", f"DiagnosticReport/{number}",
            [{"op": "copy", "from": "/result/0/display", "path": "/conclusion"}],
            Content_Type="application/json-patch+json",
        )  # fmt: skip
        assert refused.status in (400, 422), refused.body
        kept = await world.pool.fetchval("SELECT content FROM resource WHERE id = $1", uuid.UUID(number))
        assert word in kept
        found = await fhir(world, colleague, "GET", f"DiagnosticReport?_content={word}&_id={number}")
        assert found.json["total"] == 0
        await send(world.hospital, "DELETE", f"Observation/{extra}")


async def test_labels_of_what_apps_write(world: World) -> None:
    """As of what hospitals send: the team's, the patient's word on it; medicines are general; nothing else is said."""
    await world.state("general")
    patient, member = world.people["patient"], world.people["member"]
    await choosing_labels.label_team(world.pool, patient.reader(), world.patient, world.teams["b1"], MENTAL)
    try:
        posted = await fhir(world, member, "POST", "Observation", observation(str(world.patient), code=unique("L")))
        assert posted.status == 201, posted.body
        assert posted.json["meta"]["security"] == [{"system": SYSTEM, "code": MENTAL}]
        medicine = {
            "resourceType": "MedicationRequest", "status": "active", "intent": "order",
            "subject": {"reference": f"Patient/{world.patient}"}, "medicationCodeableConcept": {"text": "x"},
            "meta": {"security": [{"system": SYSTEM, "code": SEXUAL}]},
        }  # fmt: skip
        asked = await fhir(world, member, "POST", "MedicationRequest", medicine)
        assert (asked.status, "security" in asked.json["meta"]) == (201, False), asked.body
        item = plain(world)
        shown = observation(str(world.patient), value=73, code=world.code, id=item.id,
                            meta={"security": [{"system": SYSTEM, "code": SEXUAL}]})  # fmt: skip
        put = await send(world.hospital, "PUT", f"Observation/{item.id}", shown)
        assert (put.status, "security" in put.json["meta"]) == (200, False), put.body
    finally:
        await choosing_labels.label_team(world.pool, patient.reader(), world.patient, world.teams["b1"], GENERAL)


async def test_what_is_included_is_audited(world: World) -> None:
    await world.state("all")
    member = world.people["member"]

    async def lines() -> int:
        return int(await world.pool.fetchval(
            "SELECT count(*) FROM audit WHERE patient_id = $1 AND actor LIKE 'account/' || $2 || '%'",
            world.patient, str(member.account),
        ))  # fmt: skip

    before = await lines()
    reply = await fhir(world, member, "GET", f"Observation?_id={plain(world).id}&_include=Observation:subject")
    assert len(reply.json["entry"]) == 2
    assert await lines() == before + 2


async def test_what_is_deleted_is_told_to_nobody_new(world: World) -> None:
    await world.state("all")
    restricted = {"meta": {"security": [{
        "system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]}}  # fmt: skip
    number = await made(world.hospital, observation(str(world.patient), code=unique("D")))
    assert await status(world, "carer", f"Observation/{number}") == 200
    changed = observation(str(world.patient), code=unique("D"), id=number, **restricted)
    assert (await send(world.hospital, "PUT", f"Observation/{number}", changed)).status == 200
    for path in (f"Observation/{number}", f"Observation/{number}/_history/1", f"Observation/{number}/_history"):
        assert await status(world, "carer", path) == 404, path
    assert (await send(world.hospital, "DELETE", f"Observation/{number}")).status == 204
    assert await status(world, "carer", f"Observation/{number}") == 404
    assert await status(world, "patient", f"Observation/{number}") == 410
    # A word on its label counts for its versions still.
    owner = world.people["patient"].reader()
    await choosing_labels.relabel(world.pool, owner, world.patient, "Observation", uuid.UUID(number), MENTAL)
    labels = await world.pool.fetch("SELECT label FROM resource_history WHERE id = $1", uuid.UUID(number))
    assert {row["label"] for row in labels} == {MENTAL}


async def test_who_else_sees_what_is_the_patients_affair(world: World) -> None:
    await world.state("general")
    patient = world.people["patient"]
    listed = await fhir(world, patient, "GET", f"Consent?patient={world.patient}")
    numbers = [each["resource"]["id"] for each in listed.json["entry"]]
    assert numbers
    for name in ("member", "carer", "individual"):
        assert await status(world, name, f"Consent/{numbers[0]}") == 404
    for method, body in (("PUT", listed.json["entry"][0]["resource"]), ("DELETE", None)):
        number = listed.json["entry"][0]["resource"]["id"]
        assert (await fhir(world, patient, method, f"Consent/{number}", body)).status == 422


async def test_the_answer_is_about_what_was_said(world: World) -> None:
    """Not about a glass of the same person; somebody who is gone can be refused; a date that passed leaves the tie."""
    await world.state("none")
    person, owner = world.people["individual"], world.people["patient"].reader()
    await glass.break_glass(world.pool, person.reader(), world.patient, _WHY, person.session)
    said = await sharing.share(world.pool, owner, world.patient, person.account, "professional", ())
    assert (said.kind, said.labels) == ("explicit", ())
    await sharing.share(world.pool, owner, world.patient, person.account, "professional", (GENERAL,))
    await world.pool.execute("UPDATE account SET ended_at = now() WHERE id = $1", person.account)
    try:
        assert await status(world, "individual", f"Observation/{plain(world).id}") == 404
        refused = await sharing.share(world.pool, owner, world.patient, person.account, "professional", ())
        assert refused.labels == ()
    finally:
        await world.pool.execute("UPDATE account SET ended_at = NULL WHERE id = $1", person.account)
    await world.state("general")
    await world.pool.execute("UPDATE sharing SET contributed = true, ends_at = now() WHERE grantee = $1",
                             world.teams["b1"])  # fmt: skip
    assert await status(world, "member", f"Patient/{world.patient}") == 200
    assert await status(world, "member", f"Observation/{plain(world).id}") == 404


async def test_a_glass_on_one_record_is_told_of_the_other(world: World) -> None:
    await world.state("none")
    other, person = await joined(world), world.people["outsider"]
    try:
        number = await made(world.hospital, observation(str(other), code=unique("G")))
        session = await new_session(world.pool, person.account)
        await glass.break_glass(world.pool, person.reader(), world.patient, _WHY, session)
        assert await status(world, "outsider", f"Observation/{number}") == 200
        log = await access_log.looks(world.pool, world.people["patient"].reader(), world.patient)
        mine = [each for each in log if each.who == "outsider" and each.action == "read"]
        assert mine[0].reason == _WHY
        found = await glass.report(world.pool, person.organisation or uuid.uuid4(),
                                   since=datetime.now(UTC) - timedelta(minutes=1))  # fmt: skip
        assert found[0]["looks"] >= 1
    finally:
        await parted(world)


async def test_a_freeze_waits_for_a_join_and_takes_both(world: World) -> None:
    await world.state("none")
    other = uuid.UUID(await made(world.hospital, {"resourceType": "Patient"}))
    async with world.pool.acquire() as joining, joining.transaction():
        await joining.execute("SELECT FROM record WHERE id = ANY($1) ORDER BY id FOR UPDATE", [world.patient, other])
        import asyncio

        freezing = asyncio.create_task(sharing.freeze(world.pool, "test", world.patient, "a court says so"))
        await asyncio.sleep(0.2)
        await joining.execute("UPDATE record SET person_id = $1 WHERE id = $2", world.patient, other)
    await freezing
    frozen = await world.pool.fetch("SELECT frozen_at FROM record WHERE id = ANY($1)", [world.patient, other])
    assert all(row["frozen_at"] for row in frozen)
    await sharing.unfreeze(world.pool, "test", world.patient)
    await world.pool.execute("UPDATE record SET person_id = id WHERE id = $1", other)


async def test_a_wrong_join_leaves_nothing_of_the_wrong_person(world: World) -> None:
    """What one patient said while another's record was joined to his, is not said of it when they are parted."""
    await world.state("general")
    patient, stranger = world.people["patient"].reader(), world.people["stranger"].reader()
    other, team = world.people["stranger"].own or uuid.uuid4(), world.teams["b1"]
    await sharing.share(world.pool, stranger, other, team, "team", ())
    await sharing.switch(world.pool, stranger, other, on=False)
    item = await made(world.other, observation(str(other), code=unique("X")))
    await world.pool.execute("UPDATE resource SET team_id = $2 WHERE id = $1", uuid.UUID(item), world.teams["b2"])
    await decisions.join(world.pool, world.patient, other, "test")
    try:
        await sharing.share(world.pool, patient, other, team, "team", LABELS)
        await sharing.switch(world.pool, patient, other, on=True)
        with pytest.raises(SharingError):
            await choosing_labels.relabel(world.pool, patient, other, "Observation", uuid.UUID(item), MENTAL)
        with pytest.raises(SharingError):
            await choosing_labels.label_team(world.pool, patient, other, team, MENTAL)
    finally:
        await parted(world)
    assert not await sharing.is_on(world.pool, other)
    await sharing.switch(world.pool, stranger, other, on=True)
    assert await status(world, "member", f"Observation/{item}") == 404
    assert {each.labels for each in await sharing.of_record(world.pool, stranger, other)} == {()}
    await world.pool.execute("UPDATE record SET sharing_off_at = NULL WHERE id = $1", world.patient)


async def test_what_parents_saw_ends_at_sixteen_though_nobody_knew_the_day(world: World) -> None:
    """Shared before his birth date was in the record: from his sixteenth birthday on the carer reads nothing."""
    await world.state("all")
    carer = world.people["carer"]
    bearer = {"Authorization": f"Bearer {carer.token()}"}
    paths = [f"/fhir/R4/Patient/{world.patient}", f"/fhir/R4/Observation/{world.items[0].id}"]
    await world.pool.execute(
        "UPDATE sharing SET created_at = now() - interval '3 years', ends_at = 'infinity' WHERE grantee = $1",
        carer.account,
    )
    for years, status in ((15, 200), (17, 404), (30, 200)):
        await world.aged(years)
        for path in paths:
            reply = await world.hospital.request("GET", path, headers=bearer)
            assert reply.status == status, (years, path)
    await world.aged(40)
