"""Who reads what: every reader, relation, sharing state, label, glass and age, at every door of the FHIR API.

The oracle below restates the rule (domain notes A8) in Python, by itself.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.conftest import unique
from tests.functions.fhir_client import made, observation, send
from tests.sharing_kit import Item, Person, World, new_session

from carefolio.identity import webhooks
from carefolio.record import (
    access,
    changes,
    choosing_labels,
    finding,
    glass,
    includes,
    notifications,
    reading,
    search,
    sharing,
)
from carefolio.record.labels import GENERAL, LABELS, MENTAL, SEXUAL
from carefolio.record.sharing import SharingError

STATES = ("none", "all", "general", "sensitive", "refused", "ended", "off", "frozen", "confidential")


def allowed(item: Item, reader: str, state: str, age: int, broken: bool) -> bool:
    """The rule for one item, as domain notes A8 say it."""
    if state == "frozen":
        return False
    if reader == "patient":
        return not item.delayed
    if reader == "contributor":
        return True
    if reader in ("stranger", "colleague", "outsider") and not broken:
        return False
    if state == "off":
        return False
    if broken:
        return True
    granted = {"all": LABELS, "general": (GENERAL,), "sensitive": (MENTAL, SEXUAL), "confidential": LABELS}
    if item.label not in granted.get(state, ()):
        return False
    if reader in ("carer", "kin"):
        return not item.delayed and not item.confidential and not (item.label == SEXUAL and 11 <= age < 16)
    return not item.confidential or state == "confidential"


def sees_patient(reader: str, state: str, broken: bool) -> bool:
    if state == "frozen":
        return False
    if reader in ("patient", "contributor"):
        return True
    if state == "off":
        return False
    return broken or (reader in ("member", "individual", "carer", "kin")
                      and state in ("all", "general", "sensitive", "confidential"))  # fmt: skip


def cases() -> Iterator[tuple[str, str, int, bool]]:
    for state in STATES:
        for reader in ("patient", "stranger", "contributor", "colleague", "member", "outsider", "individual"):
            yield reader, state, 40, False
        for age in (5, 13, 17):
            yield "carer", state, age, False
        yield "kin", state, 13, False
        for reader in ("colleague", "outsider", "member"):
            yield reader, state, 40, True


@pytest.mark.parametrize("state", STATES)
async def test_every_reader_at_every_door(world: World, state: str) -> None:
    """Every reader sees what the rule opens to him, and neither a hint nor a number of anything else."""
    for reader, of_state, age, broken in cases():
        if of_state != state:
            continue
        await world.state("all" if broken and state in ("off", "frozen") else state)
        person = world.people[reader]
        await world.aged(age)
        if broken:
            await glass.break_glass(
                world.pool, person.reader(), world.patient, "found unconscious in A&E", person.session
            )
            if state == "off":
                await sharing.switch(world.pool, world.people["patient"].reader(), world.patient, on=False)
            if state == "frozen":
                await sharing.freeze(world.pool, "account/officer", world.patient, "a court says so")
        expected = {item.id for item in world.items if allowed(item, reader, state, age, broken)}
        await _at_every_door(
            world, person, expected, sees_patient(reader, state, broken), f"{reader} {state} {age} {broken}"
        )


async def _at_every_door(world: World, person: Person, expected: set[str], visible: bool, case: str) -> None:
    token = person.token()

    async def get(path: str) -> Any:
        return await world.hospital.request("GET", f"/fhir/R4/{path}", headers={"Authorization": f"Bearer {token}"})

    async def ids(path: str, kind: str = "Observation") -> set[str]:
        reply = await get(path)
        assert reply.status == 200, (case, path, reply.body)
        mine = {item.id for item in world.items} | {str(world.patient)}
        found = [each["resource"] for each in reply.json.get("entry", []) if "resource" in each]
        return {each["id"] for each in found if each["resourceType"] == kind} & mine

    patient, code = world.patient, f"http://loinc.org|{world.code}"
    for item in world.items:
        for path in (f"Observation/{item.id}", f"Observation/{item.id}/_history/1"):
            assert (await get(path)).status == (200 if item.id in expected else 404), (case, path, item)
    one = world.items[0].id
    history = await get(f"Observation/{one}/_history")
    assert (history.status == 200 and bool(history.json.get("entry"))) == (one in expected), case
    assert (await get(f"Patient/{patient}")).status == (200 if visible else 404), case
    assert await ids(f"Observation?code={code}&_count=100") == expected, case
    assert await ids(f"Observation?patient={patient}&_count=100") == expected, case
    assert await ids(f"Observation?_has:Provenance:target:agent=x&code={code}") == set(), case
    counted = await get(f"Observation?code={code}&_summary=count")
    assert counted.json["total"] == len(expected), case
    total = await get(f"Observation?code={code}&_count=1&_total=accurate")
    assert total.json["total"] == len(expected), case
    assert await ids(f"Observation?code={code}&_include=Observation:subject&_count=100", "Patient") == (
        {str(patient)} if visible and expected else set()
    ), case
    assert await ids(f"Patient?_id={patient}&_revinclude=Observation:subject") == (expected if visible else set()), case
    assert await ids(f"Patient?_has:Observation:patient:code={code}", "Patient") == (
        {str(patient)} if visible and expected else set()
    ), case
    assert await ids(f"Observation?subject:Patient._id={patient}&code={code}&_count=100") == (
        expected if visible else set()
    ), case
    everything = await get(f"Patient/{patient}/$everything")
    if visible:
        found = {each["resource"]["id"] for each in everything.json["entry"]}
        assert found & {item.id for item in world.items} == expected, case
    else:
        assert everything.status == 404, case
    rest = {"headers": {"Authorization": f"Bearer {token}"}}
    listed = await world.hospital.request("GET", f"/api/v1/patients/{patient}/items?count=200", **rest)
    assert listed.status == 200, (case, listed.body)
    shown = {each["reference"].partition("/")[2] for each in listed.json["items"]}
    assert shown & {item.id for item in world.items} == expected, case
    printed = await world.hospital.request("GET", f"/api/v1/patients/{patient}/record.pdf", **rest)
    assert printed.status == (200 if visible else 404), (case, printed.status)
    versions = await get(f"Observation/_history?_count=1000&_since={datetime.now(UTC).date().isoformat()}")
    assert versions.status == 200, (case, versions.body)
    told = {each["resource"]["id"] for each in versions.json.get("entry", []) if "resource" in each}
    assert told & {item.id for item in world.items} <= expected, case
    assert await _noticed(world, person) == (expected, expected), case


async def _noticed(world: World, person: Person) -> tuple[set[str], set[str]]:
    """Of all items, as if each had just been written: of which he gets an event, and what he would be told of any."""
    pool, reader, number = world.pool, person.reader(), uuid.uuid4()
    receiver = await webhooks.receiver_at(pool, world.organisation, f"https://{number}.example.org", "test")
    await pool.execute(
        """
        INSERT INTO subscription (id, logical_id, webhook_id, lane, waits, reader, filters, decided, channel,
                                  headers_sealed, status, listening)
        VALUES ($1::uuid, $1::uuid::text, $2, 0, $3, $4, '[["Observation", ""]]', '{Observation}', '{}', '', 'active',
                true)
        """,
        number,
        receiver,
        not reader.is_professional,
        json.dumps(reader.told()),
    )
    await pool.execute("INSERT INTO subscription_interest VALUES ('Observation', 0, $1)", number)
    items = [uuid.UUID(item.id) for item in world.items]
    await pool.execute("INSERT INTO record_change (ids, versions) VALUES ($1, $2)", items, [2] * len(items))
    while not await changes.compare(pool):
        await asyncio.sleep(0.05)
    events = await pool.fetch("SELECT resource_id FROM subscription_event WHERE subscription_id = $1", number)
    await pool.execute("DELETE FROM subscription_event WHERE subscription_id = $1", number)
    await pool.execute(
        """
        INSERT INTO subscription_event (subscription_id, number, at, type, resource_id, version, change)
        SELECT $1, position, now(), 'Observation', id, 2, 'update'
        FROM unnest($2::uuid[]) WITH ORDINALITY AS t (id, position)
        """,
        number,
        items,
    )
    wanted = notifications.Wanted(number, 1, len(items), len(items))
    told = (await notifications.events(pool, reader, [wanted]))[number]
    await pool.execute("DELETE FROM subscription WHERE id = $1", number)
    await pool.execute("DELETE FROM record_change WHERE ids && $1", items)
    await pool.execute("DELETE FROM webhook WHERE id = $1", receiver)
    shown = {json.loads(each.content)["id"] for each in told if each.content is not None}
    assert shown == {each.reference.partition("/")[2] for each in told if each.reference}
    return {str(row["resource_id"]) for row in events}, shown


async def test_a_glass_is_whole_again_after_signing_out(world: World) -> None:
    """Broken for a session, and no longer."""
    await world.state("none")
    person = world.people["outsider"]
    session = await new_session(world.pool, person.account)
    await glass.break_glass(world.pool, person.reader(), world.patient, "found unconscious in A&E", session)
    bearer = {"Authorization": f"Bearer {person.token()}"}
    path = f"/fhir/R4/Patient/{world.patient}"
    assert (await world.hospital.request("GET", path, headers=bearer)).status == 200
    await world.pool.execute("UPDATE session SET ended_at = now() WHERE number = $1", session)
    assert (await world.hospital.request("GET", path, headers=bearer)).status == 404
    [told] = [each for each in await glass.report(
        world.pool, person.organisation or uuid.uuid4(), since=datetime.now(UTC) - timedelta(minutes=1)
    ) if each["patient"] == world.patient and each["looks"]]  # fmt: skip
    assert told["reason"] == "found unconscious in A&E"
    assert told["looks"] == 1


async def test_only_the_patient_decides(world: World) -> None:
    """Nobody else shares, stops, labels; and nobody breaks the glass without a reason, a session, or a record."""
    await world.state("all")
    for name in ("stranger", "contributor", "member", "carer"):
        reader = world.people[name].reader()
        with pytest.raises(SharingError) as refused:
            await sharing.share(world.pool, reader, world.patient, world.teams["b2"], "team", LABELS)
        assert refused.value.forbidden
        with pytest.raises(SharingError):
            await sharing.switch(world.pool, reader, world.patient, on=False)
        with pytest.raises(SharingError):
            await choosing_labels.relabel(
                world.pool, reader, world.patient, "Observation", uuid.UUID(world.items[0].id), SEXUAL
            )
    outsider = world.people["outsider"]
    for reason, session, record in (("", outsider.session, world.patient), ("look", outsider.session, world.patient),
                                    ("found unconscious", None, world.patient),
                                    ("found unconscious", outsider.session, uuid.uuid4())):  # fmt: skip
        with pytest.raises(SharingError):
            await glass.break_glass(world.pool, outsider.reader(), record, reason, session)
    await sharing.freeze(world.pool, "account/officer", world.patient, "a court says so")
    with pytest.raises(SharingError):
        await sharing.share(world.pool, world.people["patient"].reader(), world.patient, world.teams["b2"], "team", ())


async def test_a_label_holds_for_every_version_and_against_every_message(world: World) -> None:
    """The patient's word on one item."""
    await world.state("general")
    item = next(each for each in world.items if each.label == GENERAL and not each.confidential and not each.delayed)
    member, number = world.people["member"], uuid.UUID(item.id)
    bearer = {"Authorization": f"Bearer {member.token()}"}

    async def statuses() -> set[int]:
        paths = (f"Observation/{item.id}", f"Observation/{item.id}/_history/1", f"Observation/{item.id}/_history/2")
        return {(await world.hospital.request("GET", f"/fhir/R4/{path}", headers=bearer)).status for path in paths}

    owner = world.people["patient"].reader()
    assert await statuses() == {200}
    await choosing_labels.relabel(world.pool, owner, world.patient, "Observation", number, MENTAL)
    assert await statuses() == {404}
    changed = observation(str(world.patient), value=72, code=world.code, id=item.id)
    reply = await send(world.hospital, "PUT", f"Observation/{item.id}", changed)
    assert reply.status == 200, reply.body
    assert await statuses() == {404}
    await choosing_labels.relabel(world.pool, owner, world.patient, "Observation", number, GENERAL)
    assert await statuses() == {200}
    with pytest.raises(SharingError, match="no such item"):
        await choosing_labels.relabel(
            world.pool, world.people["patient"].reader(), world.patient, "Condition", uuid.uuid4(), GENERAL
        )


