"""The NHS dictionary of medicines and devices (dm+d), as TRUD releases it: f_vtm2, f_vmp2, f_amp2 … in XML.

A virtual product is a kind of its moiety (VTM), an actual product of its virtual product, a pack of its product.
(dm+d Implementation Guide, NHSBSA.)
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from xml.parsers import expat

from carefolio.terminology.concepts import Concept, TerminologyError
from carefolio.terminology.store import Incoming

DMD = "https://dmd.nhs.uk"
# Of each file the element of an entry, its code, its name, what it is a kind of, its earlier code.
_FILES = (
    ("f_vtm2_", "VTM", "VTMID", (), "VTMIDPREV"),
    ("f_vmp2_", "VMP", "VPID", ("VTMID",), "VPIDPREV"),
    ("f_amp2_", "AMP", "APID", ("VPID",), ""),
    ("f_vmpp2_", "VMPP", "VPPID", ("VPID",), ""),
    ("f_ampp2_", "AMPP", "APPID", ("VPPID", "APID"), ""),
)
_NAME = re.compile(r"(f_[a-z]+2)_\d*(\d{6})\.xml\Z")
_LONGEST_NAME = 2000


def read(path: Path) -> tuple[str, list[Incoming]]:
    """The release's name (``dmd#2026-11-23``) and its code system; of a folder or zip. Raises TerminologyError."""
    found = _found(path)
    concepts: list[Concept] = []
    versions = set()
    for start, kind, code, parents, before in _FILES:
        files = [(name, opened) for name, opened in found if name.startswith(start)]
        if len(files) != 1:
            raise TerminologyError(f"{start}*.xml: one is needed, {len(files)} are there")
        [(name, opened)] = files
        if match := _NAME.search(name):
            versions.add(f"20{match[2][4:6]}-{match[2][2:4]}-{match[2][:2]}")
        with opened() as file:
            concepts += _concepts(file, name, kind, code, parents, before)
    version = max(versions) if versions else ""
    content = {
        "resourceType": "CodeSystem", "url": DMD, "version": version, "name": "DMD",
        "title": "NHS dictionary of medicines and devices", "status": "active", "content": "complete",
        "caseSensitive": True, "hierarchyMeaning": "is-a", "valueSet": f"{DMD}/ValueSet/all",
    }  # fmt: skip
    return f"dmd#{version}", [Incoming(content, concepts)]


def _found(path: Path) -> list[tuple[str, Callable[[], IO[bytes]]]]:
    if path.is_dir():
        return [(file.name, lambda file=file: file.open("rb")) for file in sorted(path.rglob("*.xml"))]  # type: ignore[misc]
    try:
        packed = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise TerminologyError(f"not a folder or zip: {type(error).__name__}") from None
    return [
        (name.rpartition("/")[2], lambda name=name: packed.open(name))  # type: ignore[misc]
        for name in sorted(packed.namelist())
        if name.endswith(".xml")
    ]


def _concepts(
    file: IO[bytes], name: str, kind: str, code: str, parents: tuple[str, ...], before: str
) -> Iterator[Concept]:
    """The entries of a file, one after the other. Raises TerminologyError."""
    entries = _Entries(kind)
    number = 0
    while part := file.read(1 << 20):
        for fields in entries.feed(part, name):
            number += 1
            yield _concept(fields, f"{name} {kind} {number}", kind, code, parents, before)
    for _ in entries.feed(b"", name):
        raise AssertionError("an entry ends with its last tag")


class _Entries:
    """The elements of one name, each with the texts of what is in it: a release has hundreds of megabytes."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._fields: dict[str, str] | None = None
        self._text: list[str] = []
        self._done: list[dict[str, str]] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = _refuse

    def feed(self, part: bytes, name: str) -> list[dict[str, str]]:
        """What ended in a part; an empty one ends the file. Raises TerminologyError."""
        try:
            self._parser.Parse(part, not part)
        except expat.ExpatError as error:
            raise TerminologyError(f"{name}: no XML that is taken here, line {error.lineno}") from None
        done, self._done = self._done, []
        return done

    def _start(self, tag: str, _: dict[str, str]) -> None:
        if tag == self._kind:
            self._fields = {}
        self._text.clear()

    def _characters(self, text: str) -> None:
        if self._fields is not None:
            self._text.append(text)

    def _end(self, tag: str) -> None:
        if self._fields is None:
            return
        if tag == self._kind:
            self._done.append(self._fields)
            self._fields = None
        else:
            self._fields[tag] = "".join(self._text).strip()
            self._text.clear()


def _refuse(*_: object) -> None:
    raise TerminologyError("a document type is not taken")


def _concept(
    fields: dict[str, str], place: str, kind: str, code: str, parents: tuple[str, ...], before: str
) -> Concept:
    own, shown = fields.get(code, ""), fields.get("DESC") or fields.get("NM", "")
    if not own.isascii() or not own.isdigit() or len(own) > 18:
        raise TerminologyError(f"{place}: {code} is no identifier")
    if not shown or len(shown) > _LONGEST_NAME:
        raise TerminologyError(f"{place}: a name (NM) of at most {_LONGEST_NAME} characters is needed")
    names = [(text, "en", "") for tag in ("NM", "ABBREVNM") if (text := fields.get(tag)) and text != shown]
    properties: dict[str, list[object]] = {"kind": [kind]}
    if text := fields.get(before):
        properties["previous"] = [text]
    above = tuple(text for tag in parents if (text := fields.get(tag)))
    return Concept(own, shown, fields.get("INVALID") != "1", above, (), names, properties)
