"""REST: a record as people read it, what its patient writes into it, what he asks for; messages with teams."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Awaitable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, Field, RootModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from carefolio.doors.consent import Said
from carefolio.doors.rest import ANYBODY, PATIENT, PROFESSIONAL, SYSTEM, Call, Endpoint
from carefolio.doors.structure import administrator
from carefolio.fhir.definitions import resource_types
from carefolio.fhir.errors import FhirError
from carefolio.record import conversations, corrections, entries, export, items
from carefolio.record.conversations import Conversation
from carefolio.record.corrections import Correction
from carefolio.record.entries import EntryError
from carefolio.record.ids import internal_id
from carefolio.record.items import Item
from carefolio.record.resources import Result
from carefolio.view.sections import KINDS, SECTIONS
from carefolio.view.telling import tell

T = TypeVar("T")
Text = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^[^\x00]*$")]


class ItemShown(BaseModel):
    """An item in words: what, how much, when, from whom; its FHIR form is at ``reference``."""

    reference: str
    title: str
    value: str
    when: str
    flag: str
    usual: str
    status: str
    source: str
    label: str
    text: str


class Items(BaseModel):
    """A page of a record's items, the newest first."""

    items: list[ItemShown]
    next: str | None


class Measurement(Said):
    """A measurement: a number for each of its quantities."""

    kind: Literal["blood-pressure", "weight", "height", "heart-rate", "temperature", "oxygen", "glucose", "peak-flow"]
    values: Annotated[list[Annotated[str, Field(max_length=10)]], Field(min_length=1, max_length=2)]
    at: AwareDatetime | None = None
    note: Annotated[str, Field(max_length=4000)] = ""


class Symptom(Said):
    """A symptom, and how bad it is from 0 to 10."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    severity: Annotated[int, Field(ge=0, le=10)] | None = None
    at: AwareDatetime | None = None
    note: Annotated[str, Field(max_length=4000)] = ""


class JournalEntry(Said):
    """What somebody writes for himself."""

    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    at: AwareDatetime | None = None


class File(Said):
    """A PDF, a picture or a plain text, in base64; at most 5 MB."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    data: Annotated[str, Field(max_length=7 * 1024 * 1024)]
    at: AwareDatetime | None = None


class Written(BaseModel):
    """Where it is, as FHIR."""

    reference: str


class NewCorrection(Said):
    """What is wrong in an item (``Type/id``)."""

    item: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]{2,40}/[A-Za-z0-9.-]{1,64}$")]
    text: Text


class Decision(Said):
    """What the organisation says to a correction."""

    status: Literal["done", "refused"]
    answer: Text


class CorrectionShown(RootModel[Correction]):
    """A correction that was asked for."""


class Corrections(BaseModel):
    """Corrections that were asked for."""

    corrections: list[Correction]


class NewConversation(Said):
    """The first message to a team, or of a team."""

    team: uuid.UUID
    topic: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    text: Text


class Message(Said):
    """What is said."""

    text: Text


class MessageSaid(BaseModel):
    """A message of a conversation."""

    at: datetime
    sender: str
    text: str


class ConversationShown(RootModel[Conversation]):
    """A conversation of a patient and a team."""


class Conversations(BaseModel):
    """Conversations."""

    conversations: list[Conversation]


class ConversationWhole(BaseModel):
    """A conversation and its messages, the first first."""

    conversation: Conversation
    messages: list[MessageSaid]


async def list_items(call: Call) -> Any:
    section, after = call.query.get("section", ""), None
    if section and section not in SECTIONS:
        raise HTTPException(422, f"section: one of {', '.join(SECTIONS)}")
    if call.after:
        after = (datetime.fromisoformat(call.after[0]), uuid.UUID(call.after[1]))
    asked: dict[str, Any] = {"count": call.count + 1, "after": after, "words": call.query.get("words", "")}
    if section:
        found = await items.of_section(call.pool, call.reader, call.patient, SECTIONS[section], **asked)
    else:
        found = await items.of_kinds(call.pool, call.reader, call.patient, KINDS, **asked)
    page = found[: call.count]
    cursor = call.cursor([page[-1].at.isoformat(), str(page[-1].number)]) if len(found) > call.count else None
    return {"items": [_shown(each) for each in page], "next": cursor}


