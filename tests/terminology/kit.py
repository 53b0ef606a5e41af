"""Small releases and packages in the real formats."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

HEAD = "id\teffectiveTime\tactive\tmoduleId\t"
ROOT, FINDING, FRACTURE, ARM, OLD = "138875005", "404684003", "125605004", "23406007", "111111001"
ARM_SET, REPLACED, MAP = "999000001", "900000000000526001", "447562003"


def rf2(folder: Path) -> Path:
    """An edition of five concepts, as the UK's files are named; one is inactive and replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    at = "GB1000000_20261125.txt"
    concepts = [(ROOT, 1), (FINDING, 1), (FRACTURE, 1), (ARM, 1), (OLD, 0), (ARM_SET, 1)]
    _write(folder / f"sct2_Concept_UKCRSnapshot_{at}", "definitionStatusId",
           [f"{code}\t20261125\t{active}\t1\t2" for code, active in concepts])  # fmt: skip
    names = [
        (1, ROOT, "900000000000003001", "SNOMED CT Concept (SNOMED RT+CTV3)"),
        (2, FINDING, "900000000000003001", "Clinical finding (finding)"),
        (3, FINDING, "900000000000013009", "Clinical finding"),
        (4, FRACTURE, "900000000000003001", "Fracture of bone (disorder)"),
        (5, FRACTURE, "900000000000013009", "Fracture of bone"),
        (6, FRACTURE, "900000000000013009", "Broken bone"),
        (7, ARM, "900000000000013009", "Fracture of upper limb"),
        (8, ARM, "900000000000013009", "Broken arm"),
        (9, OLD, "900000000000013009", "Fractured arm NOS"),
        (10, ARM_SET, "900000000000013009", "Limb set"),
    ]
    columns = "conceptId\tlanguageCode\ttypeId\tterm\tcaseSignificanceId"
    lines = [f"{number}\t20261125\t1\t1\t{code}\ten\t{kind}\t{name}\t2" for number, code, kind, name in names]
    _write(folder / f"sct2_Description_UKCRSnapshot-en_{at}", columns, lines)
    columns = "refsetId\treferencedComponentId\tacceptabilityId"
    lines = [f"l{n}\t20261125\t1\t1\t999001261000000100\t{n}\t900000000000548007" for n in (3, 5, 8)]
    _write(folder / f"der2_cRefset_LanguageUKCRSnapshot-en_{at}", columns, lines)
    kinds = [(FINDING, ROOT), (FRACTURE, FINDING), (ARM, FRACTURE), (ARM_SET, ROOT)]
    _write(folder / f"sct2_Relationship_UKCRSnapshot_{at}",
           "sourceId\tdestinationId\trelationshipGroup\ttypeId\tcharacteristicTypeId\tmodifierId",
           [f"r{a}\t20261125\t1\t1\t{a}\t{b}\t0\t116680003\t9\t9" for a, b in kinds])  # fmt: skip
    _write(folder / f"der2_Refset_SimpleUKCRSnapshot_{at}", "refsetId\treferencedComponentId",
           [f"s1\t20261125\t1\t1\t{ARM_SET}\t{ARM}"])  # fmt: skip
    _write(folder / f"der2_cRefset_AssociationUKCRSnapshot_{at}", "refsetId\treferencedComponentId\ttargetComponentId",
           [f"a1\t20261125\t1\t1\t{REPLACED}\t{OLD}\t{ARM}"])  # fmt: skip
    columns = "refsetId\treferencedComponentId\tmapGroup\tmapPriority\tmapRule\tmapAdvice\tmapTarget"
    lines = [f"m1\t20261125\t1\t1\t{MAP}\t{ARM}\t1\t1\tTRUE\tALWAYS S42.9\tS42.9\t4\t4"]
    _write(
        folder / f"der2_iisssccRefset_ExtendedMapUKCRSnapshot_{at}", f"{columns}\tcorrelationId\tmapCategoryId", lines
    )
    return folder


def _write(file: Path, columns: str, lines: list[str]) -> None:
    file.write_text("\r\n".join([HEAD + columns, *lines]) + "\r\n", encoding="utf-8")


def package(file: Path, resources: list[dict[str, Any]], name: str = "test.package", version: str = "1.0.0") -> Path:
    """A FHIR package of these resources."""
    with tarfile.open(file, "w:gz") as packed:
        parts: list[tuple[str, Any]] = [("package.json", {"name": name, "version": version})]
        parts += [(f"{each['resourceType']}-{number}.json", each) for number, each in enumerate(resources)]
        for inner, said in parts:
            text = said if isinstance(said, bytes) else json.dumps(said).encode()
            entry = tarfile.TarInfo(f"package/{inner}")
            entry.size = len(text)
            packed.addfile(entry, io.BytesIO(text))
    return file
