"""Pages of an organisation's administrators and privacy officers, and of the operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from carefolio.doors.pages import Form
from carefolio.doors.portal.frame import LABELS, PER_PAGE, Visit, plain_form, plain_page, read_number
from carefolio.extracts import agreements
from carefolio.extracts import status as extract_status
from carefolio.identity import registry, sender_settings, senders, teams
from carefolio.identity.teams import TeamError
from carefolio.record import (
    corrections,
    decisions,
    directory,
    doubts,
    figures,
    glass,
    local_codes,
    matching,
    messages,
    reading_report,
    replay,
    trying_out,
)
from carefolio.record.decisions import DecisionError
from carefolio.record.sharing import SharingError
from carefolio.view import telling
from carefolio.view.charts import Line, Point, line_chart

# What tells one person from another, of telling.person.
_COMPARED = (("name", "Name"), ("born", "Born"), ("gender", "Gender"), ("nhs_number", "NHS number"),
             ("address", "Address"), ("telephone", "Telephone"))  # fmt: skip
_ADMINISTRATOR, _OFFICER, _OPERATOR = "administrator", "privacy-officer", "operator"


def _organisation(visit: Visit) -> Any:
    owner = visit.session.account.organisation_id
    assert owner is not None
    return owner


async def overview(visit: Visit) -> Response:
    """GET /organisation: what waits for a person."""
    owner = _organisation(visit)
    held = await messages.list_messages(visit.pool, status="held", organisation_id=owner, limit=100)
    failed = await messages.list_messages(visit.pool, status="failed", organisation_id=owner, limit=100)
    asked = await corrections.of_organisation(visit.pool, owner)
    code = await registry.ods_code(visit.pool, owner)
    return visit.page("organisation.html", held=len(held), failed=len(failed), asked=len(asked),
                      missing=len(await matching.missing(visit.pool, owner, limit=100)),
                      codes=len(await local_codes.work(visit.pool, code)))  # fmt: skip


async def message_list(visit: Visit) -> Response:
    """GET /organisation/messages?status=&control=&before=."""
    status = visit.query("status")
    if status and status not in messages.STATUSES:
        raise HTTPException(404, "there is no such page")
    before = visit.query("before")
    found = await messages.list_messages(
        visit.pool, status=status or None, control_id=visit.query("control") or None,
        organisation_id=_organisation(visit), limit=PER_PAGE + 1,
        before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
    )  # fmt: skip
    page = found[:PER_PAGE]
    return visit.page("messages_list.html", found=page, chosen=status, statuses=messages.STATUSES,
                      next=page[-1]["seq"] if len(found) > PER_PAGE else 0)  # fmt: skip


async def message(visit: Visit) -> Response:
    """GET /organisation/messages/[number]: its life, its bytes, what it wrote."""
    found = await messages.show_message(visit.pool, visit.number("message"), visit.reader.actor,
                                        organisation_id=_organisation(visit))  # fmt: skip
    if found is None:
        raise HTTPException(404, "the organisation has no such message")
    compared = []
    if found["decidable"]:
        said = await doubts.sides(visit.pool, visit.number("message"), _organisation(visit), visit.reader.actor)
        people = [telling.person(each) for each in said]
        compared = [(what, [each[name] or "not said" for each in people]) for name, what in _COMPARED] if people else []
    return visit.page("message.html", found=found, compared=compared,
                      segments=found["raw"].replace("\r\n", "\r").split("\r"))  # fmt: skip


async def decide(visit: Visit, form: Form) -> Response:
    """POST /organisation/messages/[number]: yes or no to what it asks."""
    number = visit.number("message")
    if not await messages.is_of(visit.pool, number, _organisation(visit)):
        raise HTTPException(404, "the organisation has no such message")
    approve = form.get("answer") == "yes"
    try:
        await decisions.review(visit.pool, number, visit.reader.actor, approve=approve)
    except DecisionError as error:
        raise SharingError(str(error)) from None
    return visit.go(f"//organisation/messages/{number}", "approved" if approve else "rejected")


async def sender_list(visit: Visit) -> Response:
    """GET /organisation/senders."""
    return visit.page("senders.html", found=await senders.of_organisation(visit.pool, _organisation(visit)))


async def sender(visit: Visit) -> Response:
    """GET /organisation/senders/[name]: what was agreed, the last messages, and a way to try one."""
    return await _sender(visit)


async def _sender(visit: Visit, raw: str = "", tried: trying_out.Tried | None = None) -> Response:
    owner = _organisation(visit)
    known = await sender_settings.load(visit.pool, visit.path("sender"), owner)
    if known is None:
        raise HTTPException(404, "the organisation has no such sender")
    latest = await messages.list_messages(visit.pool, sender_id=known.sender_id, organisation_id=owner, limit=10)
    return visit.page("sender.html", known=known, latest=latest, raw=raw, tried=tried)


async def try_message(visit: Visit, form: Form) -> Response:
    """POST /organisation/senders/[name]/try: nothing is stored."""
    raw = form.get("message")
    known = await sender_settings.load(visit.pool, visit.path("sender"), _organisation(visit))
    if known is None:
        raise HTTPException(404, "the organisation has no such sender")
    lines = "\r".join(line for line in raw.replace("\r\n", "\n").split("\n") if line.strip())
    tried = await trying_out.try_out(visit.pool, _organisation(visit), known, lines.encode())
    return await _sender(visit, raw, tried)


async def correction_list(visit: Visit) -> Response:
    """GET /organisation/corrections."""
    found = await corrections.of_organisation(visit.pool, _organisation(visit))
    return visit.page("corrections_list.html", found=found)


async def answer_correction(visit: Visit, form: Form) -> Response:
    """POST /organisation/corrections."""
    status = corrections.DONE if form.get("status") == "done" else corrections.REFUSED
    await corrections.answer(visit.pool, _organisation(visit), visit.reader.actor, read_number(form.get("number")),
                             status, form.get("answer"))  # fmt: skip
    return visit.go("//organisation/corrections", "answered")


async def code_list(visit: Visit) -> Response:
    """GET /organisation/codes: those that nobody else understands."""
    code = await registry.ods_code(visit.pool, _organisation(visit))
    found = await local_codes.work(visit.pool, code, solved=visit.query("solved") == "true")
    return visit.page("codes.html", found=found[:200], solved=visit.query("solved") == "true")


async def solve_code(visit: Visit, form: Form) -> Response:
    """POST /organisation/codes."""
    code = await registry.ods_code(visit.pool, _organisation(visit))
    target = (form.get("target_system"), form.get("target_code"), form.get("target_display"))
    try:
        patients = await local_codes.solve(visit.pool, code, (form.get("system"), form.get("code")), target,
                                           visit.reader.actor)  # fmt: skip
    except local_codes.CodeError as error:
        raise SharingError(str(error)) from None
    async for _ in replay.rebuild_records(visit.pool, patients, visit.reader.actor, apply=True):
        pass
    return visit.go("//organisation/codes", "solved")


async def missing(visit: Visit) -> Response:
    """GET /organisation/missing: numbers that messages wait for."""
    return visit.page("missing.html", found=await matching.missing(visit.pool, _organisation(visit), limit=200))


async def team_list(visit: Visit) -> Response:
    """GET /organisation/teams."""
    return visit.page("teams.html", found=await teams.of_organisation(visit.pool, _organisation(visit)), labels=LABELS)


async def add_team(visit: Visit, form: Form) -> Response:
    """POST /organisation/teams."""
    labels = [name for name in LABELS if form.get(f"label-{name}") == "true"]
    try:
        made = await teams.add(
            visit.pool, _organisation(visit), visit.reader.actor, form.get("name"), "general", labels
        )
    except TeamError as error:
        raise SharingError(str(error)) from None
    await directory.publish(visit.pool, made.id, visit.reader.actor)
    return visit.go("//organisation/teams", "made")


async def team(visit: Visit) -> Response:
    """GET /organisation/teams/[number]: who is in it."""
    owner, number = _organisation(visit), visit.number("team")
    try:
        found = await teams.find(visit.pool, owner, number)
        members = await teams.members(visit.pool, owner, number)
    except TeamError as error:
        raise HTTPException(404, str(error)) from None
    return visit.page("team.html", team=found, members=members, others=await teams.people(visit.pool, owner, number))


async def change_member(visit: Visit, form: Form) -> Response:
    """POST /organisation/teams/[number]: somebody joins, or leaves."""
    owner, number, account = _organisation(visit), visit.number("team"), read_number(form.get("account"))
    leaving = form.get("leave") == "true"
    try:
        if leaving:
            await teams.leave(visit.pool, owner, visit.reader.actor, number, account)
        else:
            await teams.join(visit.pool, owner, visit.reader.actor, number, account,
                             coordinator=form.get("coordinator") == "true")  # fmt: skip
    except TeamError as error:
        raise SharingError(str(error)) from None
    await directory.publish(visit.pool, number, visit.reader.actor, left=account if leaving else None)
    return visit.go(f"//organisation/teams/{number}", "changed")


async def privacy(visit: Visit) -> Response:
    """GET /privacy: broken glasses, much reading, look-ups of colleagues and namesakes."""
    owner, since = _organisation(visit), datetime.now(UTC) - timedelta(days=31)
    broken = await glass.report(visit.pool, owner, since=since)
    found = await reading_report.findings(visit.pool, owner, since=since)
    return visit.page("privacy.html", broken=broken, found=found)


async def status(visit: Visit) -> Response:
    """GET /operator: live figures."""
    now = await figures.figures(visit.pool)
    chart = line_chart("Messages in an hour", [Line("messages", [Point(at, many) for at, many in now.hours])], "")
    return visit.page("status.html", now=now, chart=chart, hours=now.hours)


async def extract_list(visit: Visit) -> Response:
    """GET /operator/extracts: the agreements, and how their nights went."""
    found = [
        await extract_status.overview(visit.pool, each, batches_shown=5)
        for each in await agreements.all_of_them(visit.pool)
    ]
    return visit.page("extracts.html", found=found)


async def client_list(visit: Visit) -> Response:
    """GET /organisation/clients: the organisation's apps and systems."""
    return visit.page("clients.html", found=await registry.clients_of(visit.pool, _organisation(visit)))


