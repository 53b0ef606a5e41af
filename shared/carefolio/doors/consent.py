"""REST: whose record is shared with whom, who looked, whose glass was broken (domain rules A8)."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel
from starlette.exceptions import HTTPException

from carefolio.doors.rest import ANYBODY, PATIENT, PROFESSIONAL, Call, Endpoint, number
from carefolio.fhir.definitions import resource_types
from carefolio.identity import accounts, grants
from carefolio.record import access_log, caring, caseload, choosing_labels, glass, reading_report, sharing
from carefolio.record.access_log import Look
from carefolio.record.caring import Waiting
from carefolio.record.consents import Sharing
from carefolio.record.ids import internal_id
from carefolio.record.reading_report import Finding

Label = Literal["general", "mental-health", "sexual-health", "social-care"]
_Reason = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]


class Said(BaseModel):
    """The body of a request: nothing in it that is not known."""

    model_config = ConfigDict(extra="forbid")


class Wanted(Said):
    """What somebody may see: labels (none say no), until when, whether what its author restricted too; and whether a
    carer ``acts`` in the patient's name.
    """

    role: Literal["team", "professional", "carer"]
    labels: list[Label]
    until: AwareDatetime | None = None
    confidential: bool = False
    acts: bool = False


class NewCarer(Said):
    """Whom to invite as a carer: he sees these labels, until then, and ``acts`` in the patient's name or not."""

    email: Annotated[str, Field(max_length=254, pattern=r"^[^\x00]*$")]
    labels: list[Label]
    acts: bool = False
    until: AwareDatetime | None = None


class Switch(Said):
    """Whether anything is shared at all."""

    on: bool


class Labelled(Said):
    """A privacy label."""

    label: Label


class Why(Said):
    """A reason, which the patient reads too."""

    reason: _Reason


class SharingShown(RootModel[Sharing]):
    """Who sees what."""


class Sharings(BaseModel):
    """Everybody who sees something of a record; ``on`` is false where the patient stopped sharing altogether."""

    on: bool
    sharings: list[Sharing]


class CarerShown(RootModel[Waiting]):
    """A carer who was invited and has not come yet."""


class Carers(BaseModel):
    """The invitations of carers that were not used yet; who has come is among the sharings."""

    invitations: list[Waiting]


class Looks(BaseModel):
    """A page of the access log, the newest first."""

    looks: list[Look]
    next: str | None


class Broken(BaseModel):
    """Until when a record is open at most; signing out closes it."""

    until: datetime


class PatientShown(BaseModel):
    """A patient in a professional's list, the labels that he sees, and the teams through which."""

    id: uuid.UUID
    name: str
    born: str
    nhs_number: str
    labels: list[str]
    teams: list[str]


class Patients(BaseModel):
    """A page of the list in the order of names."""

    patients: list[PatientShown]
    next: str | None


class GlassShown(BaseModel):
    """A broken glass: who, to whose record, when, why, and how often he looked."""

    id: uuid.UUID
    at: datetime
    until: datetime
    who: str
    patient: uuid.UUID
    reason: str
    looks: int


class Glasses(BaseModel):
    """The report of an organisation's privacy officer."""

    glasses: list[GlassShown]


class Findings(BaseModel):
    """What is odd about how an organisation's professionals read."""

    findings: list[Finding]


async def list_sharings(call: Call) -> Any:
    found = await sharing.of_record(call.pool, call.reader, call.patient)
    return {"on": await sharing.is_on(call.pool, call.patient), "sharings": found}


async def show_sharing(call: Call) -> Any:
    grantee = call.number("grantee")
    found = await sharing.of_record(call.pool, call.reader, call.patient)
    for each in found:
        if each.grantee == grantee and each.kind != "glass":
            return each
    raise HTTPException(404, "nothing was said of this grantee")


async def put_sharing(call: Call) -> Any:
    said: Wanted = call.body
    return await sharing.share(
        call.pool, call.reader, call.patient, call.number("grantee"), said.role, said.labels, until=said.until,
        confidential=said.confidential, acts=said.acts,
    )  # fmt: skip


