"""Carers as people come to it: a letter, a date of birth, an app that asks whose record; and what they leave behind."""

from __future__ import annotations

import re
from typing import Any

import asyncpg
from tests.people.test_sharing import rest
from tests.people_kit import App, Mailbox, NewApp, NewVisitor, Page, People, Somebody, Visitor

_OWNER = "launch/patient patient/*.cruds patient/Sharing.ru patient/AccessLog.r"
_CARER = "launch/patient patient/*.cruds"


def weight(record: str) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "weight"},
            "subject": {"reference": f"Patient/{record}"}, "valueQuantity": {"value": 71, "unit": "kg"}}  # fmt: skip


async def accept(visitor: Visitor, who: Somebody, code: str, born: str) -> Page:
    year, month, day = born.split("-")
    fields = {"code": code, "year": year, "month": month, "day": day}
    await visitor.get(f"/login/register?code={code}")
    page = await visitor.submit("/login/register", stage="code", **fields)
    if page.errors or "Accept" in page.text:
        return page
    return await visitor.submit(
        "/login/register", stage="account", name=who.name, email=who.email, password="teapot lantern gravel", **fields
    )


async def chosen(app: App, scope: str, record: str) -> str:
    """The token of an app for which a carer chose a record."""
    page = await app.ask(scope)
    assert page.title.startswith("Whose record"), page.text
    page = await app.visitor.submit(
        "/oauth2/authorize", reference=page.hidden()["reference"], answer="patient", patient=record
    )
    assert page.title.startswith("Allow"), page.text
    answer = (await app.token(await app.answer(page, "allow"))).json
    assert answer["patient"] == record
    return str(answer["access_token"])


async def test_a_carer_comes_by_a_letter_and_acts_in_the_patients_name(
    people: People, visitor: Visitor, new_visitor: NewVisitor, new_app: NewApp, pool: asyncpg.Pool, mailbox: Mailbox
) -> None:
    """Invited, known by the date of birth, shown what is shared, marked in what he adds, gone when the patient says."""
    who = await people.patient(visitor)
    mine = await new_app(_OWNER)
    owner = (await mine.token(await mine.allow(_OWNER))).json["access_token"]
    kin = Somebody(f"kin-{who.email}", "Kim Kin")
    wanted = {"email": kin.email, "labels": ["general"], "acts": True}
    made = await rest(mine, owner, "POST", "/patients/me/carers", wanted)
    assert made.status == 201, made.body
    assert "code" not in made.json
    letter = await mailbox.wait(kin.email, "invites you")
    [code] = re.findall(r"code=([A-Z0-9-]+)", letter["body"])
    desk = new_visitor()
    refused = await accept(desk, kin, code, "1901-01-01")
    assert "do not belong together" in refused.errors
    page = await accept(desk, kin, code, who.born)
    assert page.query.get("note") == "registered", page.text
    assert (await rest(mine, owner, "GET", "/patients/me/carers")).json["invitations"] == []
    assert (await accept(new_visitor(), kin, code, who.born)).errors
    await people.signed_in(desk, kin)
    theirs = await new_app(_CARER, at=desk)
    token = await chosen(theirs, _CARER, who.record)
    assert (await theirs.fhir(token, f"Patient/{who.record}")).status == 200
    added = await theirs.fhir(token, "Observation", "POST", weight(who.record))
    assert added.status == 201, added.body
    [tag] = added.json["meta"]["tag"]
    assert (tag["code"], tag["display"]) == ("carer", kin.name)
    # His own entries are marked too, whatever the app says of them.
    lie = weight(who.record) | {"meta": {"tag": [tag]}}
    own = await mine.fhir(owner, "Observation", "POST", lie)
    assert own.status == 201, own.body
    assert [each["code"] for each in own.json["meta"]["tag"]] == ["patient"]
    log = (await rest(mine, owner, "GET", "/patients/me/access-log")).json["looks"]
    assert {"read", "wrote"} <= {each["action"] for each in log if each["who"] == kin.name}
    # He reads, and does not decide.
    assert (await rest(theirs, token, "PUT", f"/patients/{who.record}/sharing", {"on": False})).status == 403
    assert (await rest(theirs, token, "POST", f"/patients/{who.record}/carers", wanted)).status == 403
    [shared] = [each for each in (await rest(mine, owner, "GET", "/patients/me/sharings")).json["sharings"]
                if each["role"] == "carer"]  # fmt: skip
    assert shared["acts"]
    place = f"/patients/me/sharings/{shared['grantee']}"
    assert (await rest(mine, owner, "PUT", place, {"role": "carer", "labels": ["general"]})).status == 200
    assert (await theirs.fhir(token, f"Observation/{added.json['id']}")).status == 200
    assert (await theirs.fhir(token, "Observation", "POST", weight(who.record))).status == 403
    assert (await rest(mine, owner, "DELETE", place)).status == 204
    assert (await theirs.fhir(token, f"Patient/{who.record}")).status == 404
    assert (await theirs.fhir(token, "Observation", "POST", weight(who.record))).status in (403, 422)


