"""FHIR's terminology operations, and searches by what codes mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.conftest import Hospital, NewHospital, Reply, Running, unique
from tests.functions.fhir_client import found, made, observation, patient, send
from tests.terminology import kit

from carefolio.local import releases

SCT = "http://snomed.info/sct"
GENDER = "http://hl7.org/fhir/administrative-gender"


async def ask(app: Hospital, path: str, **asked: Any) -> dict[str, Any]:
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in asked.items())
    reply = await send(app, "GET", f"{path}?{query}")
    return {"status": reply.status} | reply.json


def values(said: dict[str, Any]) -> dict[str, Any]:
    """Parameters by name (the last of a name)."""
    return {each["name"]: next((v for k, v in each.items() if k.startswith("value")), each.get("part"))
            for each in said["parameter"]}  # fmt: skip


def codes(said: dict[str, Any]) -> list[str]:
    assert said["status"] in (200, "active"), said
    return [each["code"] for each in said["expansion"].get("contains", [])]


@pytest.fixture(scope="module")
async def snomed(app: Hospital, installation: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small edition is loaded, and stays."""
    folder = kit.rf2(tmp_path_factory.mktemp("rf2"))
    told = json.loads(installation.cli("terminology", "load", str(folder), "--json").stdout)
    assert (told["source"], told["concepts"]) == ("snomed-ct#20261125", 6)
    return SCT


async def test_what_fhir_itself_has_is_there(app: Hospital) -> None:
    """The value sets, systems and maps of R4, without anybody loading anything."""
    assert codes(await ask(app, "ValueSet/$expand", url="http://hl7.org/fhir/ValueSet/administrative-gender")) == [
        "male", "female", "other", "unknown",
    ]  # fmt: skip
    told = await ask(app, "CodeSystem/$lookup", system=GENDER, code="male")
    assert values(told)["display"] == "Male"
    assert (await ask(app, "CodeSystem/$lookup", system=GENDER, code="nobody"))["status"] == 404
    act = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
    related = await ask(app, "CodeSystem/$subsumes", system=act, codeA="_ActEncounterCode", codeB="AMB")
    assert values(related)["outcome"] == "subsumes"
    assert (
        values(await ask(app, "CodeSystem/$subsumes", system=act, codeA="AMB", codeB="AMB"))["outcome"] == "equivalent"
    )
    mapped = await ask(app, "ConceptMap/$translate", url="http://hl7.org/fhir/ConceptMap/cm-administrative-gender-v2",
                       system=GENDER, code="male")  # fmt: skip
    assert values(mapped)["result"] is True
    match = next(each for each in mapped["parameter"] if each["name"] == "match")
    assert "M" in json.dumps(match)


@pytest.mark.parametrize(
    ("asked", "result", "message"),
    [
        ({"code": "male", "system": GENDER}, True, None),
        ({"code": "male"}, True, None),
        ({"code": "male", "system": GENDER, "display": "MALE"}, True, None),
        ({"code": "male", "system": GENDER, "display": "Woman"}, False, "display"),
        ({"code": "man", "system": GENDER}, False, "not in the value set"),
        ({"code": "male", "system": "urn:other"}, False, "not in the value set"),
    ],
)
async def test_validate_code(app: Hospital, asked: dict[str, str], result: bool, message: str | None) -> None:
    told = values(await ask(app, "ValueSet/$validate-code", url="http://hl7.org/fhir/ValueSet/administrative-gender",
                            **asked))  # fmt: skip
    assert (told["result"], message in told.get("message", "") if message else True) == (result, True)


