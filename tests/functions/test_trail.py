"""The audit trail as AuditEvents."""

from __future__ import annotations

from typing import Any

from tests.sharing_kit import World

from carefolio.fhir.validation import validate
from carefolio.identity import tokens


async def test_the_trail_is_searched_as_audit_events(world: World) -> None:
    """A patient finds every look; an officer and a system those of their own organisation; nobody else any."""
    await world.state("all")
    member, patient = world.people["member"], world.people["patient"]

    async def events(token: str, more: str = "", by: str = "patient=") -> list[dict[str, Any]]:
        path = f"/fhir/R4/AuditEvent?{by}{world.patient}&_count=500{more}"
        reply = await world.hospital.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        assert reply.status == 200, reply.body
        found = [each["resource"] for each in reply.json.get("entry", [])]
        assert reply.json["total"] == len(found)
        return found

    bearer = {"Authorization": f"Bearer {member.token()}"}
    await world.hospital.request("GET", f"/fhir/R4/Patient/{world.patient}", headers=bearer)
    found = await events(patient.token())
    assert any(each["agent"][0]["who"]["display"].startswith("member, ") for each in found)
    assert [issue for each in found for issue in validate(each)] == []
    assert await events(patient.token(), "&date=lt2020-01-01") == []
    assert len(await events(patient.token(), "&date=ge2020-01-01&date=lt2100")) >= len(found)
    assert len(await events(patient.token(), by="entity=Patient/")) >= len(found)
    assert await events(patient.token(), "&entity=Observation/1") == []
    for name in ("stranger", "outsider", "member"):
        assert await events(world.people[name].token()) == [], name
    await world.pool.execute("UPDATE account SET roles = '{privacy-officer}' WHERE id = $1", member.account)
    mine = await events(member.token())
    assert mine
    assert len(mine) < len(await events(patient.token()))
    system = tokens.issue("app", "system/*.rs", organisation=world.people["contributor"].organisation)
    assert await events(system)
    other = tokens.issue("app", "system/*.rs", organisation=world.people["outsider"].organisation)
    assert await events(other) == []
    without = await world.hospital.request(
        "GET", f"/fhir/R4/AuditEvent?patient={world.patient}&date=odd", headers={"Authorization": f"Bearer {system}"}
    )
    assert without.status == 400
    await world.pool.execute("UPDATE account SET roles = '{}' WHERE id = $1", member.account)
