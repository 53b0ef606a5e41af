"""What is told of the work: enough to follow a message, and nothing of the patient."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from tests.conftest import Hospital, nhs, unique

from carefolio.cloud.telemetry import Event, log
from carefolio.local import load


def test_every_event_is_itself() -> None:
    """Members of an Enum with equal values are one: then one event would be logged under another's name."""
    assert len(list(Event)) == len(Event.__members__)


def test_free_fields_cannot_be_logged() -> None:
    with pytest.raises(KeyError):
        log(Event.REQUEST, text="anything")


async def test_no_log_line_holds_patient_data(hospital: Hospital) -> None:
    """Recognisable values through every door, good and bad; then every line of every log is read."""
    number = nhs()
    marks = ["Zyxwvutson", "Qwertilda", "Xanadu Crescent", "zyx.wvu@example.org", number]
    text = load.registration(number, unique("LOG")).decode()
    text = text.replace("Fictional" + number[-4:], marks[0]).replace("^Robin^", f"^{marks[1]}^")
    text = text.replace("1 Test Street", marks[2]).replace("DT99 1AA^GBR", f"DT99 1AA^GBR||^NET^^{marks[3]}")
    await hospital.accepted(text)
    await hospital.accepted(text.replace("ADT^A28|LOG", "ADT^A08|LOX").replace("19700101", "19710101"))
    await hospital.post(text.replace("||19700101|", f"||{marks[0]}|").replace("ADT^A28|LOG", f"ADT^A28|{unique()}"))
    await hospital.post(text.replace("ADT^A28", f"{marks[0]}^{marks[1]}").replace("|LOG", "|LOY"))
    await hospital.post(marks[0])
    await hospital.search(f"Patient?identifier=https://fhir.nhs.uk/Id/nhs-number|{number}")
    for path in (f"Patient?name={marks[0]}", f"Patient/{marks[0]}", f"{marks[0]}?identifier={number}"):
        await hospital.get(path)
    await hospital.request("POST", "/oauth2/token", data={"grant_type": marks[0], "scope": marks[1]})
    await asyncio.sleep(0.5)
    logs = hospital.installation.logs()
    for mark in marks:
        assert mark not in logs
    spans = repr(hospital.installation.collector.spans())
    for mark in marks:
        assert mark not in spans


async def test_a_log_line_leads_from_the_answer_to_the_record(hospital: Hospital) -> None:
    row = await hospital.accepted(load.registration(nhs(), unique()))
    await asyncio.sleep(0.2)
    lines = [json.loads(line) for line in hospital.installation.logs().splitlines() if str(row["id"]) in line]
    assert {line["event"] for line in lines} == {"message_answered", "message_settled"}
    assert len({line["logging.googleapis.com/trace"] for line in lines}) == 1, "one trace from the door to the record"


async def test_spans_reach_from_the_request_to_its_sql(hospital: Hospital) -> None:
    row = await hospital.accepted(load.registration(nhs(), unique()))
    lines = [line for line in hospital.installation.logs().splitlines() if str(row["id"]) in line]
    trace = bytes.fromhex(json.loads(lines[0])["logging.googleapis.com/trace"])
    for _ in range(100):
        spans = {span.span_id: span for span in hospital.installation.collector.spans() if span.trace_id == trace}
        names = {span.name for span in spans.values()}
        if {"hl7 post_message", "ingest", "apply"} <= names:
            break
        await asyncio.sleep(0.1)
    assert {"hl7 post_message", "take in", "ingest", "map", "apply", "sql"} <= names
    for span in spans.values():
        if span.name == "sql":
            statement = next(a.value.string_value for a in span.attributes if a.key == "db.query.text")
            assert not re.search(r"\d{10}", statement)
            climbing = span
            while climbing.parent_span_id in spans:
                climbing = spans[climbing.parent_span_id]
            assert climbing.name == "hl7 post_message", "one tree, from the door to the record"
