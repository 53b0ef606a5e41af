"""What carers, teams and administrators must not be able to do to a record, each tried as an attacker would."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.conftest import Hospital, NewHospital, Reply, nhs, unique
from tests.functions.fhir_client import observation, send
from tests.record.people import Person as Sent
from tests.sharing_kit import World

from carefolio.identity import accounts, tokens
from carefolio.identity.invitations import CaringOffer, Invitation
from carefolio.record import caring, decisions, entries, sharing
from carefolio.record.access import Reader
from carefolio.record.labels import GENERAL, LABELS, MENTAL, SEXUAL
from carefolio.record.sharing import SharingError


def carer_token(world: World, name: str, scope: str, patient: uuid.UUID | None = None) -> str:
    person = world.people[name]
    return tokens.issue("app", scope, account=person.account, record=person.own, patient=patient or world.patient)


async def rest(world: World, token: str, method: str, path: str, body: Any = None) -> Reply:
    return await world.hospital.request(
        method, f"/api/v1{path}", data=json.dumps(body) if body is not None else None,
        headers={"Authorization": f"Bearer {token}"},
    )  # fmt: skip


async def acting(world: World, name: str, labels: tuple[str, ...] = (GENERAL,)) -> None:
    await sharing.share(world.pool, world.people["patient"].reader(), world.patient, world.people[name].account,
                        "carer", labels, acts=True)  # fmt: skip


async def test_who_may_invite_a_patient(world: World) -> None:
    """A professional who does not see the record does not, nor to an address of his own; he never gets the code."""
    await world.state("all")
    number = nhs()
    await world.hospital.accepted(Sent(number=number).message("A28"))
    record = uuid.UUID((await world.hospital.patient(number))["id"])
    colleague = world.people["colleague"]
    await world.pool.execute("UPDATE account SET roles = '{}' WHERE id = $1", colleague.account)
    await world.pool.execute("UPDATE resource SET team_id = $2 WHERE patient_id = $1", record, world.teams["a1"])
    token = colleague.token("user/Invitation.cds")
    body = {"nhs_number": number, "email": "attacker@example.org"}
    assert (await rest(world, token, "POST", "/invitations", body)).status == 403
    assert (await rest(world, token, "POST", "/invitations", {"nhs_number": number})).status == 403
    member = world.people["contributor"]
    await world.pool.execute("UPDATE account SET roles = '{}' WHERE id = $1", member.account)
    token = member.token("user/Invitation.cds user/*.rs")
    assert (await rest(world, token, "POST", "/invitations", body)).status == 403
    # The record has no address.
    assert (await rest(world, token, "POST", "/invitations", {"nhs_number": number})).status == 422
    await world.pool.execute(
        'UPDATE resource SET content = replace(content, \'"name":\', \'"telecom": [{"system": "email",'
        ' "value": "real@example.org"}], "name":\') WHERE id = $1',
        record,
    )
    made = await rest(world, token, "POST", "/invitations", {"nhs_number": number})
    assert (made.status, made.json["code"]) == (201, ""), made.body
    assert await world.pool.fetchval("SELECT email FROM invitation WHERE record_id = $1", record) == "real@example.org"
    assert await world.pool.fetchval("SELECT count(*) FROM audit WHERE patient_id = $1 AND action = 'invite'", record)


async def test_an_organisation_does_not_overrule_a_childs_no(world: World) -> None:
    """Parents come by an administrator; whom the child refused does not come back; after 16 nobody comes."""
    await world.state("none")
    await world.aged(13)
    carer, owner = world.people["carer"], world.people["patient"].reader()
    found = await accounts.by_id(world.pool, carer.account)
    assert found is not None
    offer = CaringOffer(world.patient, tuple(LABELS), True, None, "account/x")
    organisation = world.people["contributor"].organisation
    invitation = Invitation(uuid.uuid4(), "carer", world.patient, organisation, (), "", None, offer)
    await sharing.share(world.pool, owner, world.patient, carer.account, "carer", ())
    async with world.pool.acquire() as connection:
        with pytest.raises(SharingError, match="said no"):
            async with connection.transaction():
                await caring.begin(connection, invitation, found)
        await world.pool.execute("DELETE FROM sharing WHERE record_id = $1", world.patient)
        await world.aged(17)
        with pytest.raises(SharingError, match="is 16"):
            async with connection.transaction():
                await caring.begin(connection, invitation, found)
    await world.aged(40)


async def test_a_carer_alone_is_no_organisation(world: World) -> None:
    """Without a chosen record he writes nothing: no Patient, nothing in the directory."""
    token = tokens.issue("app", "user/*.cruds", account=world.people["kin"].account)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
    for resource in (
        {"resourceType": "Patient", "identifier": [{"system": "https://fhir.nhs.uk/Id/nhs-number", "value": nhs()}]},
        {"resourceType": "Organization", "name": "Fake hospital"},
        observation(str(world.patient)),
    ):
        path = f"/fhir/R4/{resource['resourceType']}"
        reply = await world.hospital.request("POST", path, data=json.dumps(resource), headers=headers)
        assert reply.status == 403, reply.body


async def test_a_token_for_another_record_decides_nothing_of_ones_own(world: World) -> None:
    """It opens the one that was chosen, and that alone."""
    await world.state("all")
    token = carer_token(world, "carer", "patient/*.cruds patient/Sharing.ru patient/AccessLog.r patient/Correction.cr")
    for method, path, body in (
        ("GET", "/patients/me/access-log", None), ("GET", "/patients/me/sharings", None),
        ("GET", "/patients/me/corrections", None), ("GET", "/patients/me/conversations", None),
        ("PUT", "/patients/me/sharing", {"on": False}),
        ("POST", "/patients/me/carers", {"email": "x@example.org", "labels": [GENERAL]}),
    ):  # fmt: skip
        assert (await rest(world, token, method, path, body)).status == 404, path
    own = world.people["carer"].own
    assert (await rest(world, token, "PUT", f"/patients/{own}/sharing", {"on": False})).status == 403


async def test_what_a_carer_invited_to_while_records_were_joined_opens_nothing(world: World) -> None:
    """An invitation is to one's own record, whatever it is joined to at that moment."""
    await world.state("none")
    stranger = world.people["stranger"]
    assert stranger.own is not None
    link = await decisions.join(world.pool, world.patient, stranger.own, "test")
    try:
        token = stranger.token("patient/Sharing.ru")
        made = await rest(world, token, "POST", f"/patients/{world.patient}/carers",
                          {"email": f"{unique('k').lower()}@example.org", "labels": list(LABELS)})  # fmt: skip
        assert made.status == 201, made.body
        assert await world.pool.fetchval("SELECT record_id FROM invitation WHERE id = $1::uuid", made.json["id"]) == (
            stranger.own
        )
    finally:
        await decisions.undo(world.pool, link, "test")


