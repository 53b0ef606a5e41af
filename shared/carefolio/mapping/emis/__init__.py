"""EMIS rows -> FHIR R4, as tables (domain notes B9). Knows no database: rows in, resources out."""

from carefolio.mapping.emis.administration import location, organisation, people, schedule
from carefolio.mapping.emis.codes import Code, Drug, code_of, drug_of
from carefolio.mapping.emis.model import ColumnError, Context, Line, Made, UnknownCodeError, column
from carefolio.mapping.emis.patient import (
    GpPatient,
    ended_episode,
    ended_patient,
    gp_patient,
    merged_patient,
    without_emails,
)
from carefolio.mapping.emis.record import CANDIDATES, Items, map_items

__all__ = [
    "CANDIDATES",
    "Code",
    "ColumnError",
    "Context",
    "Drug",
    "GpPatient",
    "Items",
    "Line",
    "Made",
    "UnknownCodeError",
    "code_of",
    "column",
    "drug_of",
    "ended_episode",
    "ended_patient",
    "gp_patient",
    "location",
    "map_items",
    "merged_patient",
    "organisation",
    "people",
    "schedule",
    "without_emails",
]
