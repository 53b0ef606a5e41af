"""What UK senders send becomes what UK Core asks of Patient, Encounter, Observation and DiagnosticReport.

The rules are read from UK Core's own StructureDefinitions: cardinalities of elements and slices, fixed values, and the
required binding of languages. Base R4 is checked by fhir.resources in test_bundles.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from carefolio.hl7 import HL7Error, is_batch, read, split_batch
from carefolio.mapping import Source, map_message, to_bundle

_FHIR = {"f": "http://hl7.org/fhir"}
_UK = ("itk-adt", "uclh-emap", "nw-gmsa")
_TYPES = ("Patient", "Encounter", "Observation", "DiagnosticReport")


@dataclass
class Rule:
    """One element of a differential; ``slice`` is the part of its id after the colon."""

    path: list[str]
    slice: str
    least: int
    most: str
    fixed: str
    languages: bool


@pytest.fixture(scope="module")
def profiles(shared_messages: list[Path]) -> dict[str, list[Rule]]:
    folder = shared_messages[0].parents[3] / "fhir/ukcore/structuredefinitions"
    if not folder.exists():
        pytest.skip("UK Core's definitions are not here")
    return {kind: list(_rules(folder / f"UKCore-{kind}.xml")) for kind in _TYPES}


def _rules(file: Path) -> Iterator[Rule]:
    def value(element: ET.Element, name: str) -> str:
        found = element.find(f"f:{name}", _FHIR)
        return (found.get("value") or "") if found is not None else ""

    for element in ET.parse(file).getroot().findall(".//f:differential/f:element", _FHIR):
        number = element.get("id") or ""
        above, _, last = number.rpartition(".")
        if ":" in above and above != "Patient.identifier:nhsNumber":
            # What stands inside of a slice is the extension's own definition.
            continue
        url = element.find("f:type/f:profile", _FHIR)
        bound = element.find("f:binding", _FHIR)
        yield Rule(
            [part.partition(":")[0] for part in number.split(".")[1:]],
            last.partition(":")[2] and (url.get("value") or "" if url is not None else last.partition(":")[2]),
            int(value(element, "min") or 0),
            value(element, "max") or "*",
            value(element, "fixedUri"),
            bound is not None and value(bound, "strength") == "required" and "languages" in value(bound, "valueSet"),
        )


def _at(resource: dict[str, Any], path: list[str]) -> list[tuple[Any, int]]:
    """The parents of the element at a path, each with how often the element stands in it."""
    parents: list[Any] = [resource]
    for part in path[:-1]:
        parents = [
            inner
            for parent in parents
            for inner in (parent.get(part) if isinstance(parent.get(part), list) else [parent.get(part)])
            if isinstance(inner, dict)
        ]
    return [(parent, parent.get(path[-1])) for parent in parents] if path else []


def violations(resource: dict[str, Any], rules: list[Rule]) -> Iterator[str]:
    nhs = "https://fhir.nhs.uk/Id/nhs-number"
    for rule in rules:
        for _, found in _at(resource, rule.path):
            items = found if isinstance(found, list) else [] if found is None else [found]
            if rule.slice.startswith("http"):
                items = [item for item in items if item.get("url") == rule.slice]
            elif rule.slice == "nhsNumber":
                items = [item for item in items if item.get("system") == nhs]
                if any(not item.get("value") for item in items):
                    yield f"{rule.path}: an NHS number without value"
            elif rule.slice:
                continue
            inside_slice = rule.path[:1] == ["identifier"] and len(rule.path) > 1
            if not inside_slice and not rule.least <= len(items) <= (10**6 if rule.most == "*" else int(rule.most)):
                yield f"{'.'.join(rule.path)}:{rule.slice} stands {len(items)} times"
            if rule.languages:
                for item in items:
                    codes = [c for c in item.get("coding", []) if c.get("system") == "urn:ietf:bcp:47"]
                    if not any(re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*", c.get("code", "")) for c in codes):
                        yield f"{'.'.join(rule.path)}: no BCP 47 language"


def test_uk_sources_conform_to_uk_core(shared_messages: list[Path], profiles: dict[str, list[Rule]]) -> None:
    seen: dict[str, int] = {}
    wrong = []
    for file in shared_messages:
        if not any(source in file.parts for source in _UK):
            continue
        raw = file.read_bytes()
        for single in split_batch(raw) if is_batch(raw) else [raw]:
            try:
                message = read(single)
                bundle = to_bundle(map_message(message, source := Source("RX1")), source)
            except HL7Error:
                continue
            for entry in bundle["entry"]:
                resource = entry["resource"]
                kind = resource["resourceType"]
                seen[kind] = seen.get(kind, 0) + 1
                wrong += [f"{file.name} {kind}.{found}" for found in violations(resource, profiles.get(kind, []))]
    assert {kind: seen.get(kind, 0) > 10 for kind in _TYPES} == dict.fromkeys(_TYPES, True)
    assert wrong == []


def test_the_rules_bite(profiles: dict[str, list[Rule]]) -> None:
    number = {"system": "https://fhir.nhs.uk/Id/nhs-number", "value": "9990001103"}
    patient = {
        "resourceType": "Patient",
        "identifier": [number, number],
        "communication": [{"language": {"coding": [{"code": "ENG"}]}}],
    }
    found = list(violations(patient, profiles["Patient"]))
    assert any("nhsNumber stands 2 times" in text for text in found)
    assert any("BCP 47" in text for text in found)