async def test_corrections_and_conversations_tell_no_more_than_the_record(world: World) -> None:
    """A carer who sees general health does not read what was asked about, or written of, anything else."""
    await world.state("all")
    await acting(world, "carer")
    patient = world.people["patient"].token("patient/*.cruds patient/Correction.cr")
    item = next(each for each in world.items if each.label == SEXUAL and not each.delayed and each.confidential)
    asked = await rest(world, patient, "POST", "/patients/me/corrections",
                       {"item": f"Observation/{item.id}", "text": "I never had this test."})  # fmt: skip
    assert asked.status == 201, asked.body
    await world.pool.execute("UPDATE team SET label = $2 WHERE id = $1", world.teams["b1"], MENTAL)
    try:
        said = {"team": str(world.teams["b1"]), "topic": "My worries", "text": "I cannot sleep."}
        begun = await rest(world, patient, "POST", "/patients/me/conversations", said)
        assert begun.status == 201, begun.body
    finally:
        await world.pool.execute("UPDATE team SET label = 'general' WHERE id = $1", world.teams["b1"])
    carer = carer_token(world, "carer", "patient/*.cruds patient/Correction.cr")
    base, number = f"/patients/{world.patient}", begun.json["id"]
    told = (await rest(world, carer, "GET", f"{base}/corrections")).json["corrections"]
    assert asked.json["id"] not in [each["id"] for each in told]
    listed = (await rest(world, carer, "GET", f"{base}/conversations")).json["conversations"]
    assert number not in [each["id"] for each in listed]
    for method, path, body in (("GET", f"/conversations/{number}", None),
                               ("POST", f"/conversations/{number}/messages", {"text": "x"})):  # fmt: skip
        assert (await rest(world, carer, method, path, body)).status == 404
    # Frozen, nobody reads of it; nor the team's inbox after a no.
    member = world.people["member"].token("user/*.cruds")
    inbox = (await rest(world, member, "GET", "/conversations?all=true")).json["conversations"]
    assert number in [each["id"] for each in inbox]
    await sharing.share(world.pool, world.people["patient"].reader(), world.patient, world.teams["b1"], "team", ())
    inbox = (await rest(world, member, "GET", "/conversations?all=true")).json["conversations"]
    assert number not in [each["id"] for each in inbox]
    await sharing.freeze(world.pool, "account/officer", world.patient, "a court says so")
    for path in (f"{base}/corrections", f"{base}/conversations"):
        assert (await rest(world, carer, "GET", path)).status == 403
    await world.state("all")