async def delete_sharing(call: Call) -> None:
    grantee = call.number("grantee")
    known = [each for each in await sharing.of_record(call.pool, call.reader, call.patient) if each.grantee == grantee]
    if not known:
        raise HTTPException(404, "nothing is shared with this grantee")
    await sharing.share(call.pool, call.reader, call.patient, grantee, known[0].role, ())


async def list_carers(call: Call) -> Any:
    return {"invitations": await caring.waiting(call.pool, call.reader, call.patient)}


async def invite_carer(call: Call) -> Any:
    said: NewCarer = call.body
    return await caring.invite(
        call.pool, call.reader, call.patient, said.email, said.labels, acts=said.acts, until=said.until
    )


async def withdraw_carer(call: Call) -> None:
    await caring.withdraw(call.pool, call.reader, call.patient, call.number("invitation"))


async def switch_sharing(call: Call) -> None:
    await sharing.switch(call.pool, call.reader, call.patient, on=call.body.on)


async def label_item(call: Call) -> None:
    kind = call.path["type"]
    if kind not in resource_types():
        raise HTTPException(404, "no such resource type in FHIR R4")
    await choosing_labels.relabel(
        call.pool, call.reader, call.patient, kind, internal_id(kind, call.path["id"]), call.body.label
    )


async def label_team(call: Call) -> None:
    await choosing_labels.label_team(call.pool, call.reader, call.patient, call.number("team"), call.body.label)


async def list_looks(call: Call) -> Any:
    found = await access_log.looks(
        call.pool, call.reader, call.patient, own=call.query.get("own") == "true", count=call.count + 1,
        before=call.after,
    )  # fmt: skip
    page = found[: call.count]
    return {"looks": page, "next": call.cursor(page[-1].id) if len(found) > call.count else None}


async def break_glass(call: Call) -> Any:
    session = await grants.session_of(call.pool, call.token.grant_id) if call.token.grant_id else None
    return {"until": await glass.break_glass(call.pool, call.reader, call.patient, call.body.reason, session)}


async def list_glasses(call: Call) -> Any:
    await has_role(call, "privacy-officer")
    return {"glasses": await glass.report(call.pool, call.reader.organisation_id, since=_since(call))}


async def list_findings(call: Call) -> Any:
    await has_role(call, "privacy-officer")
    many = _number(call, "many", "100", 100_000)
    found = await reading_report.findings(call.pool, call.reader.organisation_id, since=_since(call), many=many)
    return {"findings": found}


def _since(call: Call) -> datetime:
    return datetime.now(UTC) - timedelta(days=_number(call, "days", "31", 400))


def _number(call: Call, name: str, default: str, most: int) -> int:
    text = call.query.get(name, default)
    if not (text.isascii() and text.isdigit() and len(text) < 7 and 1 <= int(text) <= most):
        raise HTTPException(422, f"{name}: a number from 1 to {most}")
    return int(text)


async def freeze(call: Call) -> None:
    await _officer_of(call)
    await sharing.freeze(call.pool, call.reader.actor, call.patient, call.body.reason)


async def unfreeze(call: Call) -> None:
    await _officer_of(call)
    await sharing.unfreeze(call.pool, call.reader.actor, call.patient, organisation=call.reader.organisation_id)


async def list_patients(call: Call) -> Any:
    after = (str(call.after[0]), number(call.after[1])) if call.after else None
    found = await caseload.patients(
        call.pool, call.reader, name=call.query.get("name", ""), count=call.count + 1, after=after
    )
    page = found[: call.count]
    cursor = call.cursor([page[-1].sort, page[-1].id]) if len(found) > call.count else None
    shown = [{name: getattr(each, name) for name in PatientShown.model_fields} for each in page]
    return {"patients": shown, "next": cursor}


