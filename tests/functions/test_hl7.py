"""The hospital's door: every message gets an exact answer, and nothing is acknowledged that is not safe."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.conftest import Hospital, NewHospital, basic, nhs, unique

from carefolio.hl7 import read, split_batch
from carefolio.local import load

SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
PKB = "{http://wsssl.hl7api.patientsknowbest.com/}"


def envelope(message: bytes) -> bytes:
    return (
        b'<?xml version="1.0" encoding="UTF-8"?>'
        b'<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
        b' xmlns:ws="http://wsssl.hl7api.patientsknowbest.com/"><soapenv:Header/><soapenv:Body>'
        b"<ws:acceptMessage><arg0><![CDATA["
        + message
        + b"]]></arg0></ws:acceptMessage></soapenv:Body></soapenv:Envelope>"
    )


async def test_the_message_is_stored_as_it_came_and_its_control_id_echoed(hospital: Hospital) -> None:
    raw = load.registration(nhs(), control_id := unique())
    reply = await hospital.post(raw)
    assert reply.status == 200
    accepted = reply.ack.first("MSA")
    assert accepted is not None
    assert (accepted.get(1), accepted.get(2)) == ("AA", control_id)
    assert reply.ack.type == "ACK^A28"
    row = await hospital.settled(control_id)
    assert row["raw"] == raw
    assert row["ack"] == reply.body


async def test_what_the_sender_must_change_is_refused_with_its_place(hospital: Hospital) -> None:
    reply = await hospital.post(f"""
