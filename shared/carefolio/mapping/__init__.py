"""HL7 v2 -> FHIR R4, as tables. Pure: knows no database."""

from carefolio.mapping.bundle import to_bundle
from carefolio.mapping.merge import merge
from carefolio.mapping.message import MAPPED_TYPES, UnsupportedTypeError, check_applicable, map_message, map_parts
from carefolio.mapping.model import Entry, Mapped, PatientIdentifier, Prior, Source

__all__ = [
    "MAPPED_TYPES",
    "Entry",
    "Mapped",
    "PatientIdentifier",
    "Prior",
    "Source",
    "UnsupportedTypeError",
    "check_applicable",
    "map_message",
    "map_parts",
    "merge",
    "to_bundle",
]
