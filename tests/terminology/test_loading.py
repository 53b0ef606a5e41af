"""Releases and packages are read as they are published, and rubbish is refused by its place."""

from __future__ import annotations

import asyncio
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from carefolio.local import releases
from carefolio.terminology import concepts, dmd, ecl, packages, rf2
from carefolio.terminology.concepts import Concept, TerminologyError
from carefolio.terminology.resources import concepts_of
from tests.terminology import kit


def by_code(found: Any) -> dict[str, Concept]:
    return {each.code: each for each in found}


@pytest.mark.parametrize("zipped", [False, True])
def test_rf2(tmp_path: Path, zipped: bool) -> None:
    """Preferred names, what is a kind of what, sets, what replaces the inactive, and maps; from a folder or a zip."""
    folder = kit.rf2(tmp_path / "release")
    path = folder
    if zipped:
        path = Path(shutil.make_archive(str(tmp_path / "release"), "zip", folder))
    name, incoming = rf2.read(path)
    assert name == "snomed-ct#20261125"
    found = by_code(incoming[0].concepts)
    assert found[kit.FINDING].display == "Clinical finding"
    assert found[kit.ARM].display == "Broken arm"
    assert list(found[kit.ARM].parents) == [kit.FRACTURE]
    assert list(found[kit.ARM].sets) == [kit.ARM_SET]
    assert not found[kit.OLD].active
    maps = {each.content["url"]: list(each.mappings) for each in incoming[1:]}
    assert maps[f"http://snomed.info/sct?fhir_cm={kit.REPLACED}"][0][3] == kit.ARM
    assert maps[f"http://snomed.info/sct?fhir_cm={kit.MAP}"][0][2:4] == ("http://hl7.org/fhir/sid/icd-10", "S42.9")


@pytest.mark.parametrize("zipped", [False, True])
def test_dmd(tmp_path: Path, zipped: bool) -> None:
    path = releases.dmd(tmp_path / "dmd")
    if zipped:
        path = Path(shutil.make_archive(str(tmp_path / "dmd"), "zip", path))
    name, [incoming] = dmd.read(path)
    assert name == "dmd#2026-11-26"
    found = by_code(incoming.concepts)
    assert found["42109611000001109"].parents == ("90332006",)
    assert found["10000001"].display == "Panadol 500mg tablets (Made-up Ltd)"
    assert not found["322280009"].active
    assert found["30000001"].parents == ("20000001", "10000001")
    assert found["90332006"].properties == {"kind": ["VTM"], "previous": ["777013007"]}


def test_what_a_code_system_says_of_kinds() -> None:
    """By where a concept stands, and by its properties."""
    said = {
        "resourceType": "CodeSystem",
        "concept": [
            {"code": "a", "concept": [{"code": "b"}], "property": [{"code": "child", "valueCode": "d"}]},
            {"code": "c", "property": [
                {"code": "parent", "valueCode": "b"}, {"code": "inactive", "valueBoolean": True},
            ]},
            {"code": "d"},
        ],
    }  # fmt: skip
    found = by_code(concepts_of(said))
    assert [found[code].parents for code in "abcd"] == [[], ["a"], ["b"], ["a"]]
    assert not found["c"].active


def test_kinds_in_a_circle_are_refused() -> None:
    made = [Concept("a", "a", parents=["b"]), Concept("b", "b", parents=["a"])]
    with pytest.raises(TerminologyError, match="circle"):
        list(concepts.lines(1, made))


def test_a_deep_and_wide_system_is_taken() -> None:
    """Deeper than Python's own stack, and each with two parents."""
    made = [Concept(str(n), "x", parents=[str(n - 1), str(n - 2)]) for n in range(3000)]
    assert len(b"".join(concepts.lines(1, made)).splitlines()) == 3000


def test_names_with_anything_in_them_are_copied_whole() -> None:
    [line] = b"".join(concepts.lines(1, [Concept("a\\", "t\tab\nnew \\N é")])).splitlines()
    assert line.count(b"\t") == 9
    assert "t\\tab\\nnew \\\\N é".encode() in line


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("sct2_Concept_UKCRSnapshot_GB1000000_20261125.txt", b"head\n1\t2\n", "line 2: 5 columns"),
        ("sct2_Description_UKCRSnapshot-en_GB1000000_20261125.txt", b"head\n\xff\xfe\n", "not UTF-8"),
        ("sct2_Concept_UKCRSnapshot_GB1000000_20261125.txt", b"head\n5\t20261125\t1\t1\t2\n", "the root concept"),
    ],
)
def test_rf2_rubbish(tmp_path: Path, file: str, text: bytes, says: str) -> None:
    folder = kit.rf2(tmp_path)
    (folder / file).write_bytes(text)
    with pytest.raises(TerminologyError, match=says):
        rf2.read(folder)


