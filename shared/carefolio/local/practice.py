"""A fictional general practice, and its EMIS extracts: a bulk and nightly deltas of all tables, as EMIS writes them.

For demonstrations and measurements. The people do not exist; three are those whom the demonstration's hospital knows.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from carefolio.emis.tables import tables

AGREEMENT = uuid.UUID("0d9b2a54-58c5-4f6e-9a53-6a0f3a7c1d20")
ODS_CODE = "Y99001"
NAME = "Whitcombe Demonstration Surgery"
Row = Mapping[str, str]
Encrypt = Callable[[Path], Path]

_FAMILY = ("Ashdown", "Birtwhistle", "Corrigan", "Dacosta", "Eastlake", "Farrow", "Gillespie", "Hargreave", "Ingleby",
           "Jessop", "Kilbride", "Loxley", "Mistry", "Northcott", "Oyelaran", "Pemberley")  # fmt: skip
_GIVEN = ("Alder", "Bronwen", "Cyrus", "Delphine", "Emrys", "Fenella", "Gareth", "Hibiki", "Isolde", "Jonquil")
# CodeId: (term, Read, SNOMED, category)
CODES = {
    "1001": ("Full blood count", "424..", "26604007", "Haematology"),
    "1002": ("Haemoglobin estimation", "423..", "1022431000000105", "Haematology"),
    "1003": ("O/E - blood pressure reading", "246..", "163020007", "Biological values"),
    "1004": ("O/E - systolic BP reading", "2469.", "72313002", "Biological values"),
    "1005": ("O/E - diastolic BP reading", "246A.", "1091811000000102", "Biological values"),
    "1006": ("Type 2 diabetes mellitus", "C10F.", "44054006", "Conditions, operations and procedures"),
    "1007": ("Asthma", "H33..", "195967001", "Conditions, operations and procedures"),
    "1008": ("Appendicectomy", "770..", "80146002", "Conditions, operations and procedures"),
    "1009": ("Adverse reaction to penicillin", "TJ00.", "292954005", "Allergy and adverse reactions"),
    "1010": ("Influenza vaccination", "65E..", "86198006", "Immunisations"),
    "1011": ("Referral to physiotherapist", "8H77.", "308447003", "Referral"),
    "1012": ("FH: Ischaemic heart disease", "12C5.", "160303001", "Family history"),
    "1013": ("Ex-smoker", "137S.", "8517006", "Personal Health and Social"),
    "1014": ("British or mixed British - ethnic category 2001 census", "9i0..", "976631000000101", "Ethnicity"),
    "1015": ("Married", "1331.", "87915002", "Marital status"),
    "1016": ("Haemoglobin A1c level", "42W5.", "1019431000000105", "Biochemistry"),
    "1017": ("Serum cholesterol level", "44P..", "1005671000000105", "Biochemistry"),
    "1018": ("Face to face consultation", "9N1C.", "185317003", "Administration, documents and attachments"),
    "1019": ("O/E - weight", "22A..", "27113001", "Biological values"),
    "1020": ("Serum specimen", "4I20.", "119364003", "Pathology specimen"),
    "1021": ("Medication review due", "8BMA.", "182836005", "Procedure code"),
    "1022": ("Cough", "171..", "49727002", "Symptoms, Findings"),
}
DRUGS = {
    "2001": ("Metformin 500mg tablets", "322236009"),
    "2002": ("Salbutamol 100micrograms/dose inhaler CFC free", "320139002"),
    "2003": ("Atorvastatin 20mg tablets", "39733211000001101"),
}
_MEASURES = (
    ("1002", "g/L", 110, 160, "115", "165"), ("1016", "mmol/mol", 30, 80, "20", "42"),
    ("1017", "mmol/L", 3, 7, "", "5"), ("1019", "kg", 50, 110, "", ""),
)  # fmt: skip
_FINDINGS = ("1006", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1022", "1020")
_REMARKS = ("", "", "", "seen in surgery", "discussed with patient, happy to continue", "review in three months",
            'patient says "much better"', "home reading,\r\nbrought by daughter")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Size:
    """``observations`` are of each patient, the other tables in proportion."""

    patients: int = 20
    observations: int = 30


def guid(*parts: object) -> str:
    """The same GUID for the same words, as EMIS writes them."""
    return "{" + str(uuid.uuid5(AGREEMENT, "/".join(map(str, parts)))).upper() + "}"


ORGANISATION = guid("organisation")
_LOCATION, _GP, _NURSE = guid("location"), guid("gp"), guid("nurse")
KNOWN = (
    # Whom the demonstration's hospital knows: NHS number, family and given name, sex, date of birth, address.
    ("9990001103", "Aldersley", "Gwen", "Catrin", "Mrs", "F", "1958-04-12", "14", "Tannery Row", "DT99 1AB"),
    ("9990001111", "Okonjo-Hale", "Idris", "", "Mr", "M", "1991-09-23", "Flat 3", "Quayside House", "DT99 2QH"),
    ("9990001138", "Marlowe", "Shanti", "Devi", "Ms", "F", "2001-11-30", "2", "Old Mill Lane", "DT99 3ML"),
)


def file_name(kind: str, processing: int, table: str, stamp: str, agreement: uuid.UUID = AGREEMENT) -> str:
    """The name that EMIS gives a file (without .gpg)."""
    return f"{kind}_{processing}_{table}_{stamp}_{str(agreement).upper()}.csv"


def write_batch(
    folder: Path,
    kind: str,
    stamp: str,
    rows: Mapping[str, Iterable[Row]],
    *,
    processing: int = 1,
    agreement: uuid.UUID = AGREEMENT,
    encrypt: Encrypt | None = None,
) -> list[Path]:
    """Write all 21 files of a batch; a table without rows has its header alone."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for table in tables().values():
        path = folder / file_name(kind, processing, table.name, stamp, agreement)
        with path.open("w", encoding="utf-8", newline="") as file:
            columns = list(table.columns)
            file.write(_line(columns))
            for row in rows.get(table.name, ()):
                file.write(_line([row.get(column, "") for column in columns]))
        if encrypt is not None:
            plain, path = path, encrypt(path)
            plain.unlink()
        made.append(path)
    return made