async def test_nobody_speaks_in_a_conversation_by_fhir(world: World, new_hospital: NewHospital) -> None:
    """A Communication that says it belongs to it is not shown in it."""
    await world.state("all")
    patient = world.people["patient"].token("patient/*.cruds")
    begun = await rest(world, patient, "POST", "/patients/me/conversations",
                       {"team": str(world.teams["b1"]), "topic": "Tablets", "text": "How many?"})  # fmt: skip
    number = begun.json["id"]
    for payload in ([{"contentString": "Take ten."}], []):
        forged = {"resourceType": "Communication", "status": "completed",
                  "subject": {"reference": f"Patient/{world.patient}"},
                  "identifier": [{"system": "https://fhir.carefolio.uk/Id/conversation", "value": number}],
                  "sender": {"display": "Dr Forged, b1"}}  # fmt: skip
        made = await send(world.hospital, "POST", "Communication", forged | ({"payload": payload} if payload else {}))
        assert made.status == 201, made.body
    said = (await rest(world, patient, "GET", f"/conversations/{number}")).json["messages"]
    assert [each["text"] for each in said] == ["How many?"]


async def test_a_carer_changes_what_he_wrote_himself(world: World) -> None:
    """Not what the patient wrote, not who the patient is, not what he shares."""
    await world.state("all")
    await acting(world, "carer")
    mine = await entries.note_down(world.pool, Reader.of_person(
        world.people["patient"].account, None, world.patient, patient=world.patient), world.patient, "He hits me.",
    )  # fmt: skip
    token = carer_token(world, "carer", "patient/*.cruds")
    headers = {"Authorization": f"Bearer {token}"}
    other = observation(str(world.patient), id=mine.id)
    assert (await send(world.hospital, "PUT", f"Observation/{mine.id}", other, **headers)).status == 403
    assert (await send(world.hospital, "DELETE", f"Observation/{mine.id}", **headers)).status == 403
    who = {"resourceType": "Patient", "id": str(world.patient), "name": [{"family": "Other"}]}
    assert (await send(world.hospital, "PUT", f"Patient/{world.patient}", who, **headers)).status == 403
    own = await send(world.hospital, "POST", "Observation", observation(str(world.patient)), **headers)
    assert own.status == 201, own.body
    changed = observation(str(world.patient), value=72, id=own.json["id"])
    assert (await send(world.hospital, "PUT", f"Observation/{own.json['id']}", changed, **headers)).status == 200
    assert (await send(world.hospital, "DELETE", f"Observation/{own.json['id']}", **headers)).status == 204


async def test_words_do_not_find_what_is_masked(world: World) -> None:
    """What a reference to a closed item says is not searched either."""
    await world.state("general")
    word = unique("Ward").lower()
    hidden = {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"code": "IMP"},
        "subject": {"reference": f"Patient/{world.patient}"},
        "meta": {"security": [{"system": "https://fhir.carefolio.uk/CodeSystem/privacy-label", "code": MENTAL}]},
    }
    stay = await send(world.hospital, "POST", "Encounter", hidden)
    shown = observation(str(world.patient), encounter={"reference": f"Encounter/{stay.json['id']}", "display": word})
    assert (await send(world.hospital, "POST", "Observation", shown)).status == 201
    member = world.people["member"].token("user/*.rs")
    for text in (word, stay.json["id"]):
        found = await rest(world, member, "GET", f"/patients/{world.patient}/items?words={text}")
        assert found.json["items"] == [], found.body