async def has_role(call: Call, role: str) -> None:
    """Raise SharingError for who does not have a role."""
    if call.reader.account is None or not await accounts.has_role(call.pool, call.reader.account, role):
        raise sharing.SharingError(f"this is for a {role.replace('-', ' ')}", forbidden=True)


async def _officer_of(call: Call) -> None:
    """A privacy officer of an organisation that contributes to the record."""
    await has_role(call, "privacy-officer")
    if not await sharing.is_of_organisation(call.pool, call.patient, call.reader.organisation_id):
        raise sharing.SharingError("the record is not one of this organisation's", forbidden=True)


_OF = "/patients/{patient}"
_DAYS = ("days", "how far back: 1 to 400, else 31")
ENDPOINTS = (
    Endpoint("GET", "/patients", list_patients, "Patient", "s", "the professional's patients, in the order of names",
             (PROFESSIONAL,), answer=Patients, paged=True,
             query=(("name", "with which the family name begins"),)),
    Endpoint("GET", f"{_OF}/sharings", list_sharings, "Sharing", "r", "who sees what of a record", (PATIENT,),
             answer=Sharings),
    Endpoint("GET", f"{_OF}/sharings/{{grantee}}", show_sharing, "Sharing", "r", "what somebody sees of a record",
             (PATIENT,), answer=SharingShown),
    Endpoint("PUT", f"{_OF}/sharings/{{grantee}}", put_sharing, "Sharing", "u",
             "share with a team, a professional or a carer, by label", (PATIENT,), body=Wanted, answer=SharingShown),
    Endpoint("DELETE", f"{_OF}/sharings/{{grantee}}", delete_sharing, "Sharing", "u", "share no more", (PATIENT,)),
    Endpoint("GET", f"{_OF}/carers", list_carers, "Sharing", "r", "carers who were invited and have not come yet",
             ANYBODY, answer=Carers),
    Endpoint("POST", f"{_OF}/carers", invite_carer, "Sharing", "u",
             "invite a carer: by the patient, or by an organisation for a child", ANYBODY, body=NewCarer,
             answer=CarerShown, status=201),
    Endpoint("DELETE", f"{_OF}/carers/{{invitation}}", withdraw_carer, "Sharing", "u", "withdraw an invitation",
             ANYBODY),
    Endpoint("PUT", f"{_OF}/sharing", switch_sharing, "Sharing", "u", "stop sharing altogether, or share again",
             (PATIENT,), body=Switch),
    Endpoint("PUT", f"{_OF}/items/{{type}}/{{id}}/label", label_item, "Sharing", "u", "choose an item's privacy label",
             (PATIENT,), body=Labelled),
    Endpoint("PUT", f"{_OF}/team-labels/{{team}}", label_team, "Sharing", "u",
             "choose the label of what a team contributes from now on", (PATIENT,), body=Labelled),
    Endpoint("GET", f"{_OF}/access-log", list_looks, "AccessLog", "r", "who looked, and who wrote", (PATIENT,),
             answer=Looks, paged=True, query=(("own", "true: what the patient did himself, too"),)),
    Endpoint("POST", f"{_OF}/glass", break_glass, "Glass", "c", "open a record that is not shared, with a reason",
             (PROFESSIONAL,), body=Why, answer=Broken, status=201),
    Endpoint("GET", "/glasses", list_glasses, "Glass", "s", "whose glass was broken, by whom, why", (PROFESSIONAL,),
             answer=Glasses, query=(_DAYS,)),
    Endpoint("GET", "/findings", list_findings, "Glass", "s",
             "much reading, look-ups of colleagues and of namesakes", (PROFESSIONAL,), answer=Findings,
             query=(_DAYS, ("many", "from so many patients in a day on, else 100"))),
    Endpoint("PUT", f"{_OF}/freeze", freeze, "Freeze", "u", "close a record to everybody", (PROFESSIONAL,), body=Why),
    Endpoint("DELETE", f"{_OF}/freeze", unfreeze, "Freeze", "u", "open it again", (PROFESSIONAL,)),
)  # fmt: skip
