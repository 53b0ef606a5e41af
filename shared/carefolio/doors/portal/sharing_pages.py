"""The patient decides: who sees what, carers, labels; and reads who looked."""

from __future__ import annotations

from datetime import datetime, time

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from carefolio.doors.pages import Form
from carefolio.doors.portal.frame import (
    LABELS,
    PER_PAGE,
    Refusal,
    Visit,
    first_error,
    read_number,
    record_form,
    record_page,
    table,
)
from carefolio.fhir.definitions import resource_types
from carefolio.record import access_log, caring, choosing_labels, sharing
from carefolio.record.ids import internal_id
from carefolio.record.sharing import SharingError
from carefolio.view.telling import LONDON

_MOST_CSV = 20_000
_FIELDS = ("email", "labels", "until", "who", "team")


async def show(visit: Visit) -> Response:
    """GET /record/sharing: everybody who sees something, in one table."""
    found = await sharing.of_record(visit.pool, visit.reader, visit.record)
    waiting = await caring.waiting(visit.pool, visit.reader, visit.record)
    on = await sharing.is_on(visit.pool, visit.record)
    contributors = await sharing.contributors(visit.pool, visit.record)
    return visit.page("sharing.html", found=found, waiting=waiting, on=on, labels=LABELS, contributors=contributors)


async def switch(visit: Visit, form: Form) -> Response:
    """POST /record/sharing/switch: stop altogether, or share again."""
    if form.get("on") not in ("true", "false"):
        raise HTTPException(400, "the form says neither to stop nor to share")
    on = form.get("on") == "true"
    await sharing.switch(visit.pool, visit.reader, visit.record, on=on)
    return visit.go("/sharing", "started" if on else "stopped")


async def stop_page(visit: Visit) -> Response:
    """GET /record/sharing/stop: what it would mean, before it is done."""
    return visit.page("stop.html")


async def one(visit: Visit) -> Response:
    """GET /record/sharing/with/[number]: what somebody sees, to change it."""
    return await _one(visit)


async def _one(visit: Visit, errors: dict[str, str] | None = None) -> Response:
    number = visit.number("grantee")
    found = [each for each in await sharing.of_record(visit.pool, visit.reader, visit.record)
             if each.grantee == number and each.kind != "glass"]  # fmt: skip
    known = found[0] if found else None
    if known is None:
        team = await sharing.team_named(visit.pool, number)
        if team is None:
            raise HTTPException(404, "there is nobody of whom you could say something")
        name, organisation = team
    else:
        name, organisation = known.name, known.organisation
    return visit.page("share.html", status=400 if errors else 200, known=known, name=name, organisation=organisation,
                      number=number, role=known.role if known else sharing.TEAM, labels=LABELS,
                      errors=errors or {})  # fmt: skip


async def change(visit: Visit, form: Form) -> Response:
    """POST /record/sharing/with/[number]: by label, until when; no label says no."""
    try:
        await sharing.share(
            visit.pool, visit.reader, visit.record, visit.number("grantee"), form.get("role"), _labels(form),
            until=_until(form), confidential=form.get("confidential") == "true", acts=form.get("acts") == "true",
        )  # fmt: skip
    except Refusal as error:
        return await _one(visit, first_error(error, _FIELDS))
    return visit.go("/sharing", "shared" if _labels(form) else "unshared")


async def add(visit: Visit) -> Response:
    """GET /record/sharing/add?who=: a team to share with, found by its name or its organisation's."""
    who = visit.query("who").strip()
    found = await sharing.teams_like(visit.pool, who) if who else []
    return visit.page("share_add.html", who=who, found=found)


async def carers(visit: Visit) -> Response:
    """GET /record/sharing/carers: to invite one."""
    return await _carers(visit, Form({"label-general": "true"}))


async def _carers(visit: Visit, form: Form, errors: dict[str, str] | None = None) -> Response:
    waiting = await caring.waiting(visit.pool, visit.reader, visit.record)
    return visit.page("carers.html", status=400 if errors else 200, waiting=waiting, form=form.fields, labels=LABELS,
                      errors=errors or {})  # fmt: skip


async def invite(visit: Visit, form: Form) -> Response:
    """POST /record/sharing/carers."""
    try:
        await caring.invite(visit.pool, visit.reader, visit.record, form.get("email"), _labels(form),
                            acts=form.get("acts") == "true", until=_until(form))  # fmt: skip
    except Refusal as error:
        return await _carers(visit, form, first_error(error, _FIELDS))
    return visit.go("/sharing", "invited")


async def withdraw(visit: Visit, form: Form) -> Response:
    """POST /record/sharing/carers/withdraw."""
    await caring.withdraw(visit.pool, visit.reader, visit.record, read_number(form.get("number")))
    return visit.go("/sharing", "withdrawn")


async def relabel(visit: Visit, form: Form) -> Response:
    """POST /record/items/[type]/[id]/label."""
    kind, name = visit.path("type"), visit.path("id")
    if kind not in resource_types():
        raise HTTPException(404, "there is no such item")
    await choosing_labels.relabel(
        visit.pool, visit.reader, visit.record, kind, internal_id(kind, name), form.get("label")
    )
    return visit.go(f"/items/{kind}/{name}", "labelled")


async def log(visit: Visit) -> Response:
    """GET /record/sharing/access-log: who looked, who wrote, when, why; one's own looks are folded away."""
    before = visit.query("before")
    own = visit.query("own") == "true"
    if visit.query("format") == "csv":
        every = await access_log.looks(visit.pool, visit.reader, visit.record, own=own, count=_MOST_CSV)
        rows = [(each.at.isoformat(), "you" if each.own else each.who, each.organisation, each.through, each.action,
                 each.section, each.reason) for each in every]  # fmt: skip
        return table("access-log", ("when", "who", "organisation", "with", "what", "section", "reason"), rows)
    found = await access_log.looks(
        visit.pool, visit.reader, visit.record, own=own, count=PER_PAGE + 1,
        before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
    )  # fmt: skip
    page = found[:PER_PAGE]
    return visit.page(
        "access_log.html", looks=access_log.folded(page), own=own, next=page[-1].id if len(found) > PER_PAGE else 0
    )


def _labels(form: Form) -> list[str]:
    return [name for name in LABELS if form.get(f"label-{name}") == "true"]


def _until(form: Form) -> datetime | None:
    """The last day on which it is shared, whole. Raises SharingError."""
    text = form.get("until").strip()
    if not text:
        return None
    try:
        return datetime.combine(datetime.fromisoformat(text).date(), time(23, 59, 59), LONDON)
    except ValueError:
        raise SharingError("until: a day") from None


ROUTES: list[Route] = [
    *record_page("/sharing", show),
    *record_page("/sharing/stop", stop_page),
    *record_form("/sharing/switch", switch),
    *record_page("/sharing/add", add),
    *record_page("/sharing/with/{grantee}", one),
    *record_form("/sharing/with/{grantee}", change),
    *record_page("/sharing/carers", carers),
    *record_form("/sharing/carers", invite),
    *record_form("/sharing/carers/withdraw", withdraw),
    *record_page("/sharing/access-log", log),
    *record_form("/items/{type}/{id}/label", relabel),
]