async def test_a_sharing_is_a_consent(world: World) -> None:
    """Apps read who may see what, and each change is a version."""
    await world.state("general")
    person = world.people["patient"]
    bearer = {"Authorization": f"Bearer {person.token()}"}
    reply = await world.hospital.request("GET", f"/fhir/R4/Consent?patient={world.patient}", headers=bearer)
    found = {
        each["resource"]["provision"]["actor"][0]["reference"]["identifier"]["value"]: each["resource"]
        for each in reply.json["entry"]
    }
    consent = found[str(world.teams["b1"])]
    assert consent["provision"]["type"] == "permit"
    assert [label["code"] for label in consent["provision"]["securityLabel"]] == [GENERAL]
    await sharing.share(world.pool, person.reader(), world.patient, world.teams["b1"], "team", ())
    again = await world.hospital.request("GET", f"/fhir/R4/Consent/{consent['id']}", headers=bearer)
    assert again.json["provision"]["type"] == "deny"
    assert int(again.json["meta"]["versionId"]) > int(consent["meta"]["versionId"])


async def test_references_to_what_is_closed_are_masked(world: World) -> None:
    """In reads, searches, histories and versions: neither a target nor a name is left; everybody else has them."""
    await world.state("general")
    open_, closed = (
        next(each for each in world.items if each.label == label and not each.confidential and not each.delayed)
        for label in (GENERAL, SEXUAL)
    )
    report = {
        "resourceType": "DiagnosticReport", "status": "final", "code": {"text": "a panel"},
        "subject": {"reference": f"Patient/{world.patient}"},
        "result": [{"reference": f"Observation/{open_.id}", "display": "weight"},
                   {"reference": f"Observation/{closed.id}", "display": "an infection"}],
    }  # fmt: skip
    number = await made(world.hospital, report)
    changed = await send(world.hospital, "PUT", f"DiagnosticReport/{number}", report | {"id": number, "status": "final",
                         "conclusion": "well"})  # fmt: skip
    assert changed.status == 200
    paths = (f"DiagnosticReport/{number}", f"DiagnosticReport?_id={number}", f"DiagnosticReport/{number}/_history",
             f"DiagnosticReport/{number}/_history/1", f"Patient/{world.patient}/$everything",
             f"DiagnosticReport?_id={number}&_include=DiagnosticReport:result")  # fmt: skip
    for reader, sees in (("member", False), ("contributor", True), ("patient", True)):
        bearer = {"Authorization": f"Bearer {world.people[reader].token()}"}
        for path in paths:
            body = (await world.hospital.request("GET", f"/fhir/R4/{path}", headers=bearer)).body.decode()
            assert (closed.id in body, "an infection" in body, "masked" in body) == (sees, sees, not sees), (
                reader,
                path,
            )
            assert open_.id in body