MSH|^~\\&|PAS|T|CAREFOLIO|CAREFOLIO|20261101||ADT^A01|{unique()}|P|2.4
EVN|A01|20261101
PID|1||{await hospital.registered()}^^^NHS^NH
PV1|1|I
""")
    assert (reply.status, reply.code) == (200, "AR")
    error = reply.ack.first("ERR")
    assert error is not None
    assert error.field(2) == "PV1^1^19^1^1"
    assert "PV1-19.1" in error.get(8)


async def test_a_refused_message_is_judged_afresh(hospital: Hospital) -> None:
    raw = f"MSH|^~\\&|PAS|T|||20261101||ADT^A01|{unique()}|P|2.4"
    first, second = await hospital.post(raw), await hospital.post(raw)
    assert (first.code, second.code) == ("AR", "AR")
    assert first.ack.control_id != second.ack.control_id


async def test_the_same_message_again_gets_the_first_answer_again_and_is_applied_once(hospital: Hospital) -> None:
    raw = load.registration(nhs(), control_id := unique())
    first, second = await hospital.post(raw), await hospital.post(raw)
    assert first.body == second.body
    stored = await hospital.database.fetchval("SELECT count(*) FROM message WHERE control_id = $1", control_id)
    assert stored == 1


async def test_the_same_id_with_another_body_is_processed_and_flagged(hospital: Hospital) -> None:
    control_id = unique()
    one, two = nhs(), nhs()
    await hospital.accepted(load.registration(one, control_id))
    row = await hospital.accepted(load.registration(two, control_id))
    assert row["status"] == "applied"
    assert row["control_id_reused"]
    assert (await hospital.patient(one))["id"] != (await hospital.patient(two))["id"]


@pytest.mark.parametrize("authorization", ["", "Basic !!!", "Basic bm9jb2xvbg==", "Bearer x", "Basic " + "A" * 5000])
async def test_without_good_credentials_nothing_is_stored(hospital: Hospital, authorization: str) -> None:
    control_id = unique()
    reply = await hospital.post(load.registration(nhs(), control_id), Authorization=authorization)
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"].startswith("Basic ")
    assert not await hospital.database.fetchval("SELECT count(*) FROM message WHERE control_id = $1", control_id)


async def test_a_wrong_password_is_refused(hospital: Hospital) -> None:
    reply = await hospital.post(b"MSH", Authorization=basic(hospital.sender["username"], "wrong"))
    assert reply.status == 401


async def test_another_address_is_refused_whatever_the_headers_claim(new_hospital: NewHospital) -> None:
    elsewhere = await new_hospital("--allow", "10.0.0.0/8", "--allow", "2001:db8::/32")
    control_id = unique()
    for forged in ("10.1.2.3", "10.1.2.3, 10.1.2.3", "10.1.2.3, 10.1.2.3, 10.1.2.3", "2001:db8::1, x"):
        reply = await elsewhere.post(load.registration(nhs(), control_id), X_Forwarded_For=forged, X_Real_IP=forged)
        assert reply.status == 403
    stored = await elsewhere.database.fetchval("SELECT count(*) FROM message WHERE control_id = $1", control_id)
    assert stored == 0


async def test_a_batch_is_answered_message_by_message_in_order(hospital: Hospital) -> None:
    good, bad = unique(), unique()
    batch = b"\r".join(
        (
            b"FHS|^~\\&|PAS|T",
            b"BHS|^~\\&|PAS|T",
            load.registration(nhs(), good).rstrip(b"\r"),
            f"MSH|^~\\&|PAS|T|||20261101||ADT^A01|{bad}|P|2.4".encode(),
            b"BTS|2",
            b"FTS|1",
        )
    )
    reply = await hospital.post(batch)
    assert reply.body.startswith(b"BHS|")
    assert reply.body.rstrip(b"\r").endswith(b"BTS|2")
    answers = [read(answer).first("MSA") for answer in split_batch(reply.body)]
    assert [(a.get(1), a.get(2)) for a in answers if a] == [("AA", good), ("AR", bad)]


async def test_the_soap_envelope_of_todays_senders_works_unchanged(hospital: Hospital) -> None:
    control_id, number = unique(), nhs()
    headers = {
        "Content-Type": "text/xml; charset=utf-8",
        "SOAPAction": '""',
        "Authorization": basic(hospital.sender["username"], hospital.sender["password"]),
    }
    body = envelope(load.registration(number, control_id))
    reply = await hospital.request("POST", "/services/hl7", data=body, headers=headers)
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/xml")
    returned = ElementTree.fromstring(reply.body).find(f"{SOAP}Body/{PKB}acceptMessageResponse/return")
    assert returned is not None
    accepted = read((returned.text or "").replace("\n", "\r").encode()).first("MSA")
    assert accepted is not None
    assert (accepted.get(1), accepted.get(2)) == ("AA", control_id)
    assert (await hospital.settled(control_id))["status"] == "applied"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        b"<a/>",
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        envelope(b"x").replace(b"acceptMessage", b"refuseMessage"),
        b'<?xml version="1.0" encoding="no-such"?><a/>',
        b"<a>" * 100_000,
    ],
)
async def test_what_is_no_envelope_gets_a_soap_fault(hospital: Hospital, body: bytes) -> None:
    headers = {
        "Content-Type": "text/xml",
        "Authorization": basic(hospital.sender["username"], hospital.sender["password"]),
    }
    reply = await hospital.request("POST", "/services/hl7", data=body, headers=headers)
    assert reply.status == 500
    assert ElementTree.fromstring(reply.body).find(f"{SOAP}Body/{SOAP}Fault/faultstring") is not None


async def test_the_wsdl_names_this_servers_address(hospital: Hospital) -> None:
    reply = await hospital.request("GET", "/services/hl7?wsdl")
    assert reply.status == 200
    address = ElementTree.fromstring(reply.body).find(".//{http://schemas.xmlsoap.org/wsdl/soap/}address")
    assert address is not None
    assert address.get("location") == f"{hospital.installation.url}/services/hl7"


async def test_a_body_over_20_megabytes_is_refused(hospital: Hospital) -> None:
    headers = {"Authorization": basic(hospital.sender["username"], hospital.sender["password"])}
    body = io.BytesIO(b"MSH|" + b"x" * (20 * 1024 * 1024))
    assert (await hospital.request("POST", "/hl7", data=body, headers=headers)).status == 413


async def test_other_media_types_are_refused(hospital: Hospital) -> None:
    assert (await hospital.post(b"{}", Content_Type="application/json")).status == 415


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "cp1252"])
async def test_names_survive_any_character_set_that_senders_use(hospital: Hospital, codec: str) -> None:
    number = nhs()
    text = load.registration(number, unique()).decode().replace("^Robin^", "^Zoë’s^")
    assert (await hospital.accepted(text.encode(codec)))["status"] == "applied"
    assert (await hospital.patient(number))["name"][0]["given"] == ["Zoë’s"]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
async def test_any_line_end_is_read(hospital: Hospital, end: str) -> None:
    number = nhs()
    raw = load.registration(number, unique()).decode().replace("\r", end).encode()
    assert (await hospital.accepted(raw))["status"] == "applied"


@pytest.mark.parametrize(
    "rubbish", [b"", b"\x00\x01\x02", b"MSH", b"MSH|", b"MSH|^~\\&" * 50, b"PID|1", b"\xff" * 1000, b"BHS|^~\\&\rBTS|0"]
)
async def test_rubbish_gets_an_answer_and_harms_nobody(hospital: Hospital, rubbish: bytes) -> None:
    reply = await hospital.post(rubbish)
    assert reply.status == 200
    assert reply.body.endswith(b"BTS|0\r") or reply.code == "AR"


async def test_a_partner_sends_for_those_that_it_may(new_hospital: NewHospital) -> None:
    clinic = await new_hospital()
    partner = await new_hospital("--allow", "127.0.0.1", "--partner", "--permit", f"CLINIC={clinic.ods_code}")
    number = nhs()
    message = load.registration(number, control_id := unique()).decode()
    reply = await partner.post(message.replace("|PAS|LOAD|", "|PAS|CLINIC|").encode())
    assert reply.code == "AA"
    assert (await clinic.settled(control_id))["status"] == "applied"
    assert (await clinic.patient(number))["birthDate"] == "1970-01-01"
    assert await partner.search(f"Patient?identifier={number}") == []
    refused = await partner.post(message.encode())
    assert refused.code == "AR"
    assert refused.ack.first("ERR").field(2) == "MSH^1^4^1"  # type: ignore[union-attr]


async def test_every_shared_message_gets_an_ack_or_a_clear_refusal(
    new_hospital: NewHospital, shared_messages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The collected real messages through the door: no 5xx, nothing lost, every end with its reason."""
    hospital = await new_hospital("--allow", "127.0.0.1", "--set", "auto_create=true")
    outcomes: dict[str, dict[str, int]] = {}
    for path in shared_messages:
        reply = await hospital.post(path.read_bytes())
        assert reply.status == 200, (path, reply.status)
        for answer in split_batch(reply.body):
            accepted = read(answer).first("MSA")
            assert accepted is not None
            assert accepted.get(1) in ("AA", "AR")
            assert accepted.get(1) == "AA" or read(answer).first("ERR") is not None
    while await hospital.database.fetchval("SELECT EXISTS (SELECT FROM message WHERE status = 'received')"):
        await asyncio.sleep(0.05)
    rows = await hospital.database.fetch(
        """
        SELECT split_part(message_type, '^', 1) AS family, status, count(*) AS messages,
               count(*) FILTER (WHERE reason IS NULL) AS silent FROM message
        WHERE organisation_id = (SELECT id FROM organisation WHERE ods_code = $1) GROUP BY 1, 2
        """,
        hospital.ods_code,
    )
    for row in rows:
        outcomes.setdefault(row["family"] or "unreadable", {})[row["status"]] = row["messages"]
        assert row["status"] == "applied" or row["silent"] == 0, dict(row)
        assert row["status"] != "failed", dict(row)
    with capsys.disabled():
        for family, ends in sorted(outcomes.items()):
            print(f"\n  {family:<12}", *(f"{status} {count}" for status, count in sorted(ends.items())), end="")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("|20261101090000||", "|20991231||"), "MSH-7"),
        (("^MR||", "^MR~" + "~".join(["x^^^A^MR"] * 1001) + "||"), "PID"),
        (("^^^LOAD^MR", "9" * 300 + "^^^LOAD^MR"), "PID-3[2]"),
    ],
)
@pytest.mark.parametrize("kind", ["ADT^A28", "ORM^O01", "SIU^S12"])
async def test_what_would_harm_later_is_refused_now(
    hospital: Hospital, change: tuple[str, str], place: str, kind: str
) -> None:
    text = load.registration(nhs(), unique()).decode().replace("ADT^A28", kind)
    assert change[0] in text
    reply = await hospital.post(text.replace(*change).encode())
    assert reply.code == "AR"
    assert f"|{place}: " in reply.body.decode()


