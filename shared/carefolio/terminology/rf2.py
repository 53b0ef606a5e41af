"""SNOMED CT releases in RF2 (SNOMED International, Release File Specification): Snapshot files of a folder or zip.

Concepts with their preferred name, synonyms and what they are a kind of; simple reference sets; and as concept maps
the maps to other systems and what took an inactive concept's place. Several editions in one release (the UK's clinical
and drug extensions beside the international one) are read together.
"""

from __future__ import annotations

import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from carefolio.terminology.concepts import Concept, TerminologyError
from carefolio.terminology.expansion import SNOMED
from carefolio.terminology.resources import Mapping
from carefolio.terminology.store import Incoming

_FSN, _SYNONYM, _IS_A = "900000000000003001", "900000000000013009", "116680003"
_PREFERRED = "900000000000548007"
_ROOT = "138875005"
# Whose preferred names are shown, the first that says one: the UK's, then Great Britain's English, then America's.
_LANGUAGES = ("999001261000000100", "900000000000508004", "900000000000509007")
# The systems of maps' targets, by reference set.
_TARGETS = {"447562003": "http://hl7.org/fhir/sid/icd-10", "999002271000000101": "http://hl7.org/fhir/sid/icd-10-uk"}
# sct2_Concept_UKCRSnapshot_GB1000000_20261125.txt, der2_cRefset_LanguageSnapshot-en_INT_20261101.txt
_SNAPSHOT = re.compile(
    r"(?:sct2_(Concept|Description|Relationship)|der2_[a-z]*Refset)_([A-Za-z]*)Snapshot.*_(\d{8})\.txt\Z"
)
# A reference set's file by how its name begins; of two that begin alike the longer first.
_SETS = ("Language", "SimpleMap", "Simple", "Association", "ExtendedMap", "ComplexMap")
_MOST_LINE = 40_000
Open = Callable[[], AbstractContextManager[TextIO]]


def read(path: Path) -> tuple[str, list[Incoming]]:
    """The release's name (``snomed-ct#20261001``), and its system and maps. Raises TerminologyError."""
    files = _files(path)
    if not files["Concept"]:
        raise TerminologyError("no Snapshot of concepts (sct2_Concept_Snapshot…_YYYYMMDD.txt) is there")
    dates = [match[3] for name in files["names"] if (match := _SNAPSHOT.search(name))]
    version = max(dates)
    active: dict[str, bool] = {}
    for opened in files["Concept"]:
        for row in _rows(opened, 5):
            active[row[0]] = row[2] == "1"
    preferred = _preferred(files)
    names, shown = _descriptions(files, active, preferred)
    parents: dict[str, list[str]] = defaultdict(list)
    for opened in files["Relationship"]:
        for row in _rows(opened, 10):
            if row[2] == "1" and row[7] == _IS_A:
                parents[row[4]].append(row[5])
    sets, maps = _reference_sets(files)
    concepts = [
        Concept(code, shown.get(code, code), is_active, tuple(dict.fromkeys(parents.get(code, ()))),
                tuple(sets.get(code, ())), tuple(names.get(code, ())))
        for code, is_active in active.items()
    ]  # fmt: skip
    if _ROOT not in active:
        raise TerminologyError(f"the root concept {_ROOT} is not there: load an edition, not an extension by itself")
    content = {
        "resourceType": "CodeSystem", "url": SNOMED, "version": f"{SNOMED}/version/{version}", "name": "SNOMED_CT",
        "title": "SNOMED CT", "status": "active", "content": "complete", "caseSensitive": True,
        "hierarchyMeaning": "is-a", "valueSet": f"{SNOMED}?fhir_vs",
    }  # fmt: skip
    made = [Incoming(content, concepts)]
    for refset, mappings in sorted(maps.items()):
        url = f"{SNOMED}?fhir_cm={refset}"
        made.append(Incoming(
            {"resourceType": "ConceptMap", "url": url, "version": version, "status": "active",
             "name": shown.get(refset, refset), "sourceUri": f"{SNOMED}?fhir_vs"}, (), mappings,
        ))  # fmt: skip
    return f"snomed-ct#{version}", made


