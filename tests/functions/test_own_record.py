"""REST: a record in words and as a PDF, a patient's own entries, corrections, messages with a team."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pypdf
import pytest
from tests.conftest import Reply, unique
from tests.functions.fhir_client import send
from tests.sharing_kit import Person, World

from carefolio.identity import teams
from carefolio.record import directory, sharing
from carefolio.record.labels import LABELS, SEXUAL


async def ask(world: World, who: Person, method: str, path: str, body: Any = None, scope: str = "") -> Reply:
    scopes = "patient/*.cruds patient/Correction.cr" if who.own else "user/*.cruds user/Correction.us"
    return await world.hospital.request(
        method, f"/api/v1{path}", data=json.dumps(body) if body is not None else None,
        headers={"Authorization": f"Bearer {who.token(scope or scopes)}"},
    )  # fmt: skip


async def test_own_entries_are_fhir_and_marked(world: World) -> None:
    """Measurements, symptoms, journal, files: written in plain words, kept as FHIR, read again in their sections."""
    await world.state("all")
    patient = world.people["patient"]
    said = {
        "measurements": {"kind": "blood-pressure", "values": ["128", "84"], "note": "sitting"},
        "symptoms": {"name": "Headache", "severity": 6},
        "journal": {"text": "Slept badly."},
        "files": {"title": "Letter", "data": base64.b64encode(b"%PDF-1.4 x").decode()},
    }
    found = {}
    for name, body in said.items():
        made = await ask(world, patient, "POST", f"/patients/me/{name}", body)
        assert made.status == 201, made.body
        found[name] = made.json["reference"]
        stored = await send(world.hospital, "GET", found[name],
            Authorization=f"Bearer {patient.token('patient/*.rs')}")  # fmt: skip
        assert [tag["code"] for tag in stored.json["meta"]["tag"]] == ["patient"]
    for section, name, title, value in (
        ("measurements", "measurements", "Blood pressure", "128/84 mmHg"),
        ("symptoms", "symptoms", "Headache", "How bad, from 0 to 10: 6"),
        ("journal", "journal", "Journal", "Slept badly."),
        ("documents", "files", "Letter", ""),
    ):
        listed = (await ask(world, patient, "GET", f"/patients/me/items?section={section}")).json["items"]
        [mine] = [each for each in listed if each["reference"] == found[name]]
        assert (mine["title"], mine["value"], mine["source"]) == (title, value, "the patient")
    tests = (await ask(world, patient, "GET", "/patients/me/items?section=tests&count=200")).json["items"]
    assert found["measurements"] not in {each["reference"] for each in tests}
    words = (await ask(world, patient, "GET", "/patients/me/items?words=slept%20BADLY")).json["items"]
    assert [each["reference"] for each in words] == [found["journal"]]


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("measurements", {"kind": "weight", "values": ["7100"]}, "values: Body weight"),
        ("measurements", {"kind": "weight", "values": ["71 kg"]}, "values: Body weight is a number"),
        ("measurements", {"kind": "weight", "values": ["71", "72"]}, "values: 1 number"),
        ("measurements", {"kind": "blood-pressure", "values": ["80", "120"]}, "values: the first"),
        ("measurements", {"kind": "weight", "values": ["71"], "at": "2999-01-01T00:00:00Z"}, "at: "),
        ("symptoms", {"name": "Cough", "severity": 11}, "severity"),
        ("journal", {"text": "   "}, "text: "),
        ("files", {"title": "x", "data": "????"}, "data: not base64"),
        ("files", {"title": "x", "data": base64.b64encode(b"<html><script>").decode()}, "file: a PDF"),
        ("files", {"title": "x", "data": base64.b64encode(b"\0" * 128 + b"DICM").decode()}, "file: scans"),
        ("files", {"title": "x", "data": base64.b64encode(b"MZ\x90\x00").decode()}, "file: a PDF"),
        ("corrections", {"item": "Observation/none", "text": "wrong"}, "item: "),
        ("corrections", {"item": "Nothing/none", "text": "wrong"}, "item: "),
    ],
)
async def test_what_is_refused_names_its_place(world: World, path: str, body: Any, place: str) -> None:
    """A slip of the finger is not written down, and the answer says which field."""
    await world.state("all")
    made = await ask(world, world.people["patient"], "POST", f"/patients/me/{path}", body)
    assert made.status in (404, 422), made.body
    assert made.json["detail"].startswith(place)


async def test_nobody_writes_as_a_patient_but_he(world: World) -> None:
    """Own entries are the patient's; another patient's token and a professional's write none."""
    await world.state("all")
    body = {"kind": "weight", "values": ["71"]}
    path = f"/patients/{world.patient}/measurements"
    for name in ("stranger", "carer", "member"):
        assert (await ask(world, world.people[name], "POST", path, body)).status in (403, 422), name


async def test_the_pdf_has_what_the_reader_sees_and_no_more(world: World) -> None:
    """The patient's has his items; a team's has those whose labels are shared; a stranger gets none."""
    await world.state("general")
    patient, member = world.people["patient"], world.people["member"]
    word = unique("Zebra")
    # A long word in a name, in letters beyond Latin-1.
    journal = await ask(world, patient, "POST", "/patients/me/journal", {"text": f"{word} ŵ Ł ‐ " + "x" * 3000})
    assert journal.status == 201
    item = journal.json["reference"].partition("/")[2]
    await world.pool.execute("UPDATE resource SET label = $2 WHERE id = $1::uuid", item, SEXUAL)
    for who, there in ((patient, True), (member, False)):
        got = await ask(world, who, "GET", f"/patients/{world.patient}/record.pdf")
        assert got.status == 200, got.body
        assert got.headers["Content-Type"] == "application/pdf"
        text = "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(got.body)).pages)
        assert (word in text) is there
        assert "Health record" in text
        assert "Made for" in text
    for name in ("stranger", "outsider"):
        assert (await ask(world, world.people[name], "GET", f"/patients/{world.patient}/record.pdf")).status == 404


