"""FHIR XML: what R4's own examples say comes back the same, and hostile documents are refused."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from carefolio.fhir import text, xml
from carefolio.fhir.errors import FhirError
from carefolio.fhir.markup import narrative_fault

EXAMPLES = Path(__file__).parents[3] / "shared/fhir/r4-official-examples.ndjson.gz"


def plain(value: Any) -> Any:
    """Without what XML writes otherwise (narratives) or not at all (comments of early drafts)."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items() if name not in ("div", "fhir_comments")}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.skipif(not EXAMPLES.exists(), reason="R4's examples are not at hand")
def test_every_official_example_comes_back_the_same() -> None:
    read = 0
    with gzip.open(EXAMPLES) as lines:
        for line in lines:
            example = text.loads(line)
            back = xml.parse(xml.serialise(example).encode())
            assert plain(back) == plain(example), example["id"]
            read += 1
    assert read > 500


def test_what_is_written() -> None:
    resource = {
        "resourceType": "Patient",
        "id": "a",
        "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">A&nbsp;&amp;</div>'},
        "_birthDate": {"extension": [{"url": "urn:why", "valueCode": "unknown"}]},
        "name": [{"given": ["A\n", None], "_given": [None, {"extension": [{"url": "urn:g", "valueBoolean": True}]}]}],
        "multipleBirthInteger": 2,
        "contained": [{"resourceType": "Observation", "id": "o", "valueQuantity": {"value": Decimal("70.50")}}],
    }
    document = xml.serialise(resource)
    assert (
        '<given value="A&#10;"/><given><extension url="urn:g"><valueBoolean value="true"/></extension></given>'
        in document
    )
    assert '<birthDate><extension url="urn:why"><valueCode value="unknown"/></extension></birthDate>' in document
    assert '<contained><Observation><id value="o"/><valueQuantity><value value="70.50"/>' in document
    assert "A\xa0&amp;</div>" in document
    back = xml.parse(document.encode())
    assert back["contained"][0]["valueQuantity"]["value"].as_tuple() == Decimal("70.50").as_tuple()
    assert back["name"] == resource["name"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<Patient",
        b"<Patient/>",
        b'<Nobody xmlns="http://hl7.org/fhir"/>',
        b'<Patient xmlns="http://hl7.org/fhir"><nothing value="1"/></Patient>',
        b'<Patient xmlns="http://hl7.org/fhir"><active value="true"/><active value="true"/></Patient>',
        b'<Patient xmlns="http://hl7.org/fhir">text</Patient>',
        b'<Patient xmlns="http://hl7.org/fhir" other="1"/>',
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><Patient xmlns="http://hl7.org/fhir"/>',
        b'<Patient xmlns="http://hl7.org/fhir">' + b"<contained><Patient>" * 200,
        b'<Bundle xmlns="http://hl7.org/fhir"><entry><resource/></entry></Bundle>',
        b"\xff\xfe<",
    ],
)
def test_what_is_no_fhir_xml_is_refused(document: bytes) -> None:
    with pytest.raises(FhirError) as refused:
        xml.parse(document)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("div", "fault"),
    [
        ('<div xmlns="http://www.w3.org/1999/xhtml"><p>&eacute;</p></div>', False),
        ("<div>a</div>", True),
        ("<p>a</p>", True),
        ("<div>a", True),
        ("<div><script>a()</script></div>", True),
        ('<div><p onclick="a()">a</p></div>', True),
        ('<div><a href="javascript:a()">a</a></div>', True),
        ('<!DOCTYPE div [<!ENTITY a "b">]><div>&a;</div>', True),
        ("\ud800", True),
    ],
)
def test_narratives(div: str, fault: bool) -> None:
    assert bool(narrative_fault(div)) is fault
