"""What patients, carers and professionals write into a record: own entries, files, corrections, messages, plans."""

from __future__ import annotations

from datetime import datetime

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from carefolio.doors.pages import Form
from carefolio.doors.portal.frame import (
    Refusal,
    Visit,
    first_error,
    plain_form,
    plain_page,
    read_number,
    record_form,
    record_page,
)
from carefolio.fhir.definitions import resource_types
from carefolio.record import conversations, corrections, entries, items, sharing
from carefolio.record.entries import KINDS, EntryError
from carefolio.record.ids import internal_id
from carefolio.view.telling import LONDON, tell

_FIELDS = ("kind", "values", "at", "note", "name", "severity", "text", "title", "file", "topic", "team", "goal")
_LARGEST_FORM = entries.LARGEST_FILE + 64 * 1024


async def add_page(visit: Visit) -> Response:
    """GET /record/add/[thing]."""
    return _add(visit, visit.path("thing"), Form({"kind": visit.query("kind")}))


def _add(visit: Visit, thing: str, form: Form, errors: dict[str, str] | None = None) -> Response:
    may = ("file", "plan") if visit.session.account.is_professional else ("measurement", "symptom", "journal", "file")
    if thing not in may:
        raise HTTPException(404, "there is no such page")
    chosen = KINDS.get(form.get("kind"))
    return visit.page("add.html", status=400 if errors else 200, thing=thing, form=form.fields, errors=errors or {},
                      kinds=KINDS.values(), chosen=chosen)  # fmt: skip


async def add(visit: Visit, form: Form) -> Response:
    """POST /record/add/[thing]."""
    thing = visit.path("thing")
    try:
        await _write(visit, thing, form)
    except Refusal as error:
        return _add(visit, thing, form, first_error(error, _FIELDS))
    section = {"measurement": "measurements", "symptom": "symptoms", "file": "documents", "plan": "plans"}.get(
        thing, "journal"
    )
    return visit.go(f"/{section}", "measured" if thing == "measurement" else "noted")


async def _write(visit: Visit, thing: str, form: Form) -> None:
    pool, reader, record, at = visit.pool, visit.reader, visit.record, _moment(form)
    if thing == "measurement":
        kind = KINDS.get(form.get("kind"))
        values = [form.get(f"value{number}") for number in range(len(kind.quantities) if kind else 0)]
        await entries.measure(pool, reader, record, form.get("kind"), values, at=at, note=form.get("note"))
    elif thing == "symptom":
        severity = form.get("severity").strip()
        if severity and not (severity.isascii() and severity.isdigit() and len(severity) < 3):
            raise EntryError("severity: a number from 0 to 10")
        await entries.symptom(pool, reader, record, form.get("name"), severity=int(severity) if severity else None,
                              at=at, note=form.get("note"))  # fmt: skip
    elif thing == "journal":
        await entries.note_down(pool, reader, record, form.get("text"), at=at)
    elif thing == "file":
        await entries.add_file(pool, reader, record, form.get("title"), form.file, at=at)
    elif thing == "plan" and visit.session.account.is_professional:
        await entries.plan(pool, reader, record, form.get("title"), form.get("text"), form.get("goal").splitlines())
    else:
        raise HTTPException(404, "there is no such page")


def _moment(form: Form) -> datetime | None:
    """The moment in a form, by the clock on the wall; None for now."""
    text = form.get("at").strip()
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=LONDON)
    except ValueError:
        raise EntryError("at: a day and a time") from None


async def take_back(visit: Visit, form: Form) -> Response:
    """POST /record/items/[type]/[id]/take-back: one's own entry."""
    kind = visit.path("type")
    number = internal_id(kind, visit.path("id")) if kind in resource_types() else None
    found = await items.one(visit.pool, visit.reader, visit.record, number) if number else None
    if found is None or not found.own:
        raise HTTPException(404, "there is no such entry of your own")
    await entries.delete(visit.pool, visit.reader, found.type, found.id)
    return visit.go("", "taken-back")


async def correction_page(visit: Visit) -> Response:
    """GET /record/items/[type]/[id]/correction."""
    return await _correction(visit)


async def _correction(visit: Visit, text: str = "", errors: dict[str, str] | None = None) -> Response:
    kind = visit.path("type")
    number = internal_id(kind, visit.path("id")) if kind in resource_types() else None
    found = await items.one(visit.pool, visit.reader, visit.record, number) if number else None
    if found is None:
        raise HTTPException(404, "there is no such item")
    return visit.page("correction.html", status=400 if errors else 200, told=tell(found.resource), text=text,
                      errors=errors or {}, organisation=", ".join(found.organisations))  # fmt: skip