async def test_a_control_character_in_an_escape_stays_as_it_was_sent(hospital: Hospital) -> None:
    number = nhs()
    text = load.registration(number, unique() + "\\X00\\").decode().replace("^Robin^", "^Ro\\X00\\bin^")
    reply = await hospital.post(text.encode())
    assert reply.code == "AA"
    assert b"\x00" not in reply.body
    for _ in range(100):
        if found := await hospital.search(f"Patient?identifier={number}"):
            break
        await asyncio.sleep(0.05)
    assert found[0]["name"][0]["given"] == ["Ro\\X00\\bin"]


async def test_the_answer_in_an_envelope_is_xml_whatever_was_sent(hospital: Hospital) -> None:
    headers = {"Authorization": basic(hospital.sender["username"], hospital.sender["password"])}
    message = load.registration(nhs(), unique()).replace(b"|PAS|", b"|P\\X01\\AS]]&lt;|")
    reply = await hospital.request("POST", "/services/hl7", data=envelope(message), headers=headers)
    assert ElementTree.fromstring(reply.body).find(f"{SOAP}Body") is not None


async def test_a_reused_id_is_flagged_even_where_both_are_held(hospital: Hospital) -> None:
    control_id = unique()
    first = await hospital.accepted(load.report(nhs(), control_id))
    second = await hospital.accepted(load.report(nhs(), control_id))
    assert (first["status"], first["control_id_reused"]) == ("held", False)
    assert (second["status"], second["control_id_reused"]) == ("held", True)


async def test_a_sender_may_ask_what_would_become_of_a_message(hospital: Hospital) -> None:
    headers = {"Authorization": basic(hospital.sender["username"], hospital.sender["password"])}
    raw = load.report(nhs(), control_id := unique())
    explained = await hospital.request("POST", "/hl7/explain", data=raw, headers=headers)
    assert {"position": "PID-7", "path": "Patient.birthDate", "rule": "PID-7 day"} in explained.json["values"]
    assert b"Fictional" not in explained.body
    checked = await hospital.request("POST", "/hl7/check", data=raw.replace(b"|19700101|", b"|x|"), headers=headers)
    assert ("error", "PID-7") in [(f["severity"], f["place"]) for f in checked.json["findings"]]
    assert (await hospital.request("POST", "/hl7/check", data=b"x", headers=headers)).status == 422
    assert (await hospital.request("POST", "/hl7/check", data=raw)).status == 401
    stored = await hospital.database.fetchval("SELECT count(*) FROM message WHERE control_id = $1", control_id)
    assert stored == 0