async def test_a_correction_is_asked_for_answered_and_stands(world: World) -> None:
    """The organisation that sent the item answers once; others neither see nor answer it."""
    await world.state("all")
    patient, contributor = world.people["patient"], world.people["contributor"]
    item = next(each for each in world.items if each.label == "general" and not each.delayed)
    body = {"item": f"Observation/{item.id}", "text": "That was my brother."}
    made = await ask(world, patient, "POST", "/patients/me/corrections", body)
    assert made.status == 201, made.body
    number = made.json["id"]
    assert (await ask(world, contributor, "GET", "/corrections")).status == 403
    for name in ("contributor", "member"):
        await world.pool.execute(
            "UPDATE account SET roles = '{administrator}' WHERE id = $1", world.people[name].account
        )
    assert number in [each["id"] for each in (await ask(world, contributor, "GET", "/corrections")).json["corrections"]]
    other = (await ask(world, world.people["member"], "GET", "/corrections")).json["corrections"]
    assert number not in [each["id"] for each in other]
    answer = {"status": "refused", "answer": "The sample was yours: it was checked."}
    assert (await ask(world, world.people["member"], "PUT", f"/corrections/{number}", answer)).status == 404
    assert (await ask(world, contributor, "PUT", f"/corrections/{number}", answer)).status == 200
    assert (await ask(world, contributor, "PUT", f"/corrections/{number}", answer)).status == 404
    [mine] = [each for each in (await ask(world, patient, "GET", "/patients/me/corrections")).json["corrections"]
              if each["id"] == number]  # fmt: skip
    assert (mine["status"], mine["answer"]) == ("refused", answer["answer"])
    for name in ("stranger", "member", "carer"):
        path = f"/patients/{world.patient}/corrections"
        assert (await ask(world, world.people[name], "GET", path)).status == 403


async def test_a_patient_and_a_team_write_to_each_other(world: World) -> None:
    """What is written is in the record, under the team's label, and read by nobody else; a closed one stays closed."""
    await world.state("all")
    patient, member, outsider = (world.people[name] for name in ("patient", "member", "outsider"))
    said = {"team": str(world.teams["b1"]), "topic": "My tablets", "text": "May I take them in the evening?"}
    made = await ask(world, patient, "POST", "/patients/me/conversations", said)
    assert made.status == 201, made.body
    number = made.json["id"]
    inbox = (await ask(world, member, "GET", "/conversations")).json["conversations"]
    assert number in [each["id"] for each in inbox]
    assert number not in [each["id"] for each in (await ask(world, outsider, "GET", "/conversations")).json[
        "conversations"]]  # fmt: skip
    answered = await ask(world, member, "POST", f"/conversations/{number}/messages", {"text": "Yes."})
    assert answered.status == 201, answered.body
    assert answered.json["waits_for"] == "patient"
    for who in (patient, member):
        whole = (await ask(world, who, "GET", f"/conversations/{number}")).json
        assert [each["text"] for each in whole["messages"]] == [said["text"], "Yes."]
    for name in ("outsider", "stranger", "contributor"):
        status = (await ask(world, world.people[name], "GET", f"/conversations/{number}")).status
        assert status in (403, 404), name
        refused = await ask(world, world.people[name], "POST", f"/conversations/{number}/messages", {"text": "x"})
        assert refused.status in (403, 404), name
    assert (await ask(world, member, "POST", f"/conversations/{number}/close")).status == 204
    assert (await ask(world, patient, "POST", f"/conversations/{number}/messages", {"text": "x"})).status == 422
    # With whom nothing is shared nobody speaks; a no in between ends what the team reads.
    assert (await ask(world, patient, "POST", "/patients/me/conversations", said | {
        "team": str(world.teams["b2"])})).status == 422  # fmt: skip
    owner = patient.reader()
    await sharing.share(world.pool, owner, world.patient, world.teams["b1"], "team", ())
    whole = (await ask(world, member, "GET", f"/conversations/{number}")).json
    assert "Yes." in [each["text"] for each in whole["messages"]]
    assert said["text"] not in [each["text"] for each in whole["messages"]]
    await sharing.share(world.pool, owner, world.patient, world.teams["b1"], "team", LABELS)


async def test_teams_are_in_the_directory(world: World) -> None:
    """A CareTeam for a team, a PractitionerRole for a member; who leaves is not active any more."""
    await world.state("all")
    member = world.people["member"]
    team, organisation = world.teams["b1"], member.organisation
    assert organisation is not None
    await directory.publish(world.pool, team, "test")
    headers = {"Authorization": f"Bearer {member.token()}"}
    shown = await send(world.hospital, "GET", f"CareTeam/{team}", **headers)
    assert shown.status == 200, shown.body
    assert member.name in [each["member"]["display"] for each in shown.json["participant"]]
    number = directory.role_number(team, member.account)
    role = await send(world.hospital, "GET", f"PractitionerRole/{number}", **headers)
    assert role.json["active"] is True
    await teams.leave(world.pool, organisation, "test", team, member.account)
    await directory.publish(world.pool, team, "test", left=member.account)
    try:
        role = await send(world.hospital, "GET", f"PractitionerRole/{number}", **headers)
        assert role.json["active"] is False
        assert "participant" not in (await send(world.hospital, "GET", f"CareTeam/{team}", **headers)).json
    finally:
        await teams.join(world.pool, organisation, "test", team, member.account, coordinator=False)