@pytest.mark.parametrize("state", ["none", "general", "off", "frozen", "ended"])
async def test_the_second_lock_holds_by_itself(world: World, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first rule out of order, PostgreSQL's own still tells nobody what is not his."""
    await world.aged(40)
    await world.state(state)
    for module in (access, search, reading, includes, finding, changes, notifications):
        monkeypatch.setattr(module, "readable", lambda *_: "true")
    code, patient = f"http://loinc.org|{world.code}", world.patient
    for name in ("patient", "stranger", "contributor", "colleague", "member", "outsider", "individual", "carer"):
        reader = world.people[name].reader()
        expected = {uuid.UUID(item.id) for item in world.items if allowed(item, name, state, 40, broken=False)}
        visible = {patient} if sees_patient(name, state, broken=False) else set()
        page = await search.search(world.pool, reader, ["Observation"], [("code", code), ("_count", "100")])
        assert {each.id for each in page.found} == expected, name
        for backwards in (True, False):
            query = [("_id", str(patient)), ("_revinclude", "Observation:subject")] if backwards else [
                ("code", code), ("_count", "100"), ("_include", "Observation:subject")]  # fmt: skip
            found = await search.search(world.pool, reader, ["Patient" if backwards else "Observation"], query)
            mine = {each.id for each in found.found} & ({uuid.UUID(item.id) for item in world.items} | {patient})
            assert mine <= expected | visible, name
        for item in world.items:
            for version in (None, 1):
                read = await (
                    reading.read(world.pool, reader, "Observation", uuid.UUID(item.id)) if version is None
                    else reading.vread(world.pool, reader, "Observation", uuid.UUID(item.id), version)
                )  # fmt: skip
                assert (read is not None) == (uuid.UUID(item.id) in expected), (name, item)
        history = await reading.history(world.pool, reader, kind="Observation", number=uuid.UUID(world.items[0].id))
        assert bool(history.versions) == (uuid.UUID(world.items[0].id) in expected)
        everything = await reading.everything(world.pool, reader, patient, count=1000)
        told = {each.id for each in everything.found} if everything else set()
        assert told & {uuid.UUID(item.id) for item in world.items} == expected, name
        assert (await _noticed(world, world.people[name]))[1] == {str(each) for each in expected}, name
        assert await finding.name_of(world.pool, reader, patient) is not None or not visible
        assert await finding.name_of(world.pool, reader, patient) is None or visible, name


async def test_a_professional_adds_to_the_records_that_he_sees(world: World) -> None:
    """Though his organisation never contributed; for his team; not to others, nor to what is frozen."""
    await world.aged(40)
    member, outsider, code = world.people["member"], world.people["outsider"], unique("N")
    note = observation(str(world.patient), code=code)

    async def post(person: Person) -> Any:
        bearer = {"Authorization": f"Bearer {person.token()}", "Content-Type": "application/fhir+json"}
        return await world.hospital.request("POST", "/fhir/R4/Observation", headers=bearer, data=json.dumps(note))

    await world.state("general")
    made = await post(member)
    assert made.status == 201, made.body
    row = await world.pool.fetchrow("SELECT * FROM resource WHERE id = $1", uuid.UUID(made.json["id"]))
    assert (row["team_id"], row["organisations"]) == (world.teams["b1"], [member.organisation])
    assert (await post(outsider)).status == 422
    # What his team contributed stays his team's when sharing stops; to add more is closed then.
    await sharing.switch(world.pool, world.people["patient"].reader(), world.patient, on=False)
    path = f"/fhir/R4/Observation/{made.json['id']}"
    for person, status in ((member, 200), (outsider, 404), (world.people["patient"], 200)):
        reply = await world.hospital.request("GET", path, headers={"Authorization": f"Bearer {person.token()}"})
        assert reply.status == status, (person.name, reply.body)
    assert (await post(member)).status == 422
    await world.state("frozen")
    assert (await post(member)).status == 422
    patient = world.people["patient"]
    assert (await post(patient)).status in (403, 404, 422)
