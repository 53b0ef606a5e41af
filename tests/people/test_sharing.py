"""Sharing as people come to it: signed in, by an app that they allowed, until they sign out."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
from tests.conftest import Reply, unique
from tests.people_kit import App, Mailbox, NewApp, NewVisitor, People, Visitor

from carefolio.identity import registry, teams

_PATIENT = "launch/patient patient/*.rs patient/Sharing.ru patient/AccessLog.r"
_PROFESSIONAL = "user/*.rs user/Patient.s user/Glass.cs online_access"


async def rest(app: App, token: str, method: str, path: str, body: Any = None) -> Reply:
    async with app.visitor.http.request(
        method, f"{app.visitor.base}/api/v1{path}", data=json.dumps(body) if body is not None else None,
        headers={"Authorization": f"Bearer {token}"},
    ) as answer:  # fmt: skip
        return Reply(answer.status, await answer.read(), answer.headers)


async def test_from_an_allowed_app_to_a_glass_that_is_whole_again(
    people: People, visitor: Visitor, new_visitor: NewVisitor, new_app: NewApp, pool: asyncpg.Pool, mailbox: Mailbox
) -> None:
    """A professional of another team sees nothing, breaks the glass, is told of, signs out, and sees nothing again."""
    who = await people.patient(visitor)
    owner = await registry.organisation_id(pool, people.hospital.ods_code)
    feeding = await teams.add(pool, owner, "test", unique("Feeding"), "general", ["general"])
    away = await teams.add(pool, owner, "test", unique("Away"), "general", ["general"])
    for table in ("resource", "resource_history"):
        await pool.execute(f"UPDATE {table} SET team_id = $2 WHERE patient_id = $1::uuid", who.record, feeding.id)
    desk = new_visitor()
    doctor = await people.professional(desk)
    account = await pool.fetchval("SELECT id FROM account WHERE email = $1", doctor.email)
    await teams.join(pool, owner, "test", away.id, account, coordinator=False)
    theirs = await new_app(_PROFESSIONAL, at=desk)
    page = await theirs.allow(_PROFESSIONAL)
    granted = (await theirs.token(page)).json
    token = granted["access_token"]
    assert set(granted["scope"].split()) == set(_PROFESSIONAL.split()), granted["scope"]
    assert (await theirs.fhir(token, f"Patient/{who.record}")).status == 404
    broken = await rest(theirs, token, "POST", f"/patients/{who.record}/glass", {"reason": "unconscious in A&E"})
    assert broken.status == 201, broken.body
    assert (await theirs.fhir(token, f"Patient/{who.record}")).status == 200
    letter = await mailbox.wait(who.email, "in an emergency")
    assert "Ada" in letter["body"]
    mine = await new_app(_PATIENT)
    asked = await mine.ask(_PATIENT)
    assert "who may see what" in asked.text
    assert "who looked at the record" in asked.text
    allowed = (await mine.token(await mine.answer(asked, "allow"))).json["access_token"]
    log = await rest(mine, allowed, "GET", "/patients/me/access-log")
    looks = [each for each in log.json["looks"] if each["who"] == doctor.name]
    assert {"break-glass", "read"} <= {each["action"] for each in looks}, log.body
    assert looks[0]["reason"] == "unconscious in A&E"
    await desk.get("/account")
    await desk.submit("/login/out")
    assert (await theirs.fhir(token, f"Patient/{who.record}")).status in (401, 404)
    assert not await pool.fetchval(
        """
        SELECT EXISTS (SELECT FROM sharing s JOIN session ON session.number = s.session_number
                       WHERE s.record_id = $1::uuid AND session.ended_at IS NULL)
        """,
        who.record,
    )
    # The patient's word, by the app: yes to the team, and no.
    place = f"/patients/me/sharings/{away.id}"
    said = await rest(mine, allowed, "PUT", place, {"role": "team", "labels": ["general"]})
    assert said.status == 200, said.body
    assert (await rest(mine, allowed, "DELETE", place)).status == 204
    assert (await rest(mine, allowed, "GET", place)).json["labels"] == []
