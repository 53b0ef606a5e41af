"""Every value has a line, and what is said of it is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carefolio.hl7 import HL7Error, is_batch, read, split_batch
from carefolio.local import load
from carefolio.mapping import Source, map_message
from carefolio.mapping.explain import explain
from carefolio.mapping.files import map_bytes
from carefolio.mapping.kept import leaves
from carefolio.mapping.serialise import dumps

DEMONSTRATION = Path(load.__file__).parent / "demonstration"


def singles(paths: list[Path]) -> list[bytes]:
    raws = [path.read_bytes() for path in paths]
    return [single for raw in raws for single in (split_batch(raw) if is_batch(raw) else [raw])]


def test_every_value_of_every_shared_message_has_a_line(shared_messages: list[Path]) -> None:
    lines = unsaid = 0
    for raw in singles(shared_messages[::3]):
        try:
            message = read(raw)
            made = explain(message, Source("RTEST"))
        except HL7Error:
            continue
        assert len(made) == sum(1 for segment in message.segments for _ in leaves(segment, grammar=True))
        for line in made:
            assert line.path or line.rule, line
        lines += len(made)
        unsaid += sum(not line.path and not line.rule.startswith("how the message") for line in made)
    assert lines > 30_000
    assert unsaid / lines < 0.02, "values whose element cannot be named"


def test_nothing_is_lost_from_the_shared_messages(shared_messages: list[Path]) -> None:
    """Every value that no converter used stands in an extension with its position, once."""
    for raw in singles(shared_messages[::5]):
        try:
            message = read(raw)
        except HL7Error:
            continue
        if not message.code:
            continue
        text = dumps([entry.resource for entry in map_message(message, Source("RTEST")).entries]).decode()
        for segment in message.segments:
            if not segment.name.startswith("Z"):
                continue
            for leaf in leaves(segment):
                assert json.dumps(leaf.value, ensure_ascii=False)[1:-1] in text, (segment.name, leaf.field)


@pytest.mark.parametrize(
    ("position", "path"),
    [
        ("PID-5.1", "Patient.name[0].family"),
        ("PID-7", "Patient.birthDate"),
        ("PID-8", "Patient.gender"),
        ("PID-22", "Patient.extension[0].valueCodeableConcept.coding[0].code"),
        ("PV1-19", "Encounter.identifier[0].value"),
        ("OBX-5", "Observation.valueQuantity.value"),
        ("OBX-11", "Observation.status"),
        ("OBR-25", "DiagnosticReport.status"),
        ("MSH-17", "MessageHeader.extension('https://fhir.carefolio.uk/v2/MSH-17')"),
    ],
)
def test_where_a_value_went(position: str, path: str) -> None:
    message = read((DEMONSTRATION / "03-full-blood-count.hl7").read_bytes())
    found = {line.position: line.path for line in explain(message, Source("RTEST"))}
    assert found[position] == path


@pytest.mark.parametrize(
    ("segment", "kind"),
    [
        ("SCH|A1|||||^Follow-up|||30|min|^^^20261201090000", "Appointment"),
        ("TXA|1|CN|TX|20261101||||||||D1||||||AU\rOBX|1|TX|||text", "DocumentReference"),
        ("ORC|NW|P1\rOBR|1|P1||26604007^FBC^SNOMED CT", "ServiceRequest"),
        ("ORC|NW|P1\rRXO|322236009^Paracetamol^SNOMED CT|500||mg", "MedicationRequest"),
        ("ORC|RE|P1\rRXE||322236009^Paracetamol^SNOMED CT|500||mg", "MedicationRequest"),
        ("ORC|RE|P1\rRXD|1|322236009^Paracetamol^SNOMED CT|20261101|500|mg", "MedicationDispense"),
        ("ORC|RE|P1\rRXA|0|1|20261101|20261101|322236009^Paracetamol^SNOMED CT|500|mg", "MedicationAdministration"),
        ("ORC|RE|P1\rRXA|0|1|20261101|20261101|08^Hep B^CVX|0.5|mL", "Immunization"),
        ("ORC|NW|P1\rODS|D||123^Soft diet^L", "NutritionOrder"),
        ("ORC|NW|P1\rRQD|1|S1^Syringe|||5|EA", "SupplyRequest"),
        ("PR1|1||80146002^Appendectomy^SNOMED CT||20261101", "Procedure"),
        ("IN1|1|P1|C1|Insurer", "Coverage"),
        ("GT1|1|G1|Payer^Pat", "RelatedPerson"),
        ("NK1|1|Kin^Kim|SPO", "RelatedPerson"),
        ("PRB|AD|20261101|73211009^Diabetes^SNOMED CT|P1", "Condition"),
        ("IAM|1|DA|91936005^Penicillin^SNOMED CT|SV||A|A1", "AllergyIntolerance"),
        ("FT1|1|T1||20261101||CG|X1^Consultation", "ChargeItem"),
    ],
)
def test_each_family_has_its_resource(segment: str, kind: str) -> None:
    raw = f"MSH|^~\\&|A|B|||20261101||ZZZ^Z01|1|P|2.5\rPID|1||9990001103^^^NHS^NH||A^B\r{segment}\r"
    made = map_bytes(raw.encode(), "RTEST")
    assert isinstance(made, dict)
    assert kind in [entry["resource"]["resourceType"] for entry in made["entry"]]


def test_a_hundred_thousand_values_are_explained_within_the_suites_patience() -> None:
    """Looking for every value in every other took minutes for as many."""
    values = "|".join(f"value{number}x" for number in range(100_000))
    message = read(load.report("9990001103", "1") + f"ZZZ|{values}\r".encode())
    assert len(explain(message, Source("RTEST"))) > 100_000


def test_a_z_segment_is_kept_with_its_positions() -> None:
    raw = load.registration("9990001103", "1") + b"ZPI|1|first~second|a^b&c\r"
    text = dumps(map_bytes(raw, "RTEST")).decode()
    for position, value in (("ZPI-2", "first"), ("ZPI-2(2)", "second"), ("ZPI-3.2", "b"), ("ZPI-3.2.2", "c")):
        assert f'"url":"https://fhir.carefolio.uk/v2/{position}","valueString":"{value}"' in text