def _files(path: Path) -> dict[str, list[Any]]:
    """The Snapshot files by what they hold; ``names`` are all of them."""
    found: dict[str, list[Any]] = defaultdict(list)

    def take(name: str, opened: Open) -> None:
        match = _SNAPSHOT.search(name.rpartition("/")[2])
        if match is None:
            return
        found["names"].append(name)
        kind = match[1] or next((each for each in _SETS if match[2].startswith(each)), "")
        found[kind].append(opened)

    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            take(file.name, lambda file=file: file.open(encoding="utf-8", newline="\n"))  # type: ignore[misc]
    else:
        try:
            packed = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise TerminologyError(f"not a folder or zip: {type(error).__name__}") from None
        for name in sorted(packed.namelist()):
            take(name, lambda name=name: TextIOWrapper(packed.open(name), "utf-8", newline="\n"))  # type: ignore[misc]
    return found


def _rows(open_: Open, columns: int) -> Iterator[list[str]]:
    """The lines of a file after its head, with at least so many columns. Raises TerminologyError."""
    with open_() as opened:
        name = Path(getattr(opened, "name", "") or "file").name
        try:
            for number, line in enumerate(opened, 1):
                if number == 1:
                    continue
                row = line.rstrip("\r\n").split("\t")
                if len(row) < columns or len(line) > _MOST_LINE:
                    raise TerminologyError(f"{name} line {number}: {columns} columns are needed, of {len(row)}")
                yield row
        except UnicodeDecodeError:
            raise TerminologyError(f"{name}: not UTF-8") from None


def _preferred(files: dict[str, list[Any]]) -> dict[str, int]:
    """Of descriptions that are preferred the place of their language in ours."""
    made: dict[str, int] = {}
    for opened in files["Language"]:
        for row in _rows(opened, 7):
            if row[2] == "1" and row[6] == _PREFERRED and row[4] in _LANGUAGES:
                place = _LANGUAGES.index(row[4])
                made[row[5]] = min(place, made.get(row[5], place))
    return made


def _descriptions(
    files: dict[str, list[Any]], active: dict[str, bool], preferred: dict[str, int]
) -> tuple[dict[str, list[tuple[str, str, str]]], dict[str, str]]:
    """All names of concepts, and the one that is shown: the preferred synonym, else any, else the full name."""
    names: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    best: dict[str, tuple[int, str]] = {}
    for opened in files["Description"]:
        for row in _rows(opened, 9):
            code, kind = row[4], row[6]
            if row[2] != "1" or code not in active or kind not in (_FSN, _SYNONYM):
                continue
            names[code].append((row[7], row[5], kind))
            rank = preferred.get(row[0], 5) if kind == _SYNONYM else 9
            if code not in best or rank < best[code][0]:
                best[code] = rank, row[7]
    return names, {code: name for code, (_, name) in best.items()}


def _reference_sets(files: dict[str, list[Any]]) -> tuple[dict[str, list[str]], dict[str, list[Mapping]]]:
    """By concept the simple sets that it is in; by reference set of maps and replacements what is mapped."""
    sets: dict[str, list[str]] = defaultdict(list)
    for opened in files["Simple"]:
        for row in _rows(opened, 6):
            if row[2] == "1":
                sets[row[5]].append(row[4])
    maps: dict[str, list[Mapping]] = defaultdict(list)
    for opened in files["Association"]:
        for row in _rows(opened, 7):
            if row[2] == "1":
                maps[row[4]].append((SNOMED, row[5], SNOMED, row[6], None, "inexact"))
    for opened in files["SimpleMap"]:
        for row in _rows(opened, 7):
            if row[2] == "1":
                maps[row[4]].append((SNOMED, row[5], _TARGETS.get(row[4], ""), row[6], None, "relatedto"))
    for opened in files["ExtendedMap"] + files["ComplexMap"]:
        for row in _rows(opened, 11):
            if row[2] == "1" and row[10]:
                maps[row[4]].append((SNOMED, row[5], _TARGETS.get(row[4], ""), row[10], None, "relatedto"))
    return sets, maps
