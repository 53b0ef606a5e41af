"""UK Core as the package that an operator would load, made of the definitions that are at hand."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from carefolio.fhir.errors import FhirError
from carefolio.fhir.xml import parse
from tests.terminology import kit

ROOT = Path(__file__).parents[3] / "shared/fhir/ukcore"
_FOLDERS = ("structuredefinitions", "valuesets", "codesystems", "conceptmaps")


def resources(folder: str) -> dict[str, dict[str, Any]]:
    """The resources of a folder by file name; without those that are no FHIR XML."""
    made = {}
    for file in sorted((ROOT / folder).glob("*.xml")):
        with contextlib.suppress(FhirError):
            made[file.name] = parse(file.read_bytes())
    return made


def package(file: Path) -> Path:
    """The package."""
    made = [each for folder in _FOLDERS for each in resources(folder).values()]
    return kit.package(file, made, name="fhir.r4.ukcore", version="2.0.0")
