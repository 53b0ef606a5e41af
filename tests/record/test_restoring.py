"""One record as it was at a moment, and no other touched."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import asyncpg
from tests.conftest import Hospital, NewHospital, nhs, unique
from tests.record.people import Person, end


async def contents(database: asyncpg.Pool, *records: str) -> dict[str, tuple[str, str]]:
    """By resource its JSON without what belongs to a version, and its label."""
    rows = await database.fetch("SELECT content, label, id FROM resource WHERE patient_id = ANY($1::uuid[])", records)
    found = {}
    for row in rows:
        resource = json.loads(row["content"])
        for name in ("versionId", "lastUpdated", "source"):
            resource["meta"].pop(name, None)
        found[str(row["id"])] = (json.dumps(resource, sort_keys=True), row["label"])
    return found


async def test_a_record_becomes_what_it_was_and_no_other_is_touched(
    new_hospital: NewHospital, database: asyncpg.Pool
) -> None:
    """Changed, added and taken away since: all three are undone, by new versions; then the restore itself is."""
    hospital = await new_hospital("--allow", "127.0.0.0/8", scope="system/*.cruds")
    one, other = Person(nhs(), unique("L")), Person(nhs(), unique("L"))
    filler = unique("F")
    for person in (one, other):
        await end(hospital, person.message("A28", rest="AL1|1|DA|P^Penicillin\nAL1|2|DA|N^Nuts"))
    await end(hospital, one.result(filler, "90"))
    ids = [(await hospital.patient(person.number))["id"] for person in (one, other)]
    note = await created(hospital, ids[0])
    before = await contents(database, ids[0])
    await asyncio.sleep(1.1)
    moment = datetime.now(UTC).replace(microsecond=0)
    await asyncio.sleep(0.1)

    await end(hospital, one.message("A31", "20261105090000", rest='AL1|1||""'))
    await end(hospital, one.result(filler, "999", "C"))
    await end(hospital, one.result(unique("F"), "7"))
    await end(hospital, other.result(unique("F"), "8"))
    gone = await hospital.request("DELETE", f"/fhir/R4/Observation/{note}", headers=await hospital.bearer())
    assert gone.status in (200, 204)
    spoilt = await contents(database, ids[0])
    untouched = await database.fetch("SELECT * FROM resource WHERE patient_id <> $1 ORDER BY id", ids[0])
    assert spoilt != before

    stamp = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    cli = hospital.installation.cli
    counted = json.loads(cli("record", "restore", ids[0], "--at", stamp, "--json").stdout)
    assert await contents(database, ids[0]) == spoilt
    assert counted["brought_back"] == {"AllergyIntolerance": 2, "Observation": 1}
    assert counted["taken_away"]["Observation"] == 1
    done = json.loads(cli("record", "restore", ids[0], "--at", stamp, "--apply", "--json").stdout)
    assert {**done, "applied": False} == counted
    assert await contents(database, ids[0]) == before
    assert await database.fetch("SELECT * FROM resource WHERE patient_id <> $1 ORDER BY id", ids[0]) == untouched
    [line] = await database.fetch("SELECT * FROM audit WHERE action = 'restore' AND patient_id = $1", ids[0])
    assert line["query"].startswith("at=")
    again = json.loads(cli("record", "restore", ids[0], "--at", stamp, "--json").stdout)
    assert [again[name] for name in ("changed", "brought_back", "taken_away")] == [{}, {}, {}]
    # What the laboratory corrects now is a correction of what was restored.
    await end(hospital, one.result(filler, "91", "C"))
    assert '"value": 91' in " ".join(text for text, _ in (await contents(database, ids[0])).values())


async def created(hospital: Hospital, patient: str) -> str:
    """An app's own observation."""
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "Weight"},
            "subject": {"reference": f"Patient/{patient}"}, "valueQuantity": {"value": 70}}  # fmt: skip
    reply = await hospital.request("POST", "/fhir/R4/Observation", json=body, headers=await hospital.bearer())
    assert reply.status == 201, reply.body
    return str(reply.json["id"])


async def test_a_moment_without_the_record_is_refused(hospital: Hospital) -> None:
    number = (await hospital.patient(await hospital.registered()))["id"]
    refused = hospital.installation.cli("record", "restore", number, "--at", "2020-01-01T00:00:00Z", check=False)
    assert (refused.returncode, "was not there" in refused.stderr) == (1, True)
    refused = hospital.installation.cli("record", "restore", number, "--at", "2999-01-01T00:00:00Z", check=False)
    assert (refused.returncode, "has not been" in refused.stderr) == (1, True)
