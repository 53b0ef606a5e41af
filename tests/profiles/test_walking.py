"""A profile's rules, one at a time: what meets it is accepted, and broken in one place it is refused by its element."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import pytest

from carefolio.profiles.trees import ProfileError, tree
from carefolio.profiles.walking import ERROR, Walk, extensions
from tests.profiles import ukcore

_BASE = "http://hl7.org/fhir/StructureDefinition/"


def profile(kind: str, *elements: dict[str, Any], url: str = "urn:p", base: str = "") -> dict[str, Any]:
    return {"resourceType": "StructureDefinition", "url": url, "type": kind, "derivation": "constraint",
            "baseDefinition": base or f"{_BASE}{kind}",
            "differential": {"element": [{"id": kind, "path": kind}, *elements]}}  # fmt: skip


def element(name: str, **rule: Any) -> dict[str, Any]:
    path = ".".join(part.partition(":")[0] for part in name.split("."))
    sliced = name.rpartition(".")[2].partition(":")[2]
    return {"id": name, "path": path} | ({"sliceName": sliced} if sliced else {}) | rule


def walked(resource: dict[str, Any], *profiles: dict[str, Any]) -> Walk:
    """Walked along the first, which may refer to the others."""
    found = {each["url"]: each for each in profiles}
    trees = {url: tree(url, found.get) for url in found}
    walk = Walk(trees.get, lambda url: found[url]["type"] if url in found else None)
    walk.check(resource, trees[profiles[0]["url"]], resource["resourceType"], resource["resourceType"])
    for path, url, value in extensions(resource, resource["resourceType"], resource["resourceType"]):
        if url in trees:
            walk.check(value, trees[url], "Extension", path)
    return walk


def errors(resource: dict[str, Any], *profiles: dict[str, Any]) -> list[str]:
    return [issue.expression for severity, issue in walked(resource, *profiles).issues if severity == ERROR]


def of(discriminator: str, path: str, rules: str = "open") -> dict[str, Any]:
    return {"discriminator": [{"type": discriminator, "path": path}], "rules": rules}


NHS = "https://fhir.nhs.uk/Id/nhs-number"
PATIENT = {
    "resourceType": "Patient", "active": True, "gender": "female", "birthDate": "1980-01-01",
    "identifier": [{"system": NHS, "value": "9990001103"}, {"system": "urn:local", "value": "L1"}],
    "name": [{"family": "Adeyemi", "use": "official"}], "deceasedBoolean": False,
    "generalPractitioner": [{"reference": "Organization/1"}],
}  # fmt: skip
_SLICED = (
    element("Patient.identifier", slicing=of("value", "system")),
    element("Patient.identifier:nhs", min=1, max="1"),
    element("Patient.identifier:nhs.system", fixedUri=NHS),
    element("Patient.identifier:nhs.value", maxLength=10),
)


@pytest.mark.parametrize(
    ("rules", "change", "place"),
    [
        ([element("Patient.birthDate", min=1)], {"birthDate": None}, "Patient.birthDate"),
        ([element("Patient.name", max="1")], {"name": [{"family": "A"}, {"family": "B"}]}, "Patient.name"),
        ([element("Patient.name.family", min=1)], {"name": [{"text": "A"}]}, "Patient.name[0].family"),
        ([element("Patient.photo", max="0")], {"photo": [{"url": "x"}]}, "Patient.photo"),
        ([element("Patient.gender", fixedCode="female")], {"gender": "male"}, "Patient.gender"),
        ([element("Patient.active", patternBoolean=True)], {"active": False}, "Patient.active"),
        ([element("Patient.name", patternHumanName={"use": "official"})], {"name": [{"use": "usual"}]},
         "Patient.name[0]"),
        ([element("Patient.deceased[x]", type=[{"code": "boolean"}])],
         {"deceasedBoolean": None, "deceasedDateTime": "2020"}, "Patient.deceasedDateTime"),
        ([element("Patient.birthDate", minValueDate="1970-01-01")], {"birthDate": "1960-01-01"}, "Patient.birthDate"),
        ([element("Patient.generalPractitioner",
                  type=[{"code": "Reference", "targetProfile": [f"{_BASE}Organization"]}])],
         {"generalPractitioner": [{"reference": "Practitioner/1"}]}, "Patient.generalPractitioner[0]"),
        (_SLICED, {"identifier": [{"system": "urn:local", "value": "L1"}]}, "Patient.identifier"),
        (_SLICED, {"identifier": [{"system": NHS, "value": "1"}, {"system": NHS, "value": "2"}]}, "Patient.identifier"),
        (_SLICED, {"identifier": [{"system": NHS, "value": "99900011031"}]}, "Patient.identifier[0].value"),
        ([element("Patient.identifier", slicing=of("value", "system", "closed")), *_SLICED[1:]],
         {"identifier": [{"system": NHS, "value": "1"}, {"system": "urn:else"}]}, "Patient.identifier[1]"),
        ([element("Patient.name", slicing=of("exists", "period")), element("Patient.name:old.period", min=1),
          element("Patient.name:old", max="0")],
         {"name": [{"family": "A", "period": {"start": "2000"}}]}, "Patient.name"),
    ],
)  # fmt: skip
def test_a_rule(rules: list[Any], change: dict[str, Any], place: str) -> None:
    good = PATIENT
    if any(rule.get("slicing", {}).get("rules") == "closed" for rule in rules):
        good = PATIENT | {"identifier": PATIENT["identifier"][:1]}
    assert errors(good, profile("Patient", *rules)) == []
    broken = {name: value for name, value in (good | change).items() if value is not None}
    assert errors(broken, profile("Patient", *rules)) == [place]


def test_slices_by_pattern_and_type() -> None:
    """A blood pressure has both parts; its value is a quantity where it has one."""
    said = profile(
        "Observation",
        element("Observation.component", slicing=of("pattern", "code")),
        element("Observation.component:systolic", min=1, max="1"),
        element("Observation.component:systolic.code", patternCodeableConcept={"coding": [{"code": "8480-6"}]}),
        element("Observation.value[x]", slicing=of("type", "$this")),
        element("Observation.value[x]:valueQuantity", type=[{"code": "Quantity"}]),
        element("Observation.value[x]:valueQuantity.unit", min=1),
    )
    part = {"code": {"coding": [{"system": "http://loinc.org", "code": "8480-6", "display": "x"}]}}
    good = {"resourceType": "Observation", "status": "final", "code": {"text": "bp"}, "component": [part],
            "valueQuantity": {"value": 1, "unit": "mmHg"}}  # fmt: skip
    assert errors(good, said) == []
    assert errors(good | {"component": [{"code": {"text": "other"}}]}, said) == ["Observation.component"]
    assert errors(good | {"valueQuantity": {"value": 1}}, said) == ["Observation.valueQuantity.unit"]


def test_extensions_by_their_own_definition() -> None:
    """Where a profile asks for one, and wherever one stands."""
    born = profile("Extension", element("Extension.url", fixedUri="urn:born"),
                   element("Extension.value[x]", min=1, type=[{"code": "Address"}]), url="urn:born")  # fmt: skip
    said = profile("Patient", element("Patient.extension:born", min=1, max="1",
                                      type=[{"code": "Extension", "profile": ["urn:born"]}]))  # fmt: skip
    good = PATIENT | {"extension": [{"url": "urn:born", "valueAddress": {"city": "Leeds"}}]}
    assert errors(good, said, born) == []
    assert errors(PATIENT, said, born) == ["Patient.extension"]
    wrong = PATIENT | {"extension": [{"url": "urn:born", "valueString": "Leeds"}]}
    assert errors(wrong, said, born) == ["Patient.extension[0].valueString"]
    nested = good | {"name": [{"family": "A", "extension": [{"url": "urn:born", "valueString": "x"}]}]}
    assert errors(nested, said, born) == ["Patient.name[0].extension[0].valueString"]


def test_profiles_on_profiles_and_on_parts() -> None:
    """What a profile is based on counts; of several profiles of a part one has to be met."""
    base = profile("Patient", element("Patient.gender", min=1), url="urn:base")
    upper = profile("HumanName", element("HumanName.family", min=1), url="urn:upper")
    lower = profile("HumanName", element("HumanName.text", min=1), url="urn:lower")
    either = [{"code": "HumanName", "profile": ["urn:upper", "urn:lower"]}]
    said = profile("Patient", element("Patient.name", type=either), base="urn:base")
    assert errors(PATIENT, said, base, upper, lower) == []
    assert errors({k: v for k, v in PATIENT.items() if k != "gender"}, said, base, upper, lower) == ["Patient.gender"]
    assert errors(PATIENT | {"name": [{"use": "usual"}]}, said, base, upper, lower) == ["Patient.name[0]"]


def test_profiles_of_one_type_are_not_asked_of_another() -> None:
    """A value is a quantity of a profile, or a concept of none."""
    unit = profile("Quantity", element("Quantity.unit", min=1), url="urn:unit")
    kinds = [{"code": "Quantity", "profile": ["urn:unit"]}, {"code": "CodeableConcept"}]
    said = profile("Observation", element("Observation.value[x]", type=kinds))
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
    assert errors(body | {"valueCodeableConcept": {"text": "x"}}, said, unit) == []
    assert errors(body | {"valueQuantity": {"value": 1}}, said, unit) == ["Observation.valueQuantity.unit"]


def test_a_version_of_a_base_and_a_base_that_is_away() -> None:
    base = profile("Patient", element("Patient.gender", min=1), url="urn:base")
    said = profile("Patient", base="urn:base|1.0")
    without = {name: value for name, value in PATIENT.items() if name != "gender"}
    assert errors(without, said, base) == ["Patient.gender"]
    assert tree("urn:p", {"urn:p": profile("Patient", base="urn:away")}.get).unknown_base == "urn:away"
    assert tree("urn:p", {"urn:p": profile("Patient")}.get).unknown_base == ""


def test_extensions_of_primitives() -> None:
    """They stand beside the value, and count like any."""
    time = {"url": "http://hl7.org/fhir/StructureDefinition/patient-birthTime", "valueDateTime": "1980-01-01T10:00:00Z"}
    kind = [{"code": "Extension", "profile": [time["url"]]}]
    needed = profile("Patient", element("Patient.birthDate.extension:time", min=1, type=kind))
    there = PATIENT | {"_birthDate": {"extension": [time]}}
    assert errors(there, needed) == []
    assert errors(PATIENT, needed) == ["Patient.birthDate.extension"]
    refused = profile("Patient", element("Patient.birthDate.extension", max="0"))
    assert errors(there, refused) == ["Patient.birthDate.extension"]
    assert errors(PATIENT, refused) == []


def test_slices_of_slices_and_slices_by_name() -> None:
    said = profile(
        "Observation",
        element("Observation.category", slicing=of("value", "coding.system")),
        element("Observation.category:a.coding.system", fixedUri="urn:a"),
        element("Observation.category:a", slicing=of("value", "text")),
        element("Observation.category:a/b", min=1),
        element("Observation.category:a/b.text", fixedString="b"),
        element("Observation.value[x]", slicing=of("type", "$this", "closed")),
        element("Observation.value[x]:valueQuantity", min=1),
    )
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueQuantity": {"value": 1}}
    a = {"coding": [{"system": "urn:a"}]}
    assert errors(body | {"category": [a | {"text": "b"}]}, said) == []
    assert errors(body | {"category": [a | {"text": "c"}]}, said) == ["Observation.category"]
    other = {name: value for name, value in body.items() if name != "valueQuantity"} | {"valueString": "x"}
    assert "Observation.valueString" in errors(other, said)


def test_numbers_are_numbers() -> None:
    said = profile("Observation", element("Observation.value[x].value", minValueDecimal=1.5))
    body = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
    assert errors(body | {"valueQuantity": {"value": 2}}, said) == []
    for low in (1, 1.2, Decimal("1.49")):
        assert errors(body | {"valueQuantity": {"value": low}}, said) == ["Observation.valueQuantity.value"]
    least = {"value": 5, "unit": "kg"}
    said = profile("Observation", element("Observation.value[x]", minValueQuantity=least))
    assert errors(body | {"valueQuantity": {"value": 4, "unit": "kg"}}, said) == ["Observation.valueQuantity"]
    assert errors(body | {"valueQuantity": {"value": 4, "unit": "t"}}, said) == []


def test_the_resource_of_an_entry() -> None:
    said = profile("Bundle", element("Bundle.entry.resource", type=[{"code": "Patient"}]))
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": PATIENT}]}
    assert errors(bundle, said) == []
    other = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
    assert errors(bundle | {"entry": [{"resource": other}]}, said) == ["Bundle.entry[0].resource"]


def test_notes_hide_no_error() -> None:
    """However much there is to be noted, what is wrong is told."""
    said = profile(
        "Patient",
        element("Patient.contact.telecom", slicing=of("profile", "resolve()")),
        element("Patient.contact.telecom:x", min=1),
        element("Patient.gender", min=1),
    )
    many = [{"name": {"text": "x"}, "telecom": [{"system": "phone", "value": "1"}]}] * 150
    without = {name: value for name, value in PATIENT.items() if name != "gender"}
    assert errors(without | {"contact": many}, said) == ["Patient.gender"]


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([{"id": "Patient.name", "path": "Patient.na me"}], "not a path"),
        ([{"path": f"Patient.x{n}"} for n in range(6000)], "more than 5000"),
    ],
)
def test_what_is_no_profile(rules: list[Any], says: str) -> None:
    said = profile("Patient", *rules)
    with pytest.raises(ProfileError, match=says):
        tree("urn:p", {"urn:p": said}.get)


def test_a_circle_of_profiles_ends() -> None:
    one, two = profile("Patient", url="urn:p", base="urn:q"), profile("Patient", url="urn:q", base="urn:p")
    with pytest.raises(ProfileError, match="based on more"):
        tree("urn:p", {"urn:p": one, "urn:q": two}.get)
    own = profile("Extension", element("Extension.extension:self", type=[{"code": "Extension", "profile": ["urn:e"]}]),
                  url="urn:e")  # fmt: skip
    deep: dict[str, Any] = {"url": "urn:e"}
    for _ in range(35):
        deep = {"url": "urn:e", "extension": [deep]}
    said = profile("Patient", element("Patient.active", min=1))
    assert errors(PATIENT | {"extension": [deep]}, said, own) == []


@pytest.mark.skipif(not ukcore.ROOT.exists(), reason="UK Core's definitions are not at hand")
def test_uk_core_broken_in_one_place() -> None:
    """Of each example what its profile requires is taken away, what it fixes changed, references turned elsewhere."""
    found = {each["url"]: each for each in ukcore.resources("structuredefinitions").values()}
    names = {url.rpartition("/")[2]: url for url in found}
    trees = {url: tree(url, found.get) for url in found}
    tried, missed = 0, []
    for name, resource in ukcore.resources("examples").items():
        url = next((names[each] for each in sorted(names, key=len, reverse=True) if name.startswith(each)), None)
        if url is None or found[url]["type"] != resource["resourceType"]:
            continue

        def refused(changed: dict[str, Any], url: str = url) -> bool:
            walk = Walk(trees.get, lambda of: found[of]["type"] if of in found else None)
            walk.check(changed, trees[url], changed["resourceType"], changed["resourceType"])
            return any(severity == ERROR for severity, _ in walk.issues)

        assert not refused(resource), name
        for part, node in trees[url].parts.items():
            stem = part.removesuffix("[x]")
            there = [key for key in resource if key == stem or (part != stem and key.startswith(stem))]
            if not there:
                continue
            if node.rule.get("min", 0) > 0:
                changed = {key: value for key, value in resource.items() if key not in there}
                tried += 1
                missed += [] if refused(changed) else [f"{name}: {part} taken away"]
            if fixed := node.value("fixed") or node.value("pattern"):
                changed = copy.deepcopy(resource)
                changed[there[0]] = "changed" if not isinstance(fixed[1], dict) else {"text": "changed"}
                tried += 1
                missed += [] if refused(changed) else [f"{name}: {part} changed"]
            targets = [each for kind in node.rule.get("type", []) for each in kind.get("targetProfile", [])]
            value = resource[there[0]]
            if targets and "Resource" not in str(targets) and "reference" in str(value):
                changed = copy.deepcopy(resource)
                other = {"reference": "Basic/1"}
                changed[there[0]] = [other] if isinstance(value, list) else other
                tried += 1
                missed += [] if refused(changed) else [f"{name}: {part} to another type"]
    # UK Core asks for little.
    assert tried > 40
    assert missed == []