async def ask_correction(visit: Visit, form: Form) -> Response:
    """POST /record/items/[type]/[id]/correction."""
    kind = visit.path("type")
    if kind not in resource_types():
        raise HTTPException(404, "there is no such item")
    try:
        await corrections.ask(visit.pool, visit.reader, visit.record, internal_id(kind, visit.path("id")),
                              form.get("text"))  # fmt: skip
    except Refusal as error:
        return await _correction(visit, form.get("text"), first_error(error, _FIELDS))
    return visit.go("/corrections", "asked")


async def corrections_page(visit: Visit) -> Response:
    """GET /record/corrections."""
    found = await corrections.of_record(visit.pool, visit.reader, visit.record)
    return visit.page("corrections.html", found=found)


async def messages(visit: Visit) -> Response:
    """GET /record/messages."""
    found = await conversations.of_record(visit.pool, visit.reader, visit.record)
    return visit.page("messages.html", found=found)


async def write_page(visit: Visit) -> Response:
    """GET /record/write: a new message."""
    return await _new_message(visit, Form({"team": visit.query("team")}))


async def _new_message(visit: Visit, form: Form, errors: dict[str, str] | None = None) -> Response:
    account = visit.session.account
    if account.is_professional:
        teams = await conversations.teams_of_member(visit.pool, visit.reader)
    else:
        teams = await conversations.teams_of_record(visit.pool, visit.reader, visit.record)
    return visit.page("write.html", status=400 if errors else 200, teams=teams, form=form.fields, errors=errors or {})


async def write(visit: Visit, form: Form) -> Response:
    """POST /record/write."""
    try:
        team = read_number(form.get("team"))
    except HTTPException:
        return await _new_message(visit, form, {"team": "Choose a team"})
    try:
        made = await conversations.begin(
            visit.pool, visit.reader, visit.record, team, form.get("topic"), form.get("text")
        )
    except Refusal as error:
        return await _new_message(visit, form, first_error(error, _FIELDS))
    if visit.session.account.is_professional:
        return visit.go(f"//inbox/{made.id}", "sent")
    return visit.go(f"/messages/{made.id}", "sent")


async def message(visit: Visit) -> Response:
    """GET /record/messages/[number]."""
    return await conversation(visit)


async def conversation(visit: Visit, text: str = "", errors: dict[str, str] | None = None) -> Response:
    """A conversation, with a form to go on."""
    known, said = await conversations.read(visit.pool, visit.reader, visit.number("conversation"))
    if visit.patient is not None and not await sharing.is_same_person(visit.pool, known.patient, visit.record):
        raise HTTPException(404, "there is no such conversation")
    return visit.page("conversation.html", status=400 if errors else 200, known=known, said=said, text=text,
                      errors=errors or {})  # fmt: skip


async def reply(visit: Visit, form: Form) -> Response:
    """POST /record/messages/[number], and /inbox/[number]."""
    number = visit.number("conversation")
    if visit.patient is not None:
        known, _ = await conversations.read(visit.pool, visit.reader, number)
        if not await sharing.is_same_person(visit.pool, known.patient, visit.record):
            raise HTTPException(404, "there is no such conversation")
    try:
        await conversations.reply(visit.pool, visit.reader, number, form.get("text"))
    except Refusal as error:
        return await conversation(visit, form.get("text"), first_error(error, _FIELDS))
    return visit.go(f"/messages/{number}" if visit.patient else f"//inbox/{number}", "sent")


async def inbox(visit: Visit) -> Response:
    """GET /inbox: what waits for the teams of a professional."""
    every = visit.query("all") == "true"
    found = await conversations.inbox(visit.pool, visit.reader, waiting=not every)
    return visit.page("inbox.html", found=found, every=every)


async def close(visit: Visit, form: Form) -> Response:
    """POST /inbox/[number]/close."""
    await conversations.close(visit.pool, visit.reader, visit.number("conversation"))
    return visit.go("//inbox", "closed")


async def every_page(visit: Visit) -> Response:
    """GET /record/all: a list of all pages."""
    on = await sharing.is_on(visit.pool, visit.record) if visit.is_own else True
    return visit.page("all.html", on=on)


ROUTES: list[Route] = [
    *record_page("/all", every_page, then=True),
    *record_page("/add/{thing}", add_page),
    *record_form("/add/{thing}", add, longest=_LARGEST_FORM),
    *record_form("/items/{type}/{id}/take-back", take_back),
    *record_page("/items/{type}/{id}/correction", correction_page),
    *record_form("/items/{type}/{id}/correction", ask_correction),
    *record_page("/corrections", corrections_page),
    *record_page("/messages", messages),
    *record_page("/messages/{conversation}", message),
    *record_form("/messages/{conversation}", reply),
    *record_page("/write", write_page),
    *record_form("/write", write),
    *plain_page("/inbox", inbox, "professional"),
    *plain_page("/inbox/{conversation}", conversation, "professional"),
    *plain_form("/inbox/{conversation}", reply, "professional"),
    *plain_form("/inbox/{conversation}/close", close, "professional"),
]