def _line(values: list[str]) -> str:
    return '"' + '","'.join([v.replace('"', '""') if '"' in v else v for v in values]) + '"\r\n'


def nhs_number(number: int) -> str:
    """A well-formed NHS number of the range for tests (999 …)."""
    while True:
        digits = f"999{number:06}"
        check = 11 - sum(int(digit) * weight for digit, weight in zip(digits, range(10, 1, -1), strict=True)) % 11
        if check != 10:
            return digits + str(check % 11)
        number += 500_000


def bulk(size: Size, processing: int = 1) -> dict[str, Iterable[Row]]:
    """All rows of the practice; the long tables come as they are read."""
    chance = random.Random(7)  # noqa: S311 - made-up people
    people = [_patient(number, chance, processing) for number in range(size.patients)]
    at = str(processing)
    made: dict[str, Iterable[Row]] = {
        "Agreements_SharingOrganisation": [_sharing()],
        "Coding_ClinicalCode": [
            {"CodeId": code, "Term": term, "ReadTermId": read, "SnomedCTConceptId": snomed, "ProcessingId": at,
             "EmisCodeCategoryDescription": category}
            for code, (term, read, snomed, category) in CODES.items()
        ],
        "Coding_DrugCode": [
            {"CodeId": code, "Term": term, "DmdProductCodeId": dmd, "ProcessingId": at}
            for code, (term, dmd) in DRUGS.items()
        ],
        "Admin_OrganisationLocation": [{"OrganisationGuid": ORGANISATION, "LocationGuid": _LOCATION,
                                        "IsMainLocation": "true", "Deleted": "false", "ProcessingId": at}],
        "Admin_Location": [{"LocationGuid": _LOCATION, "LocationName": NAME, "NumberAndStreet": "1 Market Place",
                            "LocationTypeDescription": "Surgery", "Town": "Whitcombe", "Postcode": "DT99 1ZZ",
                            "PhoneNumber": "01632 960500", "Deleted": "false", "ProcessingId": at}],
        "Admin_Organisation": [{"OrganisationGuid": ORGANISATION, "CDB": "99001", "OrganisationName": NAME,
                                "ODSCode": ODS_CODE, "OrganisationType": "General Practice", "OpenDate": "1974-04-01",
                                "MainLocationGuid": _LOCATION, "ProcessingId": at}],
        "Admin_UserInRole": [
            {"UserInRoleGuid": _GP, "OrganisationGuid": ORGANISATION, "Title": "Dr", "GivenName": "Oluwaseun",
             "Surname": "Trevanion", "JobCategoryCode": "R0260", "JobCategoryName": "General Medical Practitioner",
             "ContractStartDate": "2012-08-01", "ProcessingId": at},
            {"UserInRoleGuid": _NURSE, "OrganisationGuid": ORGANISATION, "GivenName": "Petra", "Surname": "Lindqvist",
             "JobCategoryCode": "R0600", "JobCategoryName": "Practice Nurse", "ProcessingId": at},
        ],
        "Appointment_SessionUser": [{"SessionGuid": guid("session"), "UserInRoleGuid": _GP, "Deleted": "false",
                                     "ProcessingId": at}],
        "Appointment_Session": [{"AppointmentSessionGuid": guid("session"), "Description": "Morning surgery",
                                 "LocationGuid": _LOCATION, "SessionTypeDescription": "General practice appointment",
                                 "StartDate": "2026-12-01", "StartTime": "09:00:00", "EndDate": "2026-12-01",
                                 "EndTime": "12:00:00", "OrganisationGuid": ORGANISATION, "Deleted": "false",
                                 "ProcessingId": at}],
        "Admin_Patient": people,
        "Admin_PatientHistory": [
            {"PatientGuid": each["PatientGuid"], "OrganisationGuid": ORGANISATION, "HistoryDate": "2015-06-01",
             "HistoryTime": "10:00:00", "StatusDescription": "Registered", "ProcessingId": at}
            for each in people
        ],
        "Appointment_Slot": [_slot(number, each["PatientGuid"], at) for number, each in enumerate(people[:100])],
        "CareRecord_Consultation": _consultations(people, size, at),
        "CareRecord_Observation": _observations(people, size, at),
        "CareRecord_Problem": [_problem(each["PatientGuid"], at) for each in people],
        "CareRecord_ObservationReferral": [_referral(each["PatientGuid"], at) for each in people],
        "CareRecord_Diary": [_diary(each["PatientGuid"], at) for each in people],
        "Prescribing_DrugRecord": [_drug(each["PatientGuid"], at) for each in people],
        "Prescribing_IssueRecord": _issues(people, size, at),
    }  # fmt: skip
    return made