def test_what_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(TerminologyError, match="no Snapshot"):
        rf2.read(tmp_path)
    file = tmp_path / "x.zip"
    file.write_bytes(b"PK rubbish")
    with pytest.raises(TerminologyError, match="BadZipFile"):
        rf2.read(file)
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("f_vtm2_3261126.xml", "<x/>")
    with pytest.raises(TerminologyError, match="f_vmp2_"):
        dmd.read(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<R><VTM><VTMID>1</VTMID><NM>x</NM>", "no XML that is taken here, line 1"),
        ('<!DOCTYPE R [<!ENTITY a "b">]><R/>', "document type"),
        ("<R><VTM><VTMID>one</VTMID><NM>x</NM></VTM></R>", "VTM 1: VTMID"),
        ("<R><VTM><VTMID>1</VTMID></VTM></R>", "VTM 1: a name"),
    ],
)
def test_dmd_rubbish(tmp_path: Path, text: str, says: str) -> None:
    folder = releases.dmd(tmp_path / "dmd")
    next(folder.glob("f_vtm2_*")).write_text(text)
    with pytest.raises(TerminologyError, match=says):
        dmd.read(folder)


def test_packages(tmp_path: Path) -> None:
    """What is of no use here is passed over."""
    system = {"resourceType": "CodeSystem", "url": "urn:s", "content": "complete", "concept": [{"code": "a"}]}
    file = kit.package(tmp_path / "p.tgz", [system, {"resourceType": "NamingSystem"}])
    name, [incoming] = packages.read(file)
    assert (name, incoming.content["url"], len(incoming.concepts)) == ("test.package#1.0.0", "urn:s", 1)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            [{"resourceType": "CodeSystem", "url": "urn:s", "concept": [{"display": "x"}]}],
            "CodeSystem-0.json: a concept needs a code",
        ),
        ([{"resourceType": "CodeSystem", "url": "urn:s", "concept": [{"code": "a"}, {"code": "a"}]}], None),
    ],
)
def test_package_rubbish(tmp_path: Path, made: list[Any], says: str | None) -> None:
    file = kit.package(tmp_path / "p.tgz", made)
    if says:
        with pytest.raises(TerminologyError, match=says):
            packages.read(file)
    else:
        _, [incoming] = packages.read(file)
        with pytest.raises(TerminologyError, match="twice"):
            list(concepts.lines(1, incoming.concepts))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(TerminologyError, match="not a package"):
        packages.read(file)


async def number(code: str) -> int:
    await asyncio.sleep(0)
    return int(code) % 100


@pytest.mark.parametrize(
    ("expression", "sql"),
    [
        ("<< 5 |Anything at all|", "c.above @> ARRAY[5]"),
        ("< 5", "(c.above @> ARRAY[5] AND c.number <> 5)"),
        ("<!5", "c.parents @> ARRAY[5]"),
        ("^ 7", "c.above @> ARRAY[-7]"),
        ("*", "true"),
        ("^ *", "EXISTS (SELECT FROM unnest(c.above) AS n WHERE n < 0)"),
        ("<<5 OR <<6", "(c.above @> ARRAY[5] OR c.above @> ARRAY[6])"),
        ("<<5 minus (6 AND ^7)", "(c.above @> ARRAY[5] AND NOT (c.number = 6 AND c.above @> ARRAY[-7]))"),
        ("5,6", "(c.number = 5 AND c.number = 6)"),
    ],
)
async def test_ecl(expression: str, sql: str) -> None:
    assert await ecl.condition(expression, number) == sql


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "<<",
        "5 AND",
        "< *",
        "(5",
        "5)",
        "5 AND 6 OR 7",
        "<< 5 : 6 = 7",
        "5 6",
        "'; DROP TABLE concept",
        "(" * 30 + "5" + ")" * 30,
    ],
)
async def test_ecl_rubbish(expression: str) -> None:
    with pytest.raises(ecl.EclError):
        await ecl.condition(expression, number)
