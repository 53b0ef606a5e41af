"""The validator against FHIR's own examples, against fhir.resources, and against what must be refused."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carefolio.fhir.validation import validate

FHIR = Path(__file__).parents[3] / "shared/fhir"
PATIENT: dict[str, Any] = {"resourceType": "Patient", "gender": "female", "birthDate": "1970-01-01"}
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"text": "Weight"},
    "valueQuantity": {"value": Decimal("70.50"), "unit": "kg"},
}


def load(text: bytes | str) -> Any:
    return json.loads(text, parse_float=Decimal)


@pytest.fixture(scope="module")
def examples() -> list[dict[str, Any]]:
    file = FHIR / "r4-official-examples.ndjson.gz"
    if not file.exists():
        pytest.skip("the official examples are not on this machine")
    with gzip.open(file) as lines:
        return [load(line) for line in lines]


def test_the_official_examples_are_valid(examples: list[dict[str, Any]]) -> None:
    wrong = {(e["resourceType"], e.get("id")): found for e in examples if (found := validate(e))}
    # One questionnaire of the examples has items without linkId, which R4 requires.
    assert {kind for kind, _ in wrong} <= {"Questionnaire"}
    assert {issue.expression.rpartition(".")[2] for found in wrong.values() for issue in found} <= {"linkId"}


def test_synthea_bundles_are_valid() -> None:
    files = sorted((FHIR / "synthea").glob("*.json.gz"))
    if not files:
        pytest.skip("the Synthea bundles are not on this machine")
    for file in files[:12]:
        assert validate(load(gzip.decompress(file.read_bytes()))) == [], file.name


@pytest.mark.parametrize(
    ("resource", "expression"),
    [
        ([], "Resource"),
        ({"resourceType": "Nothing"}, "Resource"),
        (PATIENT | {"gender": "banana"}, "Patient.gender"),
        (PATIENT | {"gender": ["female"]}, "Patient.gender"),
        (PATIENT | {"birthDate": "1970-02-30"}, "Patient.birthDate"),
        (PATIENT | {"birthDate": "01/01/1970"}, "Patient.birthDate"),
        (PATIENT | {"active": "true"}, "Patient.active"),
        (PATIENT | {"name": {"family": "X"}}, "Patient.name"),
        (PATIENT | {"name": []}, "Patient.name"),
        (PATIENT | {"name": [{}]}, "Patient.name[0]"),
        (PATIENT | {"name": [{"family": ""}]}, "Patient.name[0].family"),
        (PATIENT | {"name": [{"given": ["A", None]}]}, "Patient.name[0].given[1]"),
        (PATIENT | {"colour": "blue"}, "Patient.colour"),
        (PATIENT | {"multipleBirthInteger": 2, "multipleBirthBoolean": True}, "Patient.multipleBirth"),
        (PATIENT | {"multipleBirthInteger": Decimal("2.5")}, "Patient.multipleBirthInteger"),
        (PATIENT | {"extension": [{"url": "http://x"}]}, "Patient.extension[0]"),
        (PATIENT | {"contained": [{"resourceType": "Patient", "gender": "x"}]}, "Patient.contained[0].gender"),
        (PATIENT | {"_birthDate": "x"}, "Patient.birthDate"),
        (PATIENT | {"_name": [{"id": "a"}]}, "Patient._name"),
        ({"resourceType": "Observation", "status": "final"}, "Observation.code"),
        (OBSERVATION | {"status": "done"}, "Observation.status"),
        (OBSERVATION | {"valueString": "x"}, "Observation.value"),
        (OBSERVATION | {"valueQuantity": {"value": "70"}}, "Observation.valueQuantity.value"),
        (OBSERVATION | {"effectivePeriod": {"start": "2026-02", "end": "2026-01"}}, "Observation.effectivePeriod"),
        (OBSERVATION | {"dataAbsentReason": {"text": "none"}}, "Observation"),
        (OBSERVATION | {"note": [{"text": "a\x00b"}]}, "Observation.note[0].text"),
    ],
)
def test_what_fhir_forbids_is_named(resource: Any, expression: str) -> None:
    assert expression in [issue.expression for issue in validate(resource)]


def test_what_fhir_allows_passes() -> None:
    shadowed = PATIENT | {
        "_birthDate": {"extension": [{"url": "http://x", "valueDateTime": "1970-01-01T10:00:00Z"}]},
        "name": [{"given": ["A", None], "_given": [None, {"extension": [{"url": "http://x", "valueCode": "n"}]}]}],
    }
    assert validate(shadowed) == []
    assert validate(OBSERVATION) == []
    assert validate({"resourceType": "Patient"}) == []


def test_depth_and_number_of_issues_are_bounded() -> None:
    deep: dict[str, Any] = {"url": "http://x", "valueString": "x"}
    for _ in range(200):
        deep = {"url": "http://x", "extension": [deep]}
    assert [i.code for i in validate(PATIENT | {"extension": [deep]})] == ["too-long"]
    assert len(validate(PATIENT | {f"x{n}": 1 for n in range(1000)})) == 50


@pytest.mark.parametrize("spoilt", [{"birthDate": "x"}, {"name": "x"}, {"contact": [{"name": 5}]}, {"colour": 1}])
def test_it_refuses_what_the_oracle_refuses(spoilt: dict[str, Any]) -> None:
    from fhir.resources.R4B.patient import Patient

    with pytest.raises(ValueError):
        Patient.model_validate({"resourceType": "Patient"} | spoilt)
    assert validate({"resourceType": "Patient"} | spoilt)
