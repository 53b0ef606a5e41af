"""What people read: FHIR resources in words, charts, CDA as text; never HTML, never an exception."""

from __future__ import annotations

import gzip
import json
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED

from carefolio.fhir.validation import validate
from carefolio.view import cda, explanations, pdf, telling
from carefolio.view.charts import Line, Point, line_chart
from carefolio.view.sections import SECTIONS, section_of
from carefolio.view.telling import tell

_EXAMPLES = Path(SHARED) / "fhir" / "r4-official-examples.ndjson.gz"


def result(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "Haemoglobin"}, **more}


@pytest.mark.parametrize(
    ("more", "value", "flag", "usual"),
    [
        ({"valueQuantity": {"value": Decimal(118), "unit": "g/L"}, "referenceRange": [
            {"low": {"value": 130}, "high": {"value": 165, "unit": "g/L"}}]}, "118 g/L", "low", "130 to 165 g/L"),
        ({"valueQuantity": {"value": 170, "unit": "g/L"}, "referenceRange": [{"high": {"value": 165}}]},
         "170 g/L", "high", "below 165"),
        ({"valueQuantity": {"value": 5, "comparator": "<", "unit": "mg/L"}}, "< 5 mg/L", "", ""),
        ({"valueCodeableConcept": {"coding": [{"display": "Not detected"}]}, "interpretation": [
            {"coding": [{"code": "ND"}]}]}, "Not detected", "not detected", ""),
        ({"valueBoolean": True}, "yes", "", ""),
        ({"dataAbsentReason": {"text": "the sample had clotted"}}, "the sample had clotted", "", ""),
        ({"valueQuantity": {"value": 140}, "interpretation": [{"coding": [{"code": "N"}]}]}, "140", "", ""),
        ({"valueQuantity": {"value": 9}, "interpretation": [{"coding": [{"code": "HH"}]}]}, "9", "very high", ""),
    ],
)  # fmt: skip
def test_a_result_in_words(more: dict[str, Any], value: str, flag: str, usual: str) -> None:
    """Value, flag and usual range, as the laboratory said them; where it said no flag, as its range says."""
    told = tell(result(**more))
    assert (told.value, told.flag, told.usual) == (value, flag, usual)


def test_what_is_not_to_be_relied_on_says_so() -> None:
    """Status and verification in words."""
    assert "do not rely" in tell(result() | {"status": "entered-in-error"}).status
    assert tell(result() | {"status": "preliminary"}).status == "not final yet"
    refuted = {"resourceType": "Condition", "code": {"text": "Asthma"},
               "verificationStatus": {"coding": [{"code": "entered-in-error"}]}}  # fmt: skip
    assert "do not rely" in tell(refuted).status


@pytest.mark.parametrize(
    ("dose", "said"),
    [
        ({"text": "one at night"}, "one at night"),
        ({"doseAndRate": [{"doseQuantity": {"value": 10, "unit": "mg"}}], "timing": {"repeat": {
            "frequency": 1, "period": 1, "periodUnit": "wk", "dayOfWeek": ["mon"]}}}, "10 mg once a week on Monday"),
        ({"doseAndRate": [{"doseRange": {"low": {"value": 1}, "high": {"value": 2, "unit": "tablets"}}}],
          "timing": {"repeat": {"frequency": 1, "period": 8, "periodUnit": "h"}}}, "1 to 2 tablets every 8 hours"),
        ({"timing": {"repeat": {"frequency": 2, "period": 1, "periodUnit": "d", "when": ["PCM"]}}},
         "twice a day after breakfast"),
        ({"doseAndRate": [{"doseQuantity": {"value": 5, "unit": "mg"}}]}, "5 mg (how often is not said here"),
        ({"asNeededCodeableConcept": {"text": "pain"}, "doseAndRate": [{"doseQuantity": {"value": 1, "unit": "g"}}],
          "maxDosePerPeriod": {"numerator": {"value": 4, "unit": "g"}, "denominator": {"value": 24, "unit": "h"}}},
         "1 g for pain at most 4 g in 24 h"),
    ],
)  # fmt: skip
def test_a_dose_says_how_often(dose: dict[str, Any], said: str) -> None:
    """In words; an amount alone says that it is not all."""
    made = {"resourceType": "MedicationStatement", "status": "active", "dosage": [dose]}
    assert tell(made).value.startswith(said)


@pytest.mark.parametrize(
    ("resource", "said"),
    [
        ({"resourceType": "Condition", "verificationStatus": {"coding": [{"code": "refuted"}]}}, "ruled out"),
        ({"resourceType": "Condition", "verificationStatus": {"coding": [{"code": "differential"}]}}, "one poss"),
        ({"resourceType": "Condition", "clinicalStatus": {"coding": [{"code": "resolved"}]},
          "abatementDateTime": "2005"}, "in the past, until 2005"),
        ({"resourceType": "AllergyIntolerance", "clinicalStatus": {"coding": [{"code": "inactive"}]}},
         "not active any more"),
        ({"resourceType": "MedicationStatement", "status": "completed", "effectivePeriod": {"end": "2019-02-01"}},
         "ended 1 February 2019"),
        ({"resourceType": "MedicationStatement", "status": "not-taken"}, "not taken"),
    ],
)  # fmt: skip
def test_what_is_over_or_doubtful_says_so(resource: dict[str, Any], said: str) -> None:
    """A refuted diagnosis is not a diagnosis, and a medicine of long ago none of today."""
    assert tell(resource).status.startswith(said)