async def test_snomed_ct(app: Hospital, snomed: str) -> None:
    """Names, kinds, sets and expressions; what is inactive says so, and what took its place."""
    told = await ask(app, "CodeSystem/$lookup", system=snomed, code=kit.FRACTURE)
    said = values(told)
    assert (said["display"], said["version"]) == ("Fracture of bone", f"{SCT}/version/20261125")
    assert "Broken bone" in json.dumps(told)
    assert codes(await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs=isa/{kit.FRACTURE}")) == [kit.FRACTURE, kit.ARM]
    assert codes(await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs=refset/{kit.ARM_SET}")) == [kit.ARM]
    wanted = f"<< {kit.FINDING} |Clinical finding| MINUS << {kit.ARM}"
    assert codes(await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs=ecl/{wanted}")) == [kit.FINDING, kit.FRACTURE]
    refused = await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs=ecl/<< 1 : 2 = 3")
    assert refused["status"] == 422
    every = await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs", filter="bone brok")
    assert codes(every) == [kit.FRACTURE]
    assert codes(await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs", filter="FRACTURED")) == [kit.OLD]
    assert codes(await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs", filter="fractured", activeOnly="true")) == []
    page = await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs", count=2, offset=2)
    assert (codes(page), page["expansion"]["total"]) == ([kit.FRACTURE, kit.ARM], 6)
    named = await ask(app, "ValueSet/$expand", url=f"{SCT}?fhir_vs=isa/{kit.ARM}", includeDesignations="true")
    assert "Fracture of upper limb" in json.dumps(named)
    new = await ask(app, "ConceptMap/$translate", url=f"{SCT}?fhir_cm={kit.REPLACED}", system=SCT, code=kit.OLD)
    assert kit.ARM in json.dumps(new)
    icd = await ask(
        app, "ConceptMap/$translate", system=SCT, code=kit.ARM, targetsystem="http://hl7.org/fhir/sid/icd-10"
    )
    assert "S42.9" in json.dumps(icd)
    back = await ask(app, "ConceptMap/$translate", url=f"{SCT}?fhir_cm={kit.MAP}", code="S42.9", reverse="true",
                     system="http://hl7.org/fhir/sid/icd-10")  # fmt: skip
    assert kit.ARM in json.dumps(back)


async def test_dmd_and_packages(app: Hospital, installation: Running, tmp_path: Path) -> None:
    """A release takes the place of its earlier self; what is removed is not there."""
    folder = releases.dmd(tmp_path / "dmd")
    for _ in range(2):
        installation.cli("terminology", "load", str(folder))
    assert codes(await ask(app, "ValueSet/$expand", url="https://dmd.nhs.uk/ValueSet/all", filter="panadol")) == [
        "10000001", "30000001",
    ]  # fmt: skip
    related = await ask(app, "CodeSystem/$subsumes", system="https://dmd.nhs.uk", codeA="90332006", codeB="30000001")
    assert values(related)["outcome"] == "subsumes"
    system = {"resourceType": "CodeSystem", "url": "urn:pack", "content": "complete", "version": "1",
              "concept": [{"code": "a", "display": "Alpha"}]}  # fmt: skip
    file = kit.package(tmp_path / "p.tgz", [system], name=unique("pack").lower())
    told = json.loads(installation.cli("terminology", "load", str(file), "--json").stdout)
    assert values(await ask(app, "CodeSystem/$lookup", system="urn:pack", code="a"))["display"] == "Alpha"
    listed = json.loads(installation.cli("terminology", "list", "--json").stdout)["sources"]
    assert listed[told["source"]] == {"CodeSystem": 1}
    installation.cli("terminology", "remove", told["source"])
    assert (await ask(app, "CodeSystem/$lookup", system="urn:pack", code="a"))["status"] == 404
    refused = installation.cli("terminology", "load", str(tmp_path / "dmd" / "f_vtm2_3261126.xml"), check=False)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


async def test_what_an_organisation_posts_is_its_own(app: Hospital, new_hospital: NewHospital) -> None:
    """Its systems, sets and maps work at once, change with the resource, go with it, and are nobody else's."""
    base = f"urn:x:{unique('s').lower()}"
    system = {"resourceType": "CodeSystem", "url": f"{base}:cs", "status": "active", "content": "complete",
              "valueSet": f"{base}:all", "property": [{"code": "colour", "type": "code"}],
              "concept": [
                  {"code": "a", "display": "Apple", "property": [{"code": "colour", "valueCode": "red"}]},
                  {"code": "p", "display": "Pear", "concept": [{"code": "q", "display": "Quince"}]},
              ]}  # fmt: skip
    number = await made(app, system)
    assert codes(await ask(app, "ValueSet/$expand", url=f"{base}:all")) == ["a", "p", "q"]
    value_set = {"resourceType": "ValueSet", "url": f"{base}:vs", "status": "active", "compose": {
        "include": [{"system": f"{base}:cs"}, {"system": "urn:far", "concept": [{"code": "z", "display": "Zed"}]}],
        "exclude": [{"system": f"{base}:cs", "concept": [{"code": "q"}]}]}}  # fmt: skip
    of_set = await made(app, value_set)
    assert sorted(codes(await ask(app, f"ValueSet/{of_set}/$expand"))) == ["a", "p", "z"]
    red = {"resourceType": "ValueSet", "status": "active", "compose": {"include": [
        {"system": f"{base}:cs", "filter": [{"property": "colour", "op": "=", "value": "red"}]}]}}  # fmt: skip
    inline = {"resourceType": "Parameters", "parameter": [{"name": "valueSet", "resource": red}]}
    assert codes({"status": 200} | (await send(app, "POST", "ValueSet/$expand", inline)).json) == ["a"]
    mapping = {"resourceType": "ConceptMap", "url": f"{base}:cm", "status": "active", "group": [
        {"source": f"{base}:cs", "target": "urn:t", "element": [
            {"code": "a", "target": [{"code": "A1", "equivalence": "equivalent"}]}],
         "unmapped": {"mode": "fixed", "code": "other"}}]}  # fmt: skip
    of_map = await made(app, mapping)
    assert "A1" in json.dumps(await ask(app, f"ConceptMap/{of_map}/$translate", system=f"{base}:cs", code="a"))
    assert "other" in json.dumps(await ask(app, f"ConceptMap/{of_map}/$translate", system=f"{base}:cs", code="p"))
    other = await new_hospital(scope="system/*.rs")
    assert (await ask(other, "CodeSystem/$lookup", system=f"{base}:cs", code="a"))["status"] == 404
    assert (await ask(other, f"ValueSet/{of_set}/$expand"))["status"] == 404
    assert (await ask(other, "ValueSet/$expand", url=f"{base}:vs"))["status"] == 404
    changed = system | {"id": number, "concept": [{"code": "b", "display": "Banana"}]}
    assert (await send(app, "PUT", f"CodeSystem/{number}", changed)).status == 200
    assert codes(await ask(app, "ValueSet/$expand", url=f"{base}:all")) == ["b"]
    assert (await send(app, "DELETE", f"CodeSystem/{number}")).status == 204
    assert (await ask(app, "ValueSet/$expand", url=f"{base}:all"))["status"] == 404


async def test_searches_by_what_a_code_means(app: Hospital, snomed: str) -> None:
    """:in, :not-in, :below and :above; with components too, and by a value set of one's own."""
    someone = await made(app, patient())

    def coded(code: str, system: str = snomed) -> dict[str, Any]:
        return observation(someone) | {"code": {"coding": [{"system": system, "code": code}]}}

    arm, bone = await made(app, coded(kit.ARM)), await made(app, coded(kit.FRACTURE))
    other = await made(app, coded("9", "urn:other"))
    mine = f"Observation?patient={someone}&"
    assert await found(app, f"{mine}code:below={snomed}|{kit.FRACTURE}") == {arm, bone}
    assert await found(app, f"{mine}code:below={snomed}|{kit.ARM}") == {arm}
    assert await found(app, f"{mine}code:above={snomed}|{kit.FRACTURE}") == {bone}
    isa = quote(f"{snomed}?fhir_vs=isa/{kit.FRACTURE}", safe="")
    assert await found(app, f"{mine}code:in={isa}") == {arm, bone}
    assert await found(app, f"{mine}code:not-in={isa}") == {other}
    assert await found(app, f"{mine}combo-code:in={isa}") == {arm, bone}
    assert await found(app, f"{mine}status:in=http://hl7.org/fhir/ValueSet/observation-status") == {arm, bone, other}
    own = await made(app, {"resourceType": "ValueSet", "url": f"urn:x:{unique('v')}", "status": "active", "compose": {
        "include": [{"system": "urn:other", "concept": [{"code": "9"}]}]}})  # fmt: skip
    assert await found(app, f"{mine}code:in=ValueSet/{own}") == {other}
    for wrong in ("code:in=urn:nothing", "code:below=9", "code:below=urn:nothing|9", "code:in=ValueSet/nothing"):
        assert (await send(app, "GET", f"{mine}{wrong}")).status == 400, wrong


def value_set(*include: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"resourceType": "ValueSet", "status": "active", "compose": {"include": list(include)} | more}


async def expanded(app: Hospital, said: dict[str, Any]) -> Reply:
    asked = {"resourceType": "Parameters", "parameter": [{"name": "valueSet", "resource": said}]}
    return await send(app, "POST", "ValueSet/$expand", asked)


@pytest.mark.parametrize(
    ("name", "operator", "value", "wanted"),
    [
        ("code", "=", "a", {"a"}),
        ("code", "in", "a, b", {"a", "b"}),
        ("concept", "not-in", "a,b,c", {"d"}),
        ("concept", "in", "a,d", {"a", "d"}),
        ("code", "regex", "[ab]", {"a", "b"}),
        ("display", "regex", "Al.*", {"a"}),
        ("display", "=", "Beta", {"b"}),
        ("colour", "=", "red", {"a", "b"}),
        ("colour", "in", "red,blue", {"a", "b", "c"}),
        ("colour", "not-in", "red", {"c", "d"}),
        ("colour", "exists", "true", {"a", "b", "c"}),
        ("colour", "exists", "false", {"d"}),
        ("colour", "regex", "b.*", {"c"}),
        ("inactive", "=", "false", {"a", "b", "c"}),
        ("inactive", "=", "true", {"d"}),
        ("concept", "is-a", "a", {"a", "b"}),
        ("concept", "descendent-of", "a", {"b"}),
        ("concept", "is-not-a", "a", {"c", "d"}),
        ("concept", "generalizes", "b", {"a", "b"}),
        ("parent", "=", "a", {"b"}),
        ("child", "=", "b", {"a"}),
        ("nosuch", "=", "x", None),
        ("code", "smells", "x", None),
    ],
)
async def test_filters(app: Hospital, name: str, operator: str, value: str, wanted: set[str] | None) -> None:
    """Each operator on codes, names and properties; of what the system knows nothing it says so."""

    def concept(code: str, display: str, *properties: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"code": code, "display": display, "property": list(properties)} | more

    red, blue = ({"code": "colour", "valueCode": each} for each in ("red", "blue"))
    gone = {"code": "inactive", "valueBoolean": True}
    url = "urn:x:filters"
    if (await ask(app, "CodeSystem/$lookup", system=url, code="a"))["status"] == 404:
        system = {"resourceType": "CodeSystem", "url": url, "status": "active", "content": "complete", "concept": [
            concept("a", "Alpha", red, concept=[concept("b", "Beta", red)]), concept("c", "Gamma", blue),
            concept("d", "Delta", gone)]}  # fmt: skip
        await made(app, json.loads(json.dumps(system).replace('"property": [], ', "").replace(', "property": []', "")))
    said = value_set({"system": url, "filter": [{"property": name, "op": operator, "value": value}]})
    reply = await expanded(app, said)
    if wanted is None:
        # R4 itself knows no operator of such a name.
        assert reply.status in (400, 422), reply.body
    else:
        assert set(codes({"status": reply.status} | reply.json)) == wanted


async def test_what_is_inactive_or_for_grouping_alone(app: Hospital) -> None:
    """A set without the inactive has none; what is not selectable says so, and is not valid where it may not be."""
    act = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
    told = await expanded(app, value_set({"system": act, "concept": [{"code": "_ActEncounterCode"}, {"code": "AMB"}]}))
    assert [each.get("abstract", False) for each in told.json["expansion"]["contains"]] == [True, False]
    verdict = await ask(app, "CodeSystem/$validate-code", url=act, code="_ActEncounterCode", abstract="false")
    assert values(verdict)["result"] is False
    retired = value_set({"system": "urn:x:filters"}, inactive=False)
    if (await ask(app, "CodeSystem/$lookup", system="urn:x:filters", code="d"))["status"] == 200:
        assert "d" not in codes({"status": 200} | (await expanded(app, retired)).json)


async def test_each_version_answers_for_itself(app: Hospital) -> None:
    """By its own address; by the URL the latest, or the one that is named."""
    base = f"urn:x:{unique('ver').lower()}"
    numbers = []
    for version in "12":
        system = {"resourceType": "CodeSystem", "url": base, "version": version, "status": "active",
                  "content": "complete", "concept": [{"code": f"v{version}"}]}  # fmt: skip
        numbers.append(await made(app, system))
    for number, code, good in ((0, "v1", True), (0, "v2", False), (1, "v2", True)):
        told = await ask(app, f"CodeSystem/{numbers[number]}/$validate-code", code=code)
        assert values(told)["result"] is good
    assert (await ask(app, "CodeSystem/$lookup", system=base, code="v1"))["status"] == 404
    assert (await ask(app, "CodeSystem/$lookup", system=base, code="v1", version="1"))["status"] == 200
    told = await ask(app, f"CodeSystem/{numbers[0]}/$subsumes", codeA="v1", codeB="v1")
    assert values(told)["outcome"] == "equivalent"


async def test_maps_say_what_is_true(app: Hospital) -> None:
    """What is not named goes to the group's own target or to another map; conditions and directions are kept."""
    base = f"urn:x:{unique('map').lower()}"
    other = {"resourceType": "ConceptMap", "url": f"{base}:other", "status": "active", "group": [
        {"source": "urn:s3", "target": "urn:t3", "element": [
            {"code": "q", "target": [{"code": "Q3", "equivalence": "wider"}]}]}]}  # fmt: skip
    await made(app, other)
    groups = [
        {"source": f"urn:s{n}", "target": f"urn:t{n}", "element": [{"code": "x", "target": [
            {"code": f"X{n}", "equivalence": "equivalent", "dependsOn": [{"property": "sex", "value": "female"}]}]}],
         "unmapped": {"mode": "fixed", "code": f"U{n}"}}
        for n in (1, 2)
    ]  # fmt: skip
    named = [{"code": "z", "target": [{"code": "Z", "equivalence": "equal"}]}]
    elsewhere = {"mode": "other-map", "url": f"{base}:other"}
    groups.append({"source": "urn:s3", "target": "urn:t3", "element": named, "unmapped": elsewhere})
    number = await made(app, {"resourceType": "ConceptMap", "url": base, "status": "active", "group": groups})

    async def matches(**asked: str) -> list[dict[str, Any]]:
        said = await ask(app, f"ConceptMap/{number}/$translate", **asked)
        return [
            {inner["name"]: inner for inner in each["part"]} for each in said["parameter"] if each["name"] == "match"
        ]

    [found] = await matches(system="urn:s2", code="nothing")
    assert found["concept"]["valueCoding"] == {"system": "urn:t2", "code": "U2"}
    assert await matches(system="urn:s2", code="nothing", targetsystem="urn:t9") == []
    [found] = await matches(system="urn:s1", code="x")
    assert found["equivalence"]["valueCode"] == "inexact"
    [found] = await matches(system="urn:s3", code="q")
    assert found["concept"]["valueCoding"]["code"] == "Q3"
    back = await ask(app, "ConceptMap/$translate", url=f"{base}:other", system="urn:t3", code="Q3", reverse="true")
    assert "narrower" in json.dumps(back)


async def test_kinds_are_not_parts(app: Hospital) -> None:
    url = f"urn:x:{unique('parts').lower()}"
    parts = [{"code": "body", "concept": [{"code": "arm"}]}]
    await made(app, {"resourceType": "CodeSystem", "url": url, "status": "active", "content": "complete",
                     "hierarchyMeaning": "part-of", "concept": parts})  # fmt: skip
    told = await ask(app, "CodeSystem/$subsumes", system=url, codeA="body", codeB="arm")
    assert values(told)["outcome"] == "not-subsumed"


async def test_what_is_posted_is_bounded(app: Hospital) -> None:
    """Each is refused by a sentence, in a moment, and nothing of it is left."""
    url = f"urn:x:{unique('big').lower()}"
    base = {"resourceType": "CodeSystem", "url": url, "status": "active", "content": "complete"}
    chain = [{"code": "c0"}] + [
        {"code": f"c{n}", "property": [{"code": "parent", "valueCode": f"c{n - 1}"}]} for n in range(1, 2000)
    ]
    for concepts in (
        [{"code": "a"}, {"code": "a"}],
        [{"code": "a", "property": [{"code": "parent", "valueCode": "b"}]},
         {"code": "b", "property": [{"code": "parent", "valueCode": "a"}]}],
        [{"code": "x" * 2000}],
        [{"_code": {"extension": [{"url": "urn:x", "valueString": "y"}]}}],
        [{"code": str(n)} for n in range(50_001)],
        chain,
    ):  # fmt: skip
        reply = await send(app, "POST", "CodeSystem", base | {"concept": concepts})
        assert reply.status == 422, reply.body
    assert (await ask(app, "CodeSystem/$lookup", system=url, code="a"))["status"] == 404
    assert (await send(app, "POST", "CodeSystem", base | {"url": "urn:" + "x" * 2000})).status == 422
    one = f"urn:x:{unique('one').lower()}"
    await made(app, value_set({"system": GENDER, "concept": [{"code": "male"}]}) | {"url": one})
    many = f"urn:x:{unique('many').lower()}"
    await made(app, value_set(*[{"valueSet": [one]}] * 100) | {"url": many})
    reply = await expanded(app, value_set(*[{"valueSet": [many]}] * 100))
    assert reply.status == 422, reply.body
    several = value_set({"system": GENDER}, exclude=[{"system": GENDER, "concept": [{"code": "male"}]}] * 200)
    assert "male" not in codes({"status": 200} | (await expanded(app, several)).json)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("ValueSet/$expand", 400),
        ("ValueSet/$expand?url=urn:nothing", 404),
        ("ValueSet/$expand?url=http://hl7.org/fhir/ValueSet/administrative-gender&count=x", 400),
        ("ValueSet/$expand?url=http://hl7.org/fhir/ValueSet/administrative-gender&count=99999", 400),
        ("ValueSet/$expand?url=http://hl7.org/fhir/ValueSet/administrative-gender&nonsense=1", 400),
        ("ValueSet/$expand?url=http://hl7.org/fhir/ValueSet/mimetypes", 404),
        ("CodeSystem/$lookup?code=x", 400),
        ("CodeSystem/$lookup?system=urn:nothing&code=x", 404),
        ("CodeSystem/$subsumes?system=urn:nothing&codeA=a&codeB=b", 404),
        ("CodeSystem/$subsumes?system=urn:nothing&codeA=a", 400),
        ("ConceptMap/$translate?url=urn:nothing&code=a", 404),
        ("ConceptMap/$translate", 400),
    ],
)
async def test_what_is_refused(app: Hospital, path: str, status: int) -> None:
    reply = await send(app, "GET", path)
    assert reply.status == status, reply.body
    assert reply.json["resourceType"] == "OperationOutcome"


async def test_a_hostile_value_set_is_bounded(app: Hospital) -> None:
    """Expressions that take for ever, and sets of themselves."""
    for pattern in ("(a+)+$", "(a|aa)*b", r"(.)\1", "x" * 300):
        said = {"resourceType": "ValueSet", "status": "active", "compose": {"include": [
            {"system": GENDER, "filter": [{"property": "code", "op": "regex", "value": pattern}]}]}}  # fmt: skip
        asked = {"resourceType": "Parameters", "parameter": [{"name": "valueSet", "resource": said}]}
        reply = await send(app, "POST", "ValueSet/$expand", asked)
        assert reply.status == 422, reply.body
    url = f"urn:x:{unique('loop')}"
    number = await made(app, {"resourceType": "ValueSet", "url": url, "status": "active",
                              "compose": {"include": [{"valueSet": [url]}]}})  # fmt: skip
    assert (await send(app, "GET", f"ValueSet/{number}/$expand")).status == 422
