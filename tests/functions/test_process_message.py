"""Patient/$process-message: a record by a FHIR message, by all the rules of HL7."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import asyncpg
import pytest
from tests.conftest import Hospital, NewHospital, Reply, nhs, unique
from tests.functions.fhir_client import send

from carefolio.doors.fhir_messages import SYSTEM

_SCOPE = "system/*.cruds system/Invitation.c"
_NHS = "https://fhir.nhs.uk/Id/nhs-number"
_ABSENT = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}


@pytest.fixture(scope="module")
async def app(new_hospital: NewHospital) -> Hospital:
    return await new_hospital("--allow", "127.0.0.0/8", "--set", "auto_create=true", scope=_SCOPE)


def person(number: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "identifier": [{"system": _NHS, "value": number}], "birthDate": "1980-02-03",
            "name": [{"family": "Adeyemi", "given": ["Ada", "May"]}], "gender": "female"} | more  # fmt: skip


def message(event: str, patient: dict[str, Any], at: str = "2026-11-26T10:00:00Z") -> dict[str, Any]:
    header = {"resourceType": "MessageHeader", "id": "m1", "eventCoding": {"system": SYSTEM, "code": event},
              "source": {"endpoint": "urn:app"}}  # fmt: skip
    entries = [{"fullUrl": f"urn:uuid:{n}", "resource": each} for n, each in enumerate((header, patient))]
    return {"resourceType": "Bundle", "type": "message", "timestamp": at, "entry": entries}


async def told(app: Hospital, bundle: dict[str, Any]) -> Reply:
    return await send(app, "POST", "Patient/$process-message", bundle)


def response(reply: Reply) -> dict[str, Any]:
    said: dict[str, Any] = reply.json["entry"][0]["resource"]
    return said


async def test_create_update_and_erase(app: Hospital, pool: asyncpg.Pool) -> None:
    """One record, whose elements change; what is absent is taken away; the same message again is done once."""
    number = nhs()
    address = [{"line": ["1 High Street"], "city": "Leeds", "postalCode": "LS1 1AA"}]
    first = message("create", person(number, address=address, telecom=[{"system": "phone", "value": "0113 4960000"}]))
    reply = await told(app, first)
    assert reply.status == 200, reply.body
    said = response(reply)
    assert (said["response"]["identifier"], said["response"]["code"]) == ("m1", "ok")
    record = said["focus"][0]["reference"].rpartition("/")[2]
    shown = (await send(app, "GET", f"Patient/{record}")).json
    assert (shown["name"][0]["given"], shown["address"][0]["city"]) == (["Ada", "May"], "Leeds")
    again = await told(app, first)
    assert response(again)["focus"] == said["focus"]
    assert await pool.fetchval("SELECT count(*) FROM message WHERE patient_id::text = $1", record) == 1
    changed = person(number, address=[_ABSENT], name=[{"family": "Adeyemi-Jones", "given": ["Ada"]}])
    reply = await told(app, message("update", changed, at="2026-11-26T11:00:00Z"))
    assert reply.status == 200, reply.body
    shown = (await send(app, "GET", f"Patient/{record}")).json
    assert shown["name"][0]["family"] == "Adeyemi-Jones"
    assert "address" not in shown
    assert shown["telecom"][0]["value"] == "0113 4960000"
    # By Parameters too.
    asked = {"resourceType": "Parameters", "parameter": [{"name": "content", "resource": first}]}
    assert (await told(app, asked)).status == 200


async def test_doubt_is_held_for_a_person(app: Hospital, new_hospital: NewHospital) -> None:
    """Somebody else under a number that another organisation knows changes nothing."""
    number = nhs()
    assert (await told(app, message("create", person(number)))).status == 200
    other = await new_hospital("--allow", "127.0.0.0/8", "--set", "auto_create=true", scope=_SCOPE)
    stranger = person(number, birthDate="1999-09-09", name=[{"family": "Zorn", "given": ["Karl"]}], gender="male")
    reply = await told(other, message("create", stranger))
    assert reply.status == 202, reply.body
    [issue] = reply.json["entry"][1]["resource"]["issue"]
    assert issue["severity"] == "warning"
    assert "held" in issue["diagnostics"]
    assert number not in reply.body.decode()
    assert "focus" not in response(reply)


async def test_an_invitation_goes_to_the_records_address(app: Hospital, installation: Any) -> None:
    address = f"{unique('ada').lower()}@example.org"
    invited = person(nhs(), telecom=[{"system": "email", "value": address}])
    reply = await told(app, message("invite", invited))
    assert reply.status == 200, reply.body
    assert "invited by e-mail" in json.dumps(reply.json)
    folder = installation.here.home / "mail"
    for _ in range(100):
        if any(address in each.read_text() for each in folder.glob("*.eml")):
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("no letter")
    reply = await told(app, message("invite", person(nhs())))
    assert "not invited" in json.dumps(reply.json)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in person("9990001103").items() if key != name}


@pytest.mark.parametrize(
    ("patient", "place"),
    [
        (without("identifier"), "Patient.identifier"),
        (person("1234567890"), "Patient.identifier"),
        (without("birthDate"), "Patient.birthDate"),
        (without("gender"), "Patient.gender"),
        (person("9990001103", name=[{"family": "A"}]), "Patient.name[0].given"),
        (person("9990001103", name=[{"given": ["A"]}]), "Patient.name[0].family"),
    ],
)
async def test_what_is_needed(app: Hospital, patient: dict[str, Any], place: str) -> None:
    reply = await told(app, message("create", patient))
    assert (reply.status, reply.json["issue"][0]["expression"]) == (422, [place])


async def test_what_is_refused(app: Hospital, new_hospital: NewHospital) -> None:
    """No message, another organisation's, an event that there is not, scopes and people."""
    good = message("create", person(nhs()))
    wrong = copy.deepcopy(good)
    wrong["entry"][0]["resource"]["eventCoding"]["code"] = "explode"
    assert (await told(app, wrong)).status == 422
    assert (await told(app, good | {"type": "collection"})).status == 422
    assert (await told(app, good | {"entry": good["entry"][1:]})).status == 422
    assert (await told(app, {name: value for name, value in good.items() if name != "timestamp"})).status == 422
    assert (await told(app, {"resourceType": "Patient"})).status == 400
    other = person(nhs(), meta={"tag": [{"system": "https://fhir.nhs.uk/Id/ods-organization-code", "code": "XXX"}]})
    assert (await told(app, message("create", other))).status == 403
    reader = await new_hospital(scope="system/*.rs")
    assert (await told(reader, good)).status == 403
    writer = await new_hospital(scope="system/Patient.cru")
    assert (await told(writer, message("invite", person(nhs())))).status == 403


async def test_hl7_in_a_name_stays_a_name(app: Hospital) -> None:
    """Delimiters and line ends are no segments."""
    evil = "O|Neil^~\\&\rPID|1\nZZZ"
    reply = await told(app, message("create", person(nhs(), name=[{"family": evil, "given": ["A"]}])))
    assert reply.status == 200, reply.body
    record = response(reply)["focus"][0]["reference"].rpartition("/")[2]
    family = (await send(app, "GET", f"Patient/{record}")).json["name"][0]["family"]
    assert family.startswith("O|Neil^~\\&")