def test_an_order_not_to_give_is_no_prescription() -> None:
    """doNotPerform."""
    made = {"resourceType": "MedicationRequest", "doNotPerform": True, "medicationCodeableConcept": {"text": "Aspirin"}}
    assert tell(made).title == "Do not give: Aspirin"


@pytest.mark.parametrize(
    ("name", "there"),
    [("Haemoglobin A1c level", True), ("Total white cell count", True), ("Serum urea level", True),
     ("Faecal calprotectin", False), ("Ureaplasma urealyticum PCR", False), ("Sodium valproate level", False),
     ("Urine glucose", False), ("Carboxyhaemoglobin", False), ("Albumin creatinine ratio", False),
     ("Serum sodium level", True), ("Platelet count", True), ("Serum albumin", True)],
)  # fmt: skip
def test_a_test_is_explained_by_its_own_name(name: str, there: bool) -> None:
    """No text is better than a wrong one; and none for what is no test."""
    assert bool(explanations.explain({"resourceType": "Observation", "code": {"text": name}})) is there
    assert explanations.explain({"resourceType": "Condition", "code": {"text": name}}) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-07-01T23:30:00Z", "2 July 2026 at 12.30am"), ("2026-01-01T09:05:00Z", "1 January 2026 at 9.05am"),
        ("2026-01-01T12:00:00+00:00", "1 January 2026 at 12pm"), ("2026-03", "March 2026"), ("2026", "2026"),
        ("2026-03-09", "9 March 2026"), ("0001-01-01T00:00:00+14:00", "1 January 1"),
        ("9999-12-31T23:59:59-12:00", "31 December 9999"), ("2016-12-31T23:59:60Z", "31 December 2016 at 11.59pm"),
        ("rubbish", "rubbish"),
    ],
)  # fmt: skip
def test_moments_are_those_of_the_clock_on_the_wall(text: str, shown: str) -> None:
    """UK time, summer and winter; as precise as it was; the ends of time."""
    assert telling.moment(text).startswith(shown)


@pytest.mark.skipif(not _EXAMPLES.exists(), reason="the official examples are not on this machine")
def test_every_official_example_and_what_is_left_of_it_is_told() -> None:
    """And with elements taken away, wherever the rest is still valid: told, in a section, never an exception."""
    chosen = random.Random(3)
    with gzip.open(_EXAMPLES) as file:
        resources = [json.loads(line) for line in file]
    assert len(resources) > 500
    for resource in resources:
        tell(resource)
        assert section_of(resource) in ("", *SECTIONS)
        explanations.explain(resource)
        for _ in range(3):
            names = [name for name in resource if name not in ("resourceType", "id")]
            less = {
                name: value for name, value in resource.items() if name not in chosen.sample(names, len(names) // 2)
            }
            if not validate(less):
                tell(less)


def test_a_chart_has_what_the_table_has() -> None:
    """Each point, what is outside as another shape, the usual band; one point is a chart too; none is none."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    points = [Point(start + timedelta(days=at), 100.0 + at, at > 3) for at in range(6)]
    drawn = line_chart("Sodium <b>", [Line("Sodium", points)], "mmol/L", 100, 103)
    assert (drawn.count("<circle"), drawn.count('class="outside"'), drawn.count('class="usual"')) == (4, 2, 1)
    assert "<b>" not in drawn
    assert "style=" not in drawn
    assert line_chart("x", [Line("x", points[:1])], "").count("<circle") == 1
    assert line_chart("x", [Line("x", [])], "") == ""
    assert line_chart("x", [Line("x", [Point(start, 0.0), Point(start, 0.0)])], "") != ""


def test_a_cda_document_is_text() -> None:
    """Titles and narratives; no script, no link, no document type; rubbish is nothing."""
    document = b"""<ClinicalDocument xmlns="urn:hl7-org:v3"><title>Discharge summary</title><component><structuredBody>
    <component><section><title>Allergies</title><text><list><item>Penicillin</item><item>Nuts</item></list>
    <table><tr><td>Rash</td><td>2004</td></tr></table><content styleCode="Bold">&lt;script&gt;</content>
    <linkHtml href="javascript:alert(1)">here</linkHtml></text></section></component></structuredBody></component>
    </ClinicalDocument>"""
    assert cda.is_cda("text/xml", document)
    said = cda.plain_text(document)
    assert said.split("\n")[0] == "Discharge summary"
    assert "ALLERGIES" in said
    assert "Penicillin\nNuts" in said
    assert "javascript" not in said
    for bad in (b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + document, b"<ClinicalDocument xmlns='urn:hl7-org:v3'>", b""):
        assert cda.plain_text(bad) == ""


def test_a_pdf_takes_markup_as_text() -> None:
    """What looks like reportlab's own markup is printed as it is."""
    bad = "</b><img src='file:///etc/passwd'/><font size=99>"
    told = tell(result(valueString=bad) | {"note": [{"text": bad * 50}]})
    parts = [pdf.Part(SECTIONS["tests"], [pdf.Line(told, bad)])]
    made = pdf.make({"resourceType": "Patient", "name": [{"text": bad}]}, parts, made_for=bad, now=datetime.now(UTC))
    assert made.startswith(b"%PDF-")
