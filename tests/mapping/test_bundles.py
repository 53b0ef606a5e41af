"""Every Bundle that comes out is valid FHIR R4 and whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from carefolio.hl7 import HL7Error, TimeFormatError, is_batch, split_batch
from carefolio.local import load
from carefolio.mapping import UnsupportedTypeError
from carefolio.mapping.files import map_bytes
from carefolio.mapping.serialise import dumps


def bundle(raw: bytes) -> dict[str, Any]:
    made = json.loads(dumps(map_bytes(raw, "RTEST")))
    assert isinstance(made, dict)
    return made


def resources(raw: bytes, kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle(raw)["entry"] if entry["resource"]["resourceType"] == kind]


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if isinstance(value, dict):
        own = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    return []


def check(made: dict[str, Any]) -> None:
    full = [entry["fullUrl"] for entry in made["entry"]]
    assert len(full) == len(set(full)), "one identity twice"
    assert set(references(made)) <= set(full), "a reference dangles"
    for entry in made["entry"]:
        get_fhir_model_class(entry["resource"]["resourceType"]).model_validate(entry["resource"])


def test_the_shared_messages_map_to_valid_bundles(shared_messages: list[Path]) -> None:
    mapped = 0
    for path in shared_messages:
        raw = path.read_bytes()
        for single in split_batch(raw) if is_batch(raw) else [raw]:
            try:
                made = map_bytes(single, "RTEST")
            except (HL7Error, UnsupportedTypeError, TimeFormatError):
                continue
            check(json.loads(dumps(made)))
            mapped += 1
    assert mapped > 400


@pytest.mark.parametrize("name", [
    "01-register", "02-admit", "03-full-blood-count", "04-urea-and-electrolytes", "05-transfer", "06-discharge",
    "07-register", "08-emergency", "09-radiology", "10-register", "11-glycated-haemoglobin", "12-urine-culture",
])  # fmt: skip
def test_the_demonstration_maps_to_valid_bundles(name: str) -> None:
    folder = Path(load.__file__).parent / "demonstration"
    check(bundle((folder / f"{name}.hl7").read_bytes()))


HEAD = "MSH|^~\\&|LAB|T|||20261102101500||ORU^R01|1|P|2.4\rPID|1||9990001103^^^NHS^NH||A^B||1970|F\r"
ORDER = "OBR|1||F1|26604007^Full blood count^SNOMED CT|||20261102090000||||||||||||||||||F\r"


def result(obx: str) -> dict[str, Any]:
    return resources((HEAD + ORDER + obx + "\r").encode(), "Observation")[0]


@pytest.mark.parametrize(
    ("obx", "element", "value"),
    [
        ("OBX|1|NM|1^K||4.50|mmol/L||||F", "valueQuantity", {"value": 4.5, "unit": "mmol/L"}),
        ("OBX|1|NM|1^K||4.50|mmol/L^^UCUM||||F", "valueQuantity",
         {"value": 4.5, "unit": "mmol/L", "system": "http://unitsofmeasure.org", "code": "mmol/L"}),
        ("OBX|1|SN|1^K||<^5|||||F", "valueQuantity", {"value": 5, "comparator": "<"}),
        ("OBX|1|SN|1^K||^1^:^128|||||F", "valueRatio", {"numerator": {"value": 1}, "denominator": {"value": 128}}),
        ("OBX|1|SN|1^K||^5^-^9|||||F", "valueRange", {"low": {"value": 5}, "high": {"value": 9}}),
        ("OBX|1|NM|1^K||haemolysed|||||F", "valueString", "haemolysed"),
        ("OBX|1|ST|1^K||a \\T\\ b|||||F", "valueString", "a & b"),
        ("OBX|1|CE|1^K||260385009^Negative^SNOMED CT|||||F", "valueCodeableConcept",
         {"coding": [{"system": "http://snomed.info/sct", "code": "260385009", "display": "Negative"}]}),
        ("OBX|1|NM|1^K||4.5||3.5-5.3|||F", "referenceRange",
         [{"low": {"value": 3.5}, "high": {"value": 5.3}, "text": "3.5-5.3"}]),
        ("OBX|1|NM|1^K||4.5|||H||F", "interpretation",
         [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
                       "code": "H"}]}]),
        ("OBX|1|NM|1^K||4.5||||||C", "status", "corrected"),
        ("OBX|1|NM|1^K|||||||F", "dataAbsentReason",
         {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}]}),
    ],
)  # fmt: skip
def test_values(obx: str, element: str, value: Any) -> None:
    found = result(obx)[element]
    if isinstance(value, dict) and isinstance(found, dict) and "coding" in value:
        assert found["coding"] == value["coding"]
    else:
        assert found == value


def test_a_numbers_digits_stay_as_they_were_sent() -> None:
    raw = (HEAD + ORDER + "OBX|1|NM|1^K||70.50|g/L||||F\r").encode()
    assert b'"value":70.50' in dumps(map_bytes(raw, "RTEST"))


def test_text_lines_of_one_report_are_one_result() -> None:
    lines = "OBX|1|TX|1^Report||one|||||F\rOBX|2|TX|1^Report||two|||||F\r"
    found = resources((HEAD + ORDER + lines).encode(), "Observation")
    assert [observation["valueString"] for observation in found] == ["one\ntwo"]


def test_a_wall_clock_is_londons() -> None:
    summer = HEAD + ORDER.replace("20261102090000", "20260702090000") + "OBX|1|NM|1^K||1|||||F\r"
    assert resources(summer.encode(), "Observation")[0]["effectiveDateTime"] == "2026-07-02T09:00:00+01:00"


def test_the_same_message_gives_the_same_bundle() -> None:
    raw = load.report("9990001103", "SAME")
    assert bundle(raw) == bundle(raw)


def test_a_batch_gives_a_list() -> None:
    raw = b"BHS|^~\\&|A\r" + load.registration("9990001103", "1") + load.report("9990001103", "2") + b"BTS|2\r"
    assert isinstance(made := map_bytes(raw, "RTEST"), list)
    assert len(made) == 2


@pytest.mark.parametrize(("section", "category"), [("HM", "laboratory"), ("ch", "laboratory"), ("RAD", "imaging"),
                                                   ("PHY", ""), ("", "")])  # fmt: skip
def test_results_are_of_the_category_of_their_section(section: str, category: str) -> None:
    """By which apps ask for laboratory results; nothing is guessed where OBR-24 tells nothing."""
    raw = load.report("9990000018", "C1").replace(b"|HM|", f"|{section}|".encode())
    for each in resources(raw, "Observation"):
        assert [c["coding"][0]["code"] for c in each.get("category", [])] == ([category] if category else [])