def _sharing() -> Row:
    return {"OrganisationGuid": ORGANISATION, "IsActivated": "true", "LastModifiedDate": "2026-01-05 09:00:00",
            "Disabled": "false", "Deleted": "false"}  # fmt: skip


def _patient(number: int, chance: random.Random, processing: int) -> Row:
    if number < len(KNOWN):
        nhs, family, given, middle, title, sex, born, house, street, postcode = KNOWN[number]
    else:
        family, given, middle, title = chance.choice(_FAMILY), chance.choice(_GIVEN), "", ""
        nhs, sex = nhs_number(2000 + number), chance.choice("MF")
        born = (date(1930, 1, 1) + timedelta(days=chance.randrange(33_000))).isoformat()
        house, street, postcode = str(chance.randrange(1, 90)), "Harbour Street", "DT99 4HS"
    return {
        "PatientGuid": guid("patient", number), "OrganisationGuid": ORGANISATION, "UsualGpUserInRoleGuid": _GP,
        "Sex": sex, "DateOfBirth": born, "Title": title, "GivenName": given, "MiddleNames": middle, "Surname": family,
        "DateOfRegistration": "2015-06-01", "NhsNumber": nhs, "PatientNumber": str(100 + number),
        "PatientTypeDescription": " Regular", "DummyType": "false", "HouseNameFlatNumber": house,
        "NumberAndStreet": street, "Town": "Whitcombe", "County": "Dorset", "Postcode": postcode, "Deleted": "false",
        "SpineSensitive": "false", "IsConfidential": "false", "MobilePhone": f"07700 90{number % 10000:04}",
        "ProcessingId": str(processing),
    }  # fmt: skip


def _slot(number: int, patient: str, at: str) -> Row:
    return {
        "SlotGuid": guid("slot", number), "AppointmentDate": "2026-12-01", "PatientGuid": patient,
        "AppointmentStartTime": f"{9 + number // 6 % 8:02}:{number % 6 * 10:02}:00", "PlannedDurationInMinutes": "10",
        "DidNotAttend": "false", "OrganisationGuid": ORGANISATION, "SessionGuid": guid("session"),
        "BookedDate": "2026-11-20", "BookedTime": "08:05:00", "SlotStatus": "Booked", "BookingMethod": "Practice",
        "ModeOfContact": "Face to face", "Deleted": "false", "ProcessingId": at,
    }  # fmt: skip