async def end_client(visit: Visit, form: Form) -> Response:
    """POST /organisation/clients/end."""
    known = [each["id"] for each in await registry.clients_of(visit.pool, _organisation(visit))]
    if form.get("client") not in known:
        raise HTTPException(404, "the organisation has no such client")
    await registry.end_client(visit.pool, form.get("client"))
    return visit.go("//organisation/clients", "ended")


ROUTES: list[Route] = [
    *plain_page("/organisation", overview, _ADMINISTRATOR),
    *plain_page("/organisation/messages", message_list, _ADMINISTRATOR),
    *plain_page("/organisation/messages/{message}", message, _ADMINISTRATOR),
    *plain_form("/organisation/messages/{message}", decide, _ADMINISTRATOR),
    *plain_page("/organisation/senders", sender_list, _ADMINISTRATOR),
    *plain_page("/organisation/senders/{sender}", sender, _ADMINISTRATOR),
    *plain_form("/organisation/senders/{sender}/try", try_message, _ADMINISTRATOR, longest=2 * trying_out.LONGEST),
    *plain_page("/organisation/corrections", correction_list, _ADMINISTRATOR),
    *plain_form("/organisation/corrections", answer_correction, _ADMINISTRATOR),
    *plain_page("/organisation/codes", code_list, _ADMINISTRATOR),
    *plain_form("/organisation/codes", solve_code, _ADMINISTRATOR),
    *plain_page("/organisation/missing", missing, _ADMINISTRATOR),
    *plain_page("/organisation/teams", team_list, _ADMINISTRATOR),
    *plain_form("/organisation/teams", add_team, _ADMINISTRATOR),
    *plain_page("/organisation/teams/{team}", team, _ADMINISTRATOR),
    *plain_form("/organisation/teams/{team}", change_member, _ADMINISTRATOR),
    *plain_page("/privacy", privacy, _OFFICER),
    *plain_page("/operator", status, _OPERATOR),
    *plain_page("/operator/extracts", extract_list, _OPERATOR),
    *plain_page("/organisation/clients", client_list, _ADMINISTRATOR),
    *plain_form("/organisation/clients/end", end_client, _ADMINISTRATOR),
]