def _shown(item: Item) -> dict[str, Any]:
    told = tell(item.resource)
    return {
        "reference": f"{item.type}/{item.id}", "title": told.title, "value": told.value, "when": told.when,
        "flag": told.flag, "usual": told.usual, "status": told.status, "source": export.source(item),
        "label": item.label, "text": told.text,
    }  # fmt: skip


async def read_pdf(call: Call) -> Any:
    made = await export.as_pdf(call.pool, call.reader, call.patient)
    headers = {"Content-Disposition": 'attachment; filename="health-record.pdf"', "Cache-Control": "no-store"}
    return Response(made, 200, headers, "application/pdf")


async def add_measurement(call: Call) -> Any:
    said: Measurement = call.body
    return await _written(
        entries.measure(call.pool, call.reader, call.patient, said.kind, said.values, at=said.at, note=said.note)
    )


async def add_symptom(call: Call) -> Any:
    said: Symptom = call.body
    return await _written(
        entries.symptom(call.pool, call.reader, call.patient, said.name, severity=said.severity, at=said.at,
                        note=said.note)
    )  # fmt: skip


async def add_to_journal(call: Call) -> Any:
    said: JournalEntry = call.body
    return await _written(entries.note_down(call.pool, call.reader, call.patient, said.text, at=said.at))


async def add_file(call: Call) -> Any:
    said: File = call.body
    try:
        content = base64.b64decode(said.data, validate=True)
    except ValueError:
        raise HTTPException(422, "data: not base64") from None
    return await _written(entries.add_file(call.pool, call.reader, call.patient, said.title, content, at=said.at))


async def _written(work: Awaitable[Result]) -> Any:
    made = await told(work)
    return {"reference": f"{made.type}/{made.id}"}


async def told(work: Awaitable[T]) -> T:
    """What the record says no to, as a problem."""
    try:
        return await work
    except EntryError as error:
        raise HTTPException(422, str(error)) from None
    except FhirError as error:
        raise HTTPException(error.status, error.issues[0].text) from None


async def ask_for_correction(call: Call) -> Any:
    said: NewCorrection = call.body
    kind, _, name = said.item.partition("/")
    if kind not in resource_types():
        raise HTTPException(422, "item: no such resource type in FHIR R4")
    return await corrections.ask(call.pool, call.reader, call.patient, internal_id(kind, name), said.text)


async def list_own_corrections(call: Call) -> Any:
    return {"corrections": await corrections.of_record(call.pool, call.reader, call.patient)}


async def list_corrections(call: Call) -> Any:
    await administrator(call)
    status = call.query.get("status", corrections.OPEN)
    if status not in (corrections.OPEN, corrections.DONE, corrections.REFUSED):
        raise HTTPException(422, "status: open, done or refused")
    found = await corrections.of_organisation(call.pool, call.reader.organisation_id, status=status)
    return {"corrections": found}


async def answer_correction(call: Call) -> Any:
    await administrator(call)
    said: Decision = call.body
    return await corrections.answer(
        call.pool, call.reader.organisation_id, call.reader.actor, call.number("correction"), said.status, said.answer
    )


async def begin_conversation(call: Call) -> Any:
    said: NewConversation = call.body
    return await told(conversations.begin(call.pool, call.reader, call.patient, said.team, said.topic, said.text))


async def list_conversations(call: Call) -> Any:
    return {"conversations": await conversations.of_record(call.pool, call.reader, call.patient)}