async def test_an_administrator_gives_no_more_than_he_may(world: World) -> None:
    """Systems and trails are given by who is privacy officer too; a client gives at most what it has."""
    person = world.people["contributor"]
    token = person.token("user/Client.cds")
    for roles, status in (("{administrator}", 422), ("{administrator,privacy-officer}", 201)):
        await world.pool.execute("UPDATE account SET roles = $2::text::text[] WHERE id = $1", person.account, roles)
        for scope in ("system/*.rs", "system/Audit.s"):
            made = await rest(world, token, "POST", "/clients", {"name": "x", "scope": scope})
            assert made.status == status, (roles, scope, made.body)
    client = tokens.issue("app", "system/Client.cds", organisation=person.organisation)
    made = await rest(world, client, "POST", "/clients", {"name": "x", "scope": "system/*.cruds"})
    assert made.status == 422, made.body


async def test_the_directorys_numbers_are_not_taken(world: World) -> None:
    """Neither a team's, nor a professional's."""
    person = world.people["member"]
    for kind, number in (("Practitioner", person.account), ("CareTeam", world.teams["b2"])):
        squat = {"resourceType": kind, "id": str(number)}
        reply = await send(world.hospital, "PUT", f"{kind}/{number}", squat)
        assert reply.status == 403, reply.body


async def test_dates_and_words_of_any_size_are_printed(world: World) -> None:
    """The first and last moments of FHIR, and a word of a page."""
    await world.state("all")
    for more in ({"effectiveDateTime": "0001-01-01T00:00:00+14:00"}, {"effectiveDateTime": "9999-12-31T23:59:59-12:00"},
                 {"valueString": "x" * 200_000, "value": None}):  # fmt: skip
        made = {name: value for name, value in (observation(str(world.patient)) | more).items() if value is not None}
        if "valueString" in made:
            made.pop("valueQuantity", None)
        reply = await send(world.hospital, "POST", "Observation", made)
        assert reply.status == 201, reply.body
    patient = world.people["patient"].token("patient/*.rs")
    before = datetime.now(UTC)
    printed = await rest(world, patient, "GET", "/patients/me/record.pdf")
    assert printed.status == 200, printed.body
    assert (datetime.now(UTC) - before).total_seconds() < 30
    assert (await rest(world, patient, "GET", "/patients/me/items?count=200")).status == 200
    bad = await rest(world, world.people["patient"].token("patient/*.cruds"), "POST", "/patients/me/files",
                     {"title": "x", "data": "aGk=é"})  # fmt: skip
    assert bad.status == 422


async def test_a_purge_leaves_nothing(new_hospital: NewHospital) -> None:
    """What an app changed since must be named; what a message wrote does not come back; numbers lead nowhere."""
    hospital: Hospital = await new_hospital(scope="system/*.cruds system/Purge.cs")
    person, local = Sent(number=nhs()), unique("L")
    await hospital.accepted(person.message("A28"))
    record = (await hospital.patient(person.number))["id"]
    row = await hospital.accepted(person.result(unique("F"), "141"))
    [found] = await hospital.search(f"Observation?subject={record}")
    found["note"] = [{"text": "seen"}]
    assert (await send(hospital, "PUT", f"Observation/{found['id']}", found)).status == 200
    body = {"patient": record, "reason": "results of another patient", "messages": [str(row["id"])]}
    headers = {"Authorization": f"Bearer {await hospital.authorize()}"}

    async def purge(**more: Any) -> Reply:
        return await hospital.request("POST", "/api/v1/purges", data=json.dumps(body | more), headers=headers)

    refused = await purge()
    assert (refused.status, found["id"] in refused.json["detail"]) == (409, True), refused.body
    assert (await purge(messages=[], items=[f"Observation/{found['id']}"])).status == 409
    assert (await purge(items=[f"Observation/{found['id']}"])).status == 201
    assert (await hospital.get(f"Observation/{found['id']}")).status == 410
    wrong = await hospital.accepted(Sent(number=person.number, local=local).message("A31"))
    assert (await purge(messages=[str(wrong["id"])])).status == 201
    assert (await hospital.get(f"Observation/{found['id']}")).status == 410
    alone = await hospital.accepted(Sent(local=local).result(unique("F"), "150"))
    assert alone["status"] == "held"
    # His own number, which other messages say too, still leads to him.
    assert (await hospital.accepted(person.result(unique("F"), "133")))["status"] == "applied"
