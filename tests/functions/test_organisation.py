"""REST: what an organisation administers, and what it cannot: another's, the operator's."""

from __future__ import annotations

import gzip
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.conftest import Hospital, NewHospital, Reply, Running, basic, nhs, unique
from tests.record.people import Person
from tests.sharing_kit import World

from carefolio.identity import demographics
from carefolio.identity.demographics import Registered
from carefolio.record import trail_export
from carefolio.record.tracing import compared

_SCOPE = (
    "system/*.cruds system/Sender.crus system/Client.cds system/Code.us system/Join.cds system/Message.rus"
    " system/Invitation.cds system/Purge.cs system/Trace.cs system/Audit.s system/Team.crus"
)


@pytest.fixture(scope="module")
async def owner(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", "--set", "accept_merges=true", scope=_SCOPE)


async def ask(hospital: Hospital, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    sent = {"Authorization": f"Bearer {await hospital.authorize()}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await hospital.request(
        method, f"/api/v1{path}", data=json.dumps(body) if body is not None else None, headers=sent
    )


async def test_a_sender_is_made_and_its_agreement_changed(owner: Hospital) -> None:
    """With the password that is told once it posts; settings change as a whole, and not over somebody else's change."""
    name = unique("Feed")
    made = await ask(owner, "POST", "/senders", {"name": name, "networks": ["127.0.0.0/8"]})
    assert made.status == 201, made.body
    row = Person(number=nhs()).message("A28")
    sent = await owner.request(
        "POST", "/hl7", data=row.replace("\n", "\r").encode(),
        headers={"Content-Type": "application/hl7-v2",
                 "Authorization": basic(made.json["username"], made.json["password"])},
    )  # fmt: skip
    assert sent.code == "AA", sent.body
    shown = await ask(owner, "GET", f"/senders/{name}")
    assert "password" not in shown.json
    agreed = shown.json["settings"] | {"auto_create": True}
    tag = shown.headers["ETag"]
    changed = await ask(owner, "PUT", f"/senders/{name}", agreed, If_Match=tag)
    assert (changed.status, changed.json["settings"]["auto_create"]) == (200, True), changed.body
    assert (await ask(owner, "PUT", f"/senders/{name}", agreed, If_Match=tag)).status == 412
    assert (await ask(owner, "PUT", f"/senders/{name}", {"odd": 1})).status == 422
    assert (await ask(owner, "POST", "/senders", {"name": unique("F"), "networks": ["everywhere"]})).status == 422
    assert name in [each["name"] for each in (await ask(owner, "GET", "/senders")).json["senders"]]
    assert (await ask(owner, "GET", f"/senders/{unique('none')}")).status == 404


async def test_a_sender_whose_password_leaked(owner: Hospital) -> None:
    """Nobody may post any more; or a new password in place of the old one. Another organisation's is not found."""
    closed, renewed = unique("Feed"), unique("Feed")
    made = {
        name: (await ask(owner, "POST", "/senders", {"name": name, "networks": ["127.0.0.0/8"]})).json
        for name in (closed, renewed)
    }
    nobody = await ask(owner, "PUT", f"/senders/{closed}/networks", {"networks": []})
    assert (nobody.status, nobody.json["networks"]) == (200, [])
    assert await posted(owner, made[closed]["username"], made[closed]["password"]) == 403
    assert (await ask(owner, "PUT", f"/senders/{closed}/networks", {"networks": ["everywhere"]})).status == 422
    again = await ask(owner, "POST", f"/senders/{renewed}/password")
    assert (again.status, again.json["username"]) == (200, made[renewed]["username"])
    assert await posted(owner, made[renewed]["username"], again.json["password"]) == 200
    assert await posted(owner, made[renewed]["username"], made[renewed]["password"]) == 401
    for method, path, body in (("POST", "password", None), ("PUT", "networks", {"networks": []})):
        assert (await ask(owner, method, f"/senders/{unique('none')}/{path}", body)).status == 404
    cli = owner.installation.cli
    told = json.loads(cli("sender", "renew", renewed, "--json").stdout)
    assert await posted(owner, made[renewed]["username"], told["password"]) == 200
    assert json.loads(cli("sender", "allow", closed, "10.0.0.0/8", "--json").stdout)["networks"] == ["10.0.0.0/8"]
    refused = cli("sender", "renew", unique("none"), check=False)
    assert (refused.returncode, "no sender" in refused.stderr) == (1, True)


async def posted(owner: Hospital, username: str, password: str) -> int:
    """The status of a message with these credentials."""
    raw = Person(number=nhs()).message("A28").replace("\n", "\r").encode()
    headers = {"Content-Type": "application/hl7-v2", "Authorization": basic(username, password)}
    return (await owner.request("POST", "/hl7", data=raw, headers=headers)).status


async def test_a_client_is_made_and_ended(owner: Hospital, new_hospital: NewHospital) -> None:
    """It gets tokens until it is ended; what is the operator's it does not get."""
    made = await ask(owner, "POST", "/clients", {"name": "Reader", "scope": "system/*.rs"})
    assert made.status == 201, made.body
    form = {"grant_type": "client_credentials"}
    headers = {"Authorization": basic(made.json["client_id"], made.json["client_secret"])}
    assert (await owner.request("POST", "/oauth2/token", data=form, headers=headers)).status == 200
    for scope in ("system/Extract.cruds", "system/Nothing.rs", "odd"):
        refused = await ask(owner, "POST", "/clients", {"name": "Reader", "scope": scope})
        assert refused.status == 422, (scope, refused.body)
    other = await new_hospital(scope=_SCOPE)
    assert (await ask(other, "DELETE", f"/clients/{made.json['client_id']}")).status == 404
    assert (await ask(owner, "DELETE", f"/clients/{made.json['client_id']}")).status == 204
    assert (await owner.request("POST", "/oauth2/token", data=form, headers=headers)).status == 401


async def test_codes_joins_and_missing_identifiers(owner: Hospital, new_hospital: NewHospital) -> None:
    """An own code is explained and mapped again; two records are joined and parted; what is waited for is listed."""
    one, two = Person(number=nhs(), local=unique("L")), Person(number=nhs(), local=unique("L"))
    for person in (one, two):
        await owner.accepted(person.message("A28"))
    await owner.accepted(one.result(unique("F"), "141"))
    listed = (await ask(owner, "GET", "/codes")).json["codes"]
    [code] = [each for each in listed if each["code"] == "HB"]
    meaning = {"system": code["system"], "code": "HB", "target_system": "http://loinc.org", "target_code": "718-7"}
    solved = await ask(owner, "PUT", "/codes", meaning)
    assert solved.status == 200, solved.body
    assert solved.json["resources"] >= 1
    assert await owner.search(f"Observation?code=http://loinc.org|718-7&subject={await _record(owner, one)}")
    assert (await ask(owner, "PUT", "/codes", meaning | {"code": "none"})).status == 422
    records = [await _record(owner, one), await _record(owner, two)]
    made = await ask(owner, "POST", "/joins", {"survivor": records[0], "other": records[1]})
    assert made.status == 201, made.body
    assert (await ask(owner, "POST", "/joins", {"survivor": records[0], "other": records[1]})).status == 409
    [join] = (await ask(owner, "GET", f"/joins?patient={records[0]}")).json["joins"]
    other = await new_hospital(scope=_SCOPE)
    assert (await ask(other, "DELETE", f"/joins/{join['id']}")).status == 404
    assert (await ask(other, "GET", f"/joins?patient={records[0]}")).status == 404
    assert (await ask(owner, "DELETE", f"/joins/{join['id']}")).status == 204
    assert (await ask(owner, "DELETE", f"/joins/{join['id']}")).status == 409
    stranger = Person(local=unique("L"))
    held = await owner.accepted(stranger.result(unique("F"), "141"))
    assert held["status"] == "held"
    missing = (await ask(owner, "GET", "/missing-identifiers")).json["identifiers"]
    assert (str(held["id"]), stranger.local) in [(each["message"], each["value"]) for each in missing]


async def _record(hospital: Hospital, person: Person) -> str:
    return str((await hospital.patient(person.number))["id"])


async def test_invitations(owner: Hospital, new_hospital: NewHospital, pool: asyncpg.Pool) -> None:
    """A patient, a professional into a team of ours; not into another's; withdrawn it is over."""
    number = await owner.registered()
    assert (await ask(owner, "POST", "/invitations", {"nhs_number": number})).status == 201
    other = await new_hospital(scope=_SCOPE)
    assert (await ask(other, "POST", "/invitations", {"nhs_number": number})).status == 422
    body = {"name": "Ada Example", "email": f"{unique('a').lower()}@example.org"}
    theirs = (await ask(other, "POST", "/teams", {"name": "Renal"})).json["id"]
    assert (await ask(owner, "POST", "/invitations", body | {"teams": [theirs]})).status == 422
    ours = (await ask(owner, "POST", "/teams", {"name": unique("Renal")})).json["id"]
    assert (await ask(owner, "POST", "/invitations", body | {"teams": [ours]})).status == 201
    waiting = (await ask(owner, "GET", "/invitations")).json["invitations"]
    [mine] = [each for each in waiting if each["email"] == body["email"]]
    assert (await ask(other, "DELETE", f"/invitations/{mine['id']}")).status == 404
    assert (await ask(owner, "DELETE", f"/invitations/{mine['id']}")).status == 204
    assert (await ask(owner, "DELETE", f"/invitations/{mine['id']}")).status == 404
    assert (await ask(owner, "POST", "/invitations", {})).status == 422


async def test_misfiled_data_goes_through_every_version(
    owner: Hospital, new_hospital: NewHospital, pool: asyncpg.Pool
) -> None:
    """A message's result goes from the record, its history and every moment; what was right stays; it is told."""
    person = Person(number=nhs())
    await owner.accepted(person.message("A28"))
    filler, others = unique("F"), unique("F")
    wrong = [await owner.accepted(person.result(filler, value)) for value in ("141", "97")]
    right = await owner.accepted(person.result(others, "133"))
    record = await _record(owner, person)
    found = await owner.search(f"Observation?subject={record}&_count=50")
    [bad] = [each for each in found if each["valueQuantity"]["value"] == 97]
    moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    path = f"Observation/{bad['id']}"
    assert (await owner.get(f"{path}/_history/1")).status == 200
    body = {"patient": record, "reason": "results of another patient", "messages": [str(row["id"]) for row in wrong]}
    other = await new_hospital(scope=_SCOPE)
    assert (await ask(other, "POST", "/purges", body)).status == 404
    assert (await ask(owner, "POST", "/purges", body | {"reason": "x"})).status == 422
    assert (await ask(owner, "POST", "/purges", body | {"messages": [str(uuid.uuid4())]})).status == 409
    assert (await ask(owner, "POST", "/purges", body | {"messages": [], "items": [path]})).status == 409
    done = await ask(owner, "POST", "/purges", body)
    assert done.status == 201, done.body
    assert done.json["versions"] >= 2
    assert (await owner.get(path)).status == 410
    for version in (1, 2):
        assert (await owner.get(f"{path}/_history/{version}")).status == 410
    assert (await owner.get(f"{path}?_at={moment}")).status == 404
    assert not await pool.fetchval(
        """
        SELECT EXISTS (SELECT FROM resource_history WHERE id = $1::uuid AND content IS NOT NULL)
            OR EXISTS (SELECT FROM message WHERE id = ANY($2) AND length(raw) > 0)
        """,
        bad["id"], [row["id"] for row in wrong],
    )  # fmt: skip
    left = await owner.search(f"Observation?subject={record}&_count=50")
    assert [each["valueQuantity"]["value"] for each in left] == [133]
    assert (await ask(owner, "POST", "/purges", body)).status == 409
    [told] = [each for each in (await ask(owner, "GET", "/purges")).json["purges"] if each["patient"] == record]
    assert told["reason"] == body["reason"]
    assert await pool.fetchval("SELECT count(*) FROM audit WHERE action = 'purge' AND patient_id = $1::uuid", record)
    # Made again from its messages it is what it is: the purged ones do not come back.
    row = await owner.accepted(person.result(filler, "140"))
    assert row["status"] == "applied"
    assert {each["valueQuantity"]["value"] for each in await owner.search(f"Observation?subject={record}")} == {
        133, 140,
    }  # fmt: skip
    assert right["status"] == "applied"


async def test_an_item_that_an_app_wrote_is_purged(owner: Hospital) -> None:
    """Deleted or not, nothing of it is left."""
    person = Person(number=nhs())
    await owner.accepted(person.message("A28"))
    record = await _record(owner, person)
    token = {"Authorization": f"Bearer {await owner.authorize()}", "Content-Type": "application/fhir+json"}
    note = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueString": "of somebody else",
            "subject": {"reference": f"Patient/{record}"}}  # fmt: skip
    made = await owner.request("POST", "/fhir/R4/Observation", data=json.dumps(note), headers=token)
    number = made.json["id"]
    body = {"patient": record, "reason": "written into the wrong record", "items": [f"Observation/{number}"]}
    done = await ask(owner, "POST", "/purges", body)
    assert done.status == 201, done.body
    assert (await owner.get(f"Observation/{number}/_history/1")).status == 410
    assert (await ask(owner, "POST", "/purges", body | {"items": [f"Patient/{record}"]})).status == 409


async def test_a_person_is_traced(owner: Hospital, pool: asyncpg.Pool) -> None:
    """Against the stand-in register, signed as the real one wants it; what differs is listed by its element."""
    known = Person(number="9990001111", family="Okonjo-Hale", given="Idris", born="19910923")
    differs = Person(number="9990001103", family="Aldersley", given="Gwen", born="19580413")
    unknown = Person(number=nhs())
    for person in (known, differs, unknown):
        await owner.accepted(person.message("A28"))
    for person, outcome, elements in (
        (known, "different", ["gender"]), (differs, "different", ["birthDate"]),
        (unknown, "unknown", ["resource-not-found"]),
    ):  # fmt: skip
        record = await _record(owner, person)
        told = await ask(owner, "POST", f"/patients/{record}/trace")
        assert told.status == 201, told.body
        assert (told.json["outcome"], told.json["elements"]) == (outcome, elements)
        listed = (await ask(owner, "GET", f"/traces?outcome={outcome}")).json["traces"]
        assert record in [each["patient"] for each in listed]
    assert (await ask(owner, "GET", "/traces?outcome=odd")).status == 422


def test_what_the_register_says_is_compared() -> None:
    """Each outcome; of a person whose details are restricted nothing is compared."""
    ours = {"name": [{"family": "Ash", "given": ["Eve"]}], "birthDate": "1980-01-01", "gender": "female"}
    theirs = {"id": "1", "resourceType": "Patient"} | ours
    hidden = {"meta": {"security": [{"code": "R"}]}, "birthDate": "1999-01-01"}
    for said, outcome in (
        (theirs, ("verified", [])),
        (theirs | {"birthDate": "1981-01-01"}, ("different", ["birthDate"])),
        (theirs | {"name": [{"family": "Oak", "given": ["EVE"]}]}, ("different", ["name.family"])),
        (theirs | {"id": "2"}, ("replaced", ["identifier"])),
        (theirs | {"deceasedDateTime": "2020"}, ("deceased", [])),
        (theirs | hidden, ("restricted", [])),
        ({"id": "1", "resourceType": "Patient"}, ("verified", [])),
    ):
        assert compared(ours, "1", Registered(said)) == outcome
    assert compared(ours, "1", Registered(None, "invalidated-resource")) == ("unknown", ["invalidated-resource"])


async def test_a_register_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not set up, or not there: an error for the administrator, and nothing is kept."""
    monkeypatch.setattr(demographics, "is_set_up", lambda: False)
    with pytest.raises(demographics.DemographicsError, match="not set up"):
        await demographics.read("9990001103")


async def test_the_trail_of_an_organisation(owner: Hospital, world: World) -> None:
    """Its own lines, in pages, for its own client and its privacy officers; nobody else's."""
    await owner.registered()
    page = await ask(owner, "GET", "/audit?count=2&action=write")
    assert page.status == 200, page.body
    assert {each["action"] for each in page.json["lines"]} == {"write"}
    following = await ask(owner, "GET", f"/audit?count=2&action=write&cursor={page.json['next']}")
    assert following.json["lines"][0]["id"] < page.json["lines"][1]["id"]
    about = await ask(owner, "GET", f"/audit?patient={world.patient}")
    assert about.json["lines"] == [] or {each["action"] for each in about.json["lines"]} == {"audit"}
    for query in ("patient=x", "since=yesterday", "since=2026-01-01", "odd=1", "count=0"):
        assert (await ask(owner, "GET", f"/audit?{query}")).status == 422, query
    person = world.people["contributor"]
    headers = {"Authorization": f"Bearer {person.token('user/Audit.s')}"}
    assert (await owner.request("GET", "/api/v1/audit", headers=headers)).status == 403
    await world.pool.execute("UPDATE account SET roles = '{privacy-officer}' WHERE id = $1", person.account)
    assert (await owner.request("GET", "/api/v1/audit", headers=headers)).status == 200


async def test_a_finished_day_is_a_file(pool: asyncpg.Pool, installation: Running) -> None:
    """Each line of the day once, in order; today is not over; the second time there is nothing to do."""
    day = datetime(2001, 3, 4, tzinfo=UTC) + timedelta(days=uuid.uuid4().int % 9000)
    later = day + timedelta(days=1, hours=1)
    marks = [unique("A") for _ in range(3)]
    for number, mark in enumerate(marks):
        at = day + timedelta(hours=1 + number)
        await pool.execute("INSERT INTO audit (at, actor, action) VALUES ($1, $2, 'read')", at, mark)
    name = f"audit-trail/{day:%Y-%m-%d}.ndjson.gz"
    assert name in await trail_export.export(pool, now=later)
    assert name not in await trail_export.export(pool, now=later)
    from carefolio.cloud import files

    with files.reader(name) as file:
        lines = [json.loads(line) for line in gzip.decompress(file.read()).splitlines()]
    assert [line["actor"] for line in lines if line["actor"] in marks] == marks
    assert await trail_export.export(pool, now=day + timedelta(hours=5)) == []