async def test_a_patient_cares_for_another_with_the_account_that_he_has(
    people: People, visitor: Visitor, new_visitor: NewVisitor, new_app: NewApp, mailbox: Mailbox
) -> None:
    """Signed in, the link asks nothing but a yes; from then on apps ask whose record; the two are never mixed."""
    who = await people.patient(visitor)
    mine = await new_app(_OWNER)
    owner = (await mine.token(await mine.allow(_OWNER))).json["access_token"]
    desk = new_visitor()
    other = await people.patient(desk)
    await rest(mine, owner, "POST", "/patients/me/carers", {"email": other.email, "labels": ["general"], "acts": True})
    [code] = re.findall(r"code=([A-Z0-9-]+)", (await mailbox.wait(other.email, "invites you"))["body"])
    page = await accept(desk, other, code, who.born)
    assert "Accept" in page.text
    year, month, day = who.born.split("-")
    page = await desk.submit("/login/register", stage="caring", code=code, year=year, month=month, day=day)
    assert page.query.get("note") == "caring", page.text
    theirs = await new_app(_CARER, at=desk)
    token = await chosen(theirs, _CARER, who.record)
    added = await theirs.fhir(token, "Observation", "POST", weight(who.record))
    assert added.status == 201, added.body
    # This token opens that record alone, for reading and for writing; his own needs another.
    assert (await theirs.fhir(token, "Observation", "POST", weight(other.record))).status == 403
    assert (await theirs.fhir(token, f"Patient/{other.record}")).status == 404
    own = await chosen(theirs, _CARER, other.record)
    assert (await theirs.fhir(own, f"Patient/{other.record}")).status == 200
    assert (await theirs.fhir(own, f"Observation/{added.json['id']}")).status == 404
    assert (await theirs.fhir(own, "Observation", "POST", weight(who.record))).status == 403


async def test_who_may_invite_a_carer(
    people: People, visitor: Visitor, new_app: NewApp, pool: asyncpg.Pool, new_visitor: NewVisitor
) -> None:
    """A hospital for a child that it treats; nobody for anybody else."""
    who = await people.patient(visitor)
    desk = new_visitor()
    doctor = await people.professional(desk)
    scope = "user/*.rs user/Sharing.ru"
    theirs = await new_app(scope, at=desk)
    token = (await theirs.token(await theirs.allow(scope))).json["access_token"]
    body = {"email": f"kin-{doctor.email}", "labels": ["general"]}
    path = f"/patients/{who.record}/carers"
    assert (await rest(theirs, token, "POST", path, body)).status == 403
    await pool.execute(
        "UPDATE resource SET date_from = now() - interval '5 years' WHERE id = $1::uuid AND type = 'Patient'",
        who.record,
    )
    assert (await rest(theirs, token, "POST", path, body)).status == 403
    await pool.execute("UPDATE account SET roles = '{administrator}' WHERE email = $1", doctor.email)
    made = await rest(theirs, token, "POST", path, body)
    assert made.status == 201, made.body
    assert (await rest(theirs, token, "DELETE", f"{path}/{made.json['id']}")).status == 204
    assert (await rest(theirs, token, "DELETE", f"{path}/{made.json['id']}")).status == 404
    assert (await rest(theirs, token, "POST", path, body | {"email": "nobody"})).status == 422
    assert (await rest(theirs, token, "POST", path, body | {"labels": []})).status == 422
