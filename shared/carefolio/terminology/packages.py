"""FHIR packages (https://confluence.hl7.org/display/FHIR/NPM+Package+Specification): what of them is kept here."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from carefolio.fhir.validation import validate
from carefolio.terminology.concepts import TerminologyError
from carefolio.terminology.resources import KINDS
from carefolio.terminology.store import Incoming

_MOST_FILES, _MOST_BYTES, _LARGEST = 100_000, 4 << 30, 1 << 30


def read(path: Path) -> tuple[str, list[Incoming]]:
    """The package's name and version (``hl7.fhir.uk.core#2.0.0``), and what is to be loaded of it.

    Raises TerminologyError naming the file.
    """
    made: list[Incoming] = []
    name = ""
    try:
        with tarfile.open(path, "r:*") as packed:
            size = 0
            for place, each in enumerate(packed):
                size += each.size
                if place > _MOST_FILES or size > _MOST_BYTES:
                    raise TerminologyError(f"more than {_MOST_FILES} files or {_MOST_BYTES >> 30} GB")
                # The resources are in the folder itself; those below it are examples and the like.
                if not each.isfile() or Path(each.name).parent.name != "package" or not each.name.endswith(".json"):
                    continue
                if each.size > _LARGEST:
                    raise TerminologyError(f"{each.name[-100:]}: larger than {_LARGEST >> 30} GB")
                opened = packed.extractfile(each)
                assert opened is not None
                said = _json(opened.read(), each.name)
                if Path(each.name).name == "package.json":
                    name = f"{said.get('name')}#{said.get('version')}"
                elif said.get("resourceType") in KINDS and isinstance(said.get("url"), str):
                    made.append(_incoming(said, each.name))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise TerminologyError(f"not a package: {type(error).__name__}") from None
    if not name:
        raise TerminologyError("not a package: it has no package/package.json")
    return name, made


def _json(text: bytes, name: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        raise TerminologyError(f"{name[-100:]}: not JSON") from None
    if not isinstance(said, dict):
        raise TerminologyError(f"{name[-100:]}: not an object")
    return said


def _incoming(resource: dict[str, Any], name: str) -> Incoming:
    try:
        return Incoming.of(resource)
    except TerminologyError as error:
        raise TerminologyError(f"{name[-100:]}: {error}") from None
    except (KeyError, TypeError, AttributeError):
        wrong = validate(resource)
        place = wrong[0].expression if wrong else resource["resourceType"]
        raise TerminologyError(f"{name[-100:]}: {place} is not as FHIR has it") from None