async def read_inbox(call: Call) -> Any:
    waiting = call.query.get("all") != "true"
    return {"conversations": await conversations.inbox(call.pool, call.reader, waiting=waiting)}


async def read_conversation(call: Call) -> Any:
    known, found = await conversations.read(call.pool, call.reader, call.number("conversation"))
    return {"conversation": known, "messages": found}


async def reply(call: Call) -> Any:
    return await told(conversations.reply(call.pool, call.reader, call.number("conversation"), call.body.text))


async def close_conversation(call: Call) -> None:
    await conversations.close(call.pool, call.reader, call.number("conversation"))


_OF = "/patients/{patient}"
_ONE = "/conversations/{conversation}"
_SPEAKERS = (PATIENT, PROFESSIONAL)
_OWNER = (PROFESSIONAL, SYSTEM)
ENDPOINTS = (
    Endpoint("GET", f"{_OF}/items", list_items, "Patient", "r", "a record in words: what, when, from whom", ANYBODY,
             answer=Items, paged=True,
             query=(("section", "one of " + ", ".join(SECTIONS)), ("words", "that are in the item"))),
    Endpoint("GET", f"{_OF}/record.pdf", read_pdf, "Patient", "r", "all that the caller sees of a record, to print",
             ANYBODY, media="application/pdf"),
    Endpoint("POST", f"{_OF}/measurements", add_measurement, "Observation", "c", "write down a measurement",
             (PATIENT,), body=Measurement, answer=Written, status=201),
    Endpoint("POST", f"{_OF}/symptoms", add_symptom, "Observation", "c", "note a symptom", (PATIENT,), body=Symptom,
             answer=Written, status=201),
    Endpoint("POST", f"{_OF}/journal", add_to_journal, "Observation", "c", "write into the journal", (PATIENT,),
             body=JournalEntry, answer=Written, status=201),
    Endpoint("POST", f"{_OF}/files", add_file, "DocumentReference", "c", "add a PDF, a picture or a text", (PATIENT,),
             body=File, answer=Written, status=201, longest=8 * 1024 * 1024),
    Endpoint("GET", f"{_OF}/corrections", list_own_corrections, "Correction", "r", "corrections that were asked for",
             (PATIENT,), answer=Corrections),
    Endpoint("POST", f"{_OF}/corrections", ask_for_correction, "Correction", "c", "say that an item is wrong",
             (PATIENT,), body=NewCorrection, answer=CorrectionShown, status=201),
    Endpoint("GET", "/corrections", list_corrections, "Correction", "s", "what patients ask the organisation", _OWNER,
             answer=Corrections, query=(("status", "open (else), done or refused"),)),
    Endpoint("PUT", "/corrections/{correction}", answer_correction, "Correction", "u", "answer a correction", _OWNER,
             body=Decision, answer=CorrectionShown),
    Endpoint("GET", f"{_OF}/conversations", list_conversations, "Communication", "r", "a patient's conversations",
             (PATIENT,), answer=Conversations),
    Endpoint("POST", f"{_OF}/conversations", begin_conversation, "Communication", "c", "write to a team, or a patient",
             _SPEAKERS, body=NewConversation, answer=ConversationShown, status=201),
    Endpoint("GET", "/conversations", read_inbox, "Communication", "s", "what waits for the caller's teams",
             (PROFESSIONAL,), answer=Conversations, query=(("all", "true: what waits for patients too"),)),
    Endpoint("GET", _ONE, read_conversation, "Communication", "r", "a conversation and its messages", _SPEAKERS,
             answer=ConversationWhole),
    Endpoint("POST", f"{_ONE}/messages", reply, "Communication", "c", "go on with a conversation", _SPEAKERS,
             body=Message, answer=ConversationShown, status=201),
    Endpoint("POST", f"{_ONE}/close", close_conversation, "Communication", "c", "the team has done what was asked",
             (PROFESSIONAL,)),
)  # fmt: skip