_STEP = 5


def _consultations(people: list[Row], size: Size, at: str) -> Iterator[Row]:
    for number, each in enumerate(people):
        for visit in range(size.observations // _STEP + 1):
            day = _day(number, visit)
            yield {
                "ConsultationGuid": guid("consultation", number, visit), "PatientGuid": each["PatientGuid"],
                "OrganisationGuid": ORGANISATION, "EffectiveDate": day, "EffectiveDatePrecision": "YMD",
                "EnteredDate": day, "EnteredTime": "10:15:00", "ClinicianUserInRoleGuid": _GP,
                "EnteredByUserInRoleGuid": _GP, "ConsultationSourceTerm": "GP Surgery",
                "ConsultationSourceCodeId": "1018", "Complete": "true", "Deleted": "false", "IsConfidential": "false",
                "ProcessingId": at,
            }  # fmt: skip


def _day(number: int, visit: int) -> str:
    return (date(2026, 10, 30) - timedelta(days=(number * 13 + visit * 97) % 7000)).isoformat()


def _observations(people: list[Row], size: Size, at: str) -> Iterator[Row]:
    chance = random.Random(11)  # noqa: S311 - made-up values
    for number, each in enumerate(people):
        patient, made = each["PatientGuid"], 0
        for code in ("1014", "1015", "1006", "1011"):
            yield _observation(number, made, patient, code, at, key=f"{patient}/{code}")
            made += 1
        while made < size.observations:
            kind = made % 6
            if kind == 0 and made + 3 <= size.observations:
                parent = guid("observation", patient, made)
                yield _observation(number, made, patient, "1003", at)
                low = chance.randrange(60, 95)
                for offset, code, value in ((1, "1005", low), (2, "1004", low + chance.randrange(35, 60))):
                    yield {**_observation(number, made + offset, patient, code, at), "Value": str(value),
                           "NumericUnit": "mmHg", "ParentObservationGuid": parent}  # fmt: skip
                made += 3
            elif kind == 3 and made + 2 <= size.observations:
                parent = guid("observation", patient, made)
                yield {**_observation(number, made, patient, "1001", at), "AssociatedText": ""}
                yield {**_measure(number, made + 1, patient, chance, at), "ParentObservationGuid": parent}
                made += 2
            elif kind in (1, 4):
                yield _observation(number, made, patient, chance.choice(_FINDINGS), at, chance.choice(_REMARKS))
                made += 1
            else:
                yield _measure(number, made, patient, chance, at)
                made += 1


def _measure(number: int, made: int, patient: str, chance: random.Random, at: str) -> dict[str, str]:
    code, unit, low, high, normal_low, normal_high = chance.choice(_MEASURES)
    value = f"{chance.uniform(low, high):.1f}"
    return {
        **_observation(number, made, patient, code, at), "Value": value, "NumericUnit": unit,
        "NumericRangeLow": normal_low, "NumericRangeHigh": normal_high, "ObservationType": "Value",
    }  # fmt: skip


def _observation(
    number: int, made: int, patient: str, code: str, at: str, remark: str = "", key: str = ""
) -> dict[str, str]:
    day = _day(number, made // _STEP)
    return {
        "ObservationGuid": guid("observation", key or f"{patient}/{made}"), "PatientGuid": patient,
        "OrganisationGuid": ORGANISATION, "EffectiveDate": day, "EffectiveDatePrecision": "YMD", "EnteredDate": day,
        "EnteredTime": "10:20:00", "ClinicianUserInRoleGuid": _GP, "EnteredByUserInRoleGuid": _NURSE, "CodeId": code,
        "ConsultationGuid": guid("consultation", number, made // _STEP), "AssociatedText": remark,
        "ObservationType": "Observation", "Deleted": "false", "IsConfidential": "false", "ProcessingId": at,
    }  # fmt: skip


def _problem(patient: str, at: str) -> Row:
    return {"ObservationGuid": guid("observation", f"{patient}/1006"), "PatientGuid": patient, "Deleted": "false",
            "OrganisationGuid": ORGANISATION, "ProblemStatusDescription": "Active Problem",
            "SignificanceDescription": "Significant Problem", "ProcessingId": at}  # fmt: skip


def _referral(patient: str, at: str) -> Row:
    return {"ObservationGuid": guid("observation", f"{patient}/1011"), "PatientGuid": patient,
            "OrganisationGuid": ORGANISATION, "ReferralUrgency": "Routine", "ReferralMode": "NHS e-Referral",
            "ReferralServiceType": "Assessment", "ReferralUBRN": "0001 2345 6789", "ProcessingId": at}  # fmt: skip


def _diary(patient: str, at: str) -> Row:
    return {"DiaryGuid": guid("diary", patient), "PatientGuid": patient, "OrganisationGuid": ORGANISATION,
            "EffectiveDate": "2027-02-01", "EffectiveDatePrecision": "YMD", "EnteredDate": "2026-08-01",
            "CodeId": "1021", "OriginalTerm": "Medication review due", "ClinicianUserInRoleGuid": _GP,
            "Deleted": "false", "IsConfidential": "false", "IsActive": "true", "IsComplete": "false",
            "ProcessingId": at}  # fmt: skip


def _drug(patient: str, at: str) -> Row:
    return {"DrugRecordGuid": guid("drug", patient), "PatientGuid": patient, "OrganisationGuid": ORGANISATION,
            "EffectiveDate": "2024-03-01", "EffectiveDatePrecision": "YMD", "EnteredDate": "2024-03-01",
            "EnteredTime": "11:00:00", "ClinicianUserInRoleGuid": _GP, "EnteredByUserInRoleGuid": _GP,
            "CodeId": "2001", "Dosage": "One To Be Taken Twice A Day", "Quantity": "56", "QuantityUnit": "tablet",
            "ProblemObservationGuid": guid("observation", f"{patient}/1006"), "PrescriptionType": "Repeat",
            "IsActive": "true", "NumberOfIssues": "3", "NumberOfIssuesAuthorised": "12", "IsConfidential": "false",
            "Deleted": "false", "ProcessingId": at}  # fmt: skip


def _issues(people: list[Row], size: Size, at: str) -> Iterator[Row]:
    for each in people:
        for month in range(max(3, size.observations // 20)):
            day = (date(2026, 10, 1) - timedelta(days=28 * month)).isoformat()
            yield issue(each["PatientGuid"], month, day, at)


def issue(patient: str, number: int, day: str, at: str) -> Row:
    """One issue of the patient's medicine."""
    return {"IssueRecordGuid": guid("issue", patient, number), "PatientGuid": patient,
            "OrganisationGuid": ORGANISATION, "DrugRecordGuid": guid("drug", patient), "EffectiveDate": day,
            "EffectiveDatePrecision": "YMD", "EnteredDate": day, "EnteredTime": "11:05:00",
            "ClinicianUserInRoleGuid": _GP, "EnteredByUserInRoleGuid": _GP, "CodeId": "2001",
            "Dosage": "One To Be Taken Twice A Day", "Quantity": "56", "QuantityUnit": "tablet",
            "CourseDurationInDays": "28", "EstimatedNhsCost": "1.42", "IsConfidential": "false", "Deleted": "false",
            "ProcessingId": at}  # fmt: skip


def delta(size: Size, night: int, share: float = 0.0) -> dict[str, Iterable[Row]]:
    """What a night changes: new results and an issue for those whom the hospital knows; ``share`` of all observations
    have another value, scattered over everybody."""
    at = str(1 + night)
    whole = bulk(size, 1)
    day = (datetime(2026, 11, 20, tzinfo=UTC) + timedelta(days=night)).date().isoformat()
    new, issued = [], []
    for number in range(min(len(KNOWN), size.patients)):
        patient = guid("patient", number)
        new.append({
            **_observation(number, 10_000 + night, patient, "1016", at), "EffectiveDate": day, "EnteredDate": day,
            "Value": f"{48 - night}", "NumericUnit": "mmol/mol", "NumericRangeHigh": "42",
            "AssociatedText": "Please discuss at your next review.",
        })  # fmt: skip
        issued.append(issue(patient, 100 + night, day, at))
    step = round(1 / share) if share else 0

    def observations() -> Iterator[Row]:
        yield from new
        for place, row in enumerate(whole["CareRecord_Observation"] if step else ()):
            if place % step == night % step:
                yield {**row, "AssociatedText": f"corrected in night {night}", "ProcessingId": at}

    return {
        "Agreements_SharingOrganisation": [_sharing()],
        "Coding_ClinicalCode": whole["Coding_ClinicalCode"],
        "Coding_DrugCode": whole["Coding_DrugCode"],
        "CareRecord_Observation": observations(),
        "Prescribing_IssueRecord": issued,
    }
