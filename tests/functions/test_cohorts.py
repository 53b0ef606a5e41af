"""Groups whose members are what searches find, and their export."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from tests.conftest import Hospital, NewHospital, unique
from tests.functions.fhir_client import made, observation, patient, send

from carefolio.record import cohorts


def group(*queries: str, **more: Any) -> dict[str, Any]:
    filters = [
        {"url": cohorts.FILTER, "valueExpression": {"language": cohorts.LANGUAGE, "expression": each}}
        for each in queries
    ]
    return {"resourceType": "Group", "type": "person", "actual": True, "modifierExtension": filters} | more


def members(said: dict[str, Any]) -> set[str]:
    return {each["entity"]["reference"].removeprefix("Patient/") for each in said.get("member", [])}


async def test_members_are_what_every_search_finds(
    app: Hospital, new_hospital: NewHospital, pool: asyncpg.Pool
) -> None:
    """At once, after each refreshing, and by an export as of its own moment; of nobody else's patients."""
    code, stranger = unique("C"), await new_hospital(scope="system/*.cruds")
    first, second = await made(app, patient(gender="female")), await made(app, patient(gender="male"))
    for someone in (first, second):
        await made(app, observation(someone, code=code))
    await made(stranger, observation(await made(stranger, patient(gender="female")), code=code))
    number = await made(app, group(f"Observation?code={code}", "Patient?gender=female"))
    said = (await send(app, "GET", f"Group/{number}")).json
    assert (members(said), said["quantity"], said["extension"][0]["url"]) == ({first}, 1, cohorts.REFRESHED)
    third = await made(app, patient(gender="female"))
    await made(app, observation(third, code=code))
    assert await exported(app, number) == {first, third}
    await cohorts.refresh(pool)
    said = (await send(app, "GET", f"Group/{number}")).json
    assert (members(said), said["meta"]["versionId"]) == ({first, third}, "2")
    await cohorts.refresh(pool)
    assert (await send(app, "GET", f"Group/{number}")).json["meta"]["versionId"] == "2"
    # A Group that lists its members itself is left as it is.
    said = {name: value for name, value in said.items() if name != "modifierExtension"}
    assert (await send(app, "PUT", f"Group/{number}", said)).status == 200
    await made(app, observation(await made(app, patient(gender="female")), code=code))
    await cohorts.refresh(pool)
    assert members((await send(app, "GET", f"Group/{number}")).json) == {first, third}
    await send(app, "DELETE", f"Group/{number}")
    assert await pool.fetchval("SELECT count(*) FROM cohort WHERE group_id::text = $1", number) == 0


async def exported(app: Hospital, number: str) -> set[str]:
    reply = await send(app, "GET", f"Group/{number}/$export?_type=Patient", Prefer="respond-async")
    assert reply.status == 202, reply.body
    place = "$job/" + reply.headers["Content-Location"].rpartition("$job/")[2]
    for _ in range(200):
        told = await send(app, "GET", place)
        if told.status == 200:
            break
        await asyncio.sleep(0.05)
    ids = set()
    for file in told.json["output"]:
        lines = (await send(app, "GET", file["url"].partition("/fhir/R4/")[2])).body.splitlines()
        ids |= {json.loads(line)["id"] for line in lines}
    return ids


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (group("Observation"), 422),
        (group("Nothing?x=y"), 422),
        (group("Observation?nonsense=1"), 422),
        (group("Observation?subject:Patient.name=x"), 422),
        (group("AuditEvent?patient=1"), 422),
        (group("Patient?gender=female", type="animal"), 422),
        (group("Patient?gender=female", actual=False), 422),
        (group(*["Patient?gender=female"] * 11), 422),
    ],
)
async def test_what_is_refused(app: Hospital, said: dict[str, Any], status: int) -> None:
    reply = await send(app, "POST", "Group", said)
    assert reply.status == status, reply.body


async def test_a_scope_bounds_the_search(new_hospital: NewHospital) -> None:
    app = await new_hospital(scope="system/Group.cruds system/Patient.rs")
    assert (await send(app, "POST", "Group", group("Observation?code=x"))).status == 403
    assert (await send(app, "POST", "Group", group("Patient?gender=female"))).status == 201
