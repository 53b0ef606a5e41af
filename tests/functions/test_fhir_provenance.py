"""Where each element came from: message, segment and field."""

from __future__ import annotations

from typing import Any

from tests.conftest import Hospital, NewHospital, unique
from tests.functions.fhir_client import made, patient, send

from carefolio.fhir.validation import validate
from carefolio.local import load


def fields(provenance: dict[str, Any]) -> dict[str, str]:
    """Element -> field."""
    found = {}
    for said in provenance["entity"][0]["extension"]:
        parts = {part["url"]: part["valueString"] for part in said["extension"]}
        found[parts["element"]] = parts.get("field", "")
    return found


async def test_a_result_came_from_its_segments(hospital: Hospital) -> None:
    number = await hospital.registered()
    control = unique("R")
    assert (await hospital.accepted(load.report(number, control)))["status"] == "applied"
    person = (await hospital.patient(number))["id"]
    result = (await hospital.search(f"Observation?patient={person}"))[0]
    (told,) = await hospital.search(f"Provenance?target=Observation/{result['id']}")
    assert validate(told) == []
    assert told["target"] == [{"reference": f"Observation/{result['id']}/_history/1"}]
    assert control in told["entity"][0]["what"]["display"]
    said = fields(told)
    segment = said["Observation.valueQuantity.value"].partition("-")[0]
    assert segment.startswith("OBX")
    assert said["Observation.valueQuantity.value"] == f"{segment}-5"
    assert said["Observation.code.coding[0].code"] == f"{segment}-3.1"
    assert said["Observation.status"] == f"{segment}-11"
    assert (await hospital.get(f"Provenance/{told['id']}")).json == told
    assert (await hospital.get("Provenance/" + "0" * 32 + "-1")).status == 404


async def test_each_element_of_a_patient_has_its_own_message(hospital: Hospital) -> None:
    number = await hospital.registered()
    changed = load.registration(number, unique("A")).replace(b"ADT^A28", b"ADT^A31")
    lines = changed.split(b"\r")
    pid = next(line for line in lines if line.startswith(b"PID")).split(b"|")
    pid += [b""] * (14 - len(pid))
    pid[13] = b"07700900123"
    lines[[line[:3] for line in lines].index(b"PID")] = b"|".join(pid)
    assert (await hospital.accepted(b"\r".join(lines)))["status"] == "applied"
    person = (await hospital.patient(number))["id"]
    told = await hospital.search(f"Provenance?target=Patient/{person}")
    newest, oldest = fields(told[0]), fields(told[-1])
    assert any(field.startswith("PID-13") for field in newest.values())
    assert oldest["Patient.birthDate"] == "PID-7"
    assert "Patient.birthDate" not in newest


async def test_what_an_app_wrote_and_what_is_not_to_be_read(app: Hospital, new_hospital: NewHospital) -> None:
    number = await made(app, patient())
    reply = (await send(app, "GET", f"Provenance?target=Patient/{number}")).json
    assert reply["total"] == 1
    assert reply["entry"][0]["resource"]["agent"] == [{"who": {"display": "an app"}}]
    other = await new_hospital(scope="system/*.cruds")
    assert (await send(other, "GET", f"Provenance?target=Patient/{number}")).json["total"] == 0
    assert (await send(other, "GET", f"Provenance/{reply['entry'][0]['resource']['id']}")).status == 404
