"""Whatever stands in a row: what is made of it is valid R4, or the row is told as one that cannot be mapped."""

from __future__ import annotations

import uuid

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.extracts.kit import CODES

from carefolio.emis.chunks import KEYS
from carefolio.emis.tables import tables
from carefolio.fhir import text
from carefolio.fhir.validation import validate
from carefolio.mapping.emis import (
    ColumnError,
    Context,
    Items,
    Line,
    code_of,
    drug_of,
    gp_patient,
    location,
    map_items,
    organisation,
    people,
    schedule,
)
from carefolio.mapping.serialise import dumps
from carefolio.record.ids import derived_text

_GUIDS = [str(uuid.UUID(int=number)) for number in range(1, 6)]
_RUBBISH = st.sampled_from([
    "", " ", "\t", "true", "FALSE", "maybe", "0", "-1", "1e400", "NaN", "1E+12", "0.000000000000001", "12,5", "007",
    "99999999999999999999", "2024-02-30", "2024-05-06", "0001-01-01", "9999-12-31", "25:61:00", "23:59:59", "YM", "Z",
    "U", "Y", "YMDT", "<", "≥", "\u202e", "a\ufffdb", "<div>&amp;</div>", "x" * 5000, "Past Problem",
    "{11111111-2222-3333-4444-555555555555}", "not a guid", "1", "5", "100", "Regular", " Dummy ", "a\u2028b", "é",
])  # fmt: skip


def _row(table: str) -> st.SearchStrategy[list[str]]:
    known = KEYS[table]
    keys = {*known.key, known.patient, known.practice, known.parent}

    def cell(name: str, kind: str) -> st.SearchStrategy[str]:
        good = {
            "guid": st.sampled_from(_GUIDS), "long": st.sampled_from([*CODES, "100", "101"]),
            "date": st.just("2024-05-06"), "time": st.just("09:30:00"), "boolean": st.sampled_from(["true", "false"]),
        }.get(kind, st.just(""))  # fmt: skip
        # The loader has seen to the keys.
        return good if name in keys else st.one_of(good, good, good, _RUBBISH)

    return st.tuples(*(cell(name, kind) for name, kind in tables()[table].columns.items())).map(list)


def _lines() -> st.SearchStrategy[tuple[str, list[str], str, str]]:
    keys, parents = st.sampled_from(_GUIDS), st.sampled_from(["", *_GUIDS])
    return st.sampled_from(_TABLES).flatmap(lambda table: st.tuples(st.just(table), _row(table), keys, parents))


def _context() -> Context:
    blank = dict.fromkeys(tables()["Coding_ClinicalCode"].columns, "")
    codes = {
        int(number): code_of(blank | {"CodeId": number, "Term": term, "ReadTermId": read, "SnomedCTConceptId": snomed,
                                      "EmisCodeCategoryDescription": category})
        for number, (term, read, snomed, category) in CODES.items()
    }  # fmt: skip
    drug = drug_of({"CodeId": "100", "Term": "Metformin", "DmdProductCodeId": "322236009"})

    def number(kind: str, key: str) -> str:
        return derived_text(kind, key)

    return Context(_GUIDS[0], number, number, codes, {100: drug}, {"reference": f"Patient/{_GUIDS[1]}"})


def _check(resource: dict) -> None:
    issues = validate(text.loads(dumps(resource | {"id": _GUIDS[0]})))
    assert not issues, (resource["resourceType"], issues)


_TABLES = ["CareRecord_Observation", "CareRecord_Problem", "CareRecord_ObservationReferral", "CareRecord_Consultation",
           "CareRecord_Diary", "Prescribing_DrugRecord", "Prescribing_IssueRecord", "Appointment_Slot",
           "Audit_PatientAudit"]  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_lines(), max_size=8))
def test_a_patients_rows(rows: list[tuple[str, list[str], str, str]]) -> None:
    items = Items()
    for at, (table, values, key, parent) in enumerate(rows):
        items.add(Line(table, key, values, 1, at, parent if parent != key else ""))
    made, failed = map_items(_context(), items)
    for each in made:
        _check(each.resource)
    for _, error in failed:
        assert len(str(error)) < 200


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(_row("Admin_Patient"), st.lists(_row("Admin_PatientHistory"), max_size=2))
def test_a_patient(values: list[str], history: list[list[str]]) -> None:
    lines = [Line("Admin_PatientHistory", key, row) for key, row in zip(_GUIDS, history, strict=False)]
    try:
        found = gp_patient(_context(), Line("Admin_Patient", _GUIDS[3], values), lines, ())
    except ColumnError:
        return
    if not found.dummy:
        _check(found.patient)
        _check(found.episode)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(_row("Admin_Organisation"), _row("Admin_Location"), _row("Admin_UserInRole"), _row("Appointment_Session"))
def test_what_is_no_patients(
    an_organisation: list[str], a_place: list[str], a_user: list[str], a_session: list[str]
) -> None:
    context = _context()
    makers = {
        "Admin_Organisation": organisation,
        "Admin_Location": lambda context, line: location(context, line, ()),
        "Admin_UserInRole": people,
        "Appointment_Session": lambda context, line: schedule(context, line, ()),
    }
    for (table, make), values in zip(makers.items(), (an_organisation, a_place, a_user, a_session), strict=True):
        try:
            made = make(context, Line(table, _GUIDS[4], values))
        except (ColumnError, ValueError):
            continue
        for each in made if isinstance(made, list) else [made]:
            _check(each.resource)
