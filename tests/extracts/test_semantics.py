"""What an extract means (domain notes B6 to B11), proved on batches that are written row by row."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from carefolio.emis.errors import ExtractError
from carefolio.extracts import agreements, status
from carefolio.fhir import text
from carefolio.fhir.validation import validate
from tests.conftest import nhs
from tests.extracts.kit import CODES, Practice, guid

LABEL = "https://fhir.carefolio.uk/CodeSystem/privacy-label"


@pytest.fixture
def practice(pool: asyncpg.Pool, tmp_path: Path) -> Practice:
    made = Practice(pool, tmp_path)
    made.base()
    return made


async def test_every_category_leads_to_its_resource(practice: Practice) -> None:
    patient = practice.patient()
    for code in CODES:
        practice.observation(patient, code, code)
    await practice.load("bulk")
    made = await practice.resources(patient)
    kinds = {each["code" if "code" in each else "vaccineCode" if "vaccineCode" in each else "type"]["text"]:
             each["resourceType"] for each in made
             if each["resourceType"] not in ("Patient", "EpisodeOfCare", "FamilyMemberHistory")}  # fmt: skip
    assert kinds == {
        "Haemoglobin": "DiagnosticReport", "Full blood count": "DiagnosticReport", "Blood pressure": "Observation",
        "Systolic": "Observation", "Diastolic": "Observation", "Asthma": "Condition", "Appendicectomy": "Procedure",
        "Penicillin allergy": "AllergyIntolerance", "Flu vaccine": "Immunization",
        "Referral to eye clinic": "ServiceRequest", "White British": "Observation", "Married": "Observation",
        "Blood specimen": "Specimen", "Chest X-ray requested": "ServiceRequest", "Cough": "Observation",
        "Dental caries": "Condition", "Dental scaling": "Procedure", "EMIS local disorder": "Condition",
        "Chlamydia": "Condition", "History of operation": "Observation",
    }  # fmt: skip
    [relative] = [each for each in made if each["resourceType"] == "FamilyMemberHistory"]
    assert relative["condition"][0]["code"]["text"] == "FH: Glaucoma"
    person = next(each for each in made if each["resourceType"] == "Patient")
    assert person["maritalStatus"]["coding"][0]["code"] == "M"
    assert person["extension"][0]["valueCodeableConcept"]["text"] == "White British"
    for row in await practice.pool.fetch("SELECT content FROM resource WHERE patient_id = $1",
                                         await practice.record(patient)):  # fmt: skip
        assert not validate(text.loads(row["content"]))


async def test_deltas_change_and_delete_by_keys_alone(practice: Practice) -> None:
    patient = practice.patient()
    first = practice.observation(patient, "a", "16")
    second = practice.observation(patient, "b", "1", Value="135", NumericUnit="g/L", NumericRangeHigh="160")
    await practice.load("bulk")
    kept = {each["id"] for each in await practice.resources(patient, "Observation")}
    assert len(kept) == 2
    practice.observation(patient, "b", "1", Value="128.0", NumericUnit="g/L", NumericOperator="<")
    practice.delete("CareRecord_Observation", ObservationGuid=first, PatientGuid=patient)
    report = (await practice.load())["report"]
    assert {name: report[practice_key(practice)][name] for name in ("created", "updated", "removed")} == {
        "created": 0, "updated": 1, "removed": 1,
    }  # fmt: skip
    value = await practice.one(patient, "Observation")
    assert value["id"] in kept
    assert value["meta"]["versionId"] == "2"
    assert value["valueQuantity"] == {"value": 128.0, "comparator": "<", "unit": "g/L"}
    content = await practice.pool.fetchval("SELECT content FROM resource WHERE id::text = $1", value["id"])
    # The digits are those that were sent.
    assert '"value":128.0' in content
    # The same batch's rows once more change nothing.
    practice.observation(patient, "b", "1", Value="128.0", NumericUnit="g/L", NumericOperator="<")
    report = (await practice.load())["report"]
    assert report[practice_key(practice)]["updated"] == 0
    # What was deleted comes back as another version of itself.
    practice.observation(patient, "a", "16")
    await practice.load()
    assert {each["id"] for each in await practice.resources(patient, "Observation")} == kept
    assert second


def practice_key(practice: Practice) -> str:
    return practice.org.strip("{}").lower()


async def test_the_higher_processing_id_wins_wherever_it_stands(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "a", "1", Value="3", ProcessingId="900")
    practice.observation(patient, "a", "1", Value="1", ProcessingId="700")
    practice.observation(patient, "a", "1", Value="2", ProcessingId="800")
    practice.observation(patient, "a", "1", Value="2", ProcessingId="800")
    number = practice.observation(patient, "gone", "16", ProcessingId="901")
    practice.delete("CareRecord_Observation", ObservationGuid=number, PatientGuid=patient, ProcessingId="1")
    practice.tables["CareRecord_Observation"][-1]["ProcessingId"] = "902"
    await practice.load("bulk")
    assert (await practice.one(patient, "Observation"))["valueQuantity"]["value"] == 3


async def test_a_bulk_once_more_removes_what_it_no_longer_has(practice: Practice) -> None:
    stays, leaves = practice.patient("stays"), practice.patient("leaves")
    for patient in (stays, leaves):
        practice.observation(patient, "a", "16")
        practice.observation(patient, "b", "6")
    await practice.load("bulk")
    history = await practice.resources(leaves)
    practice.base()
    practice.patient("stays", NhsNumber=(await practice.one(stays, "Patient"))["identifier"][0]["value"])
    practice.observation(stays, "a", "16")
    await practice.load("bulk")
    kinds = [each["resourceType"] for each in await practice.resources(stays)]
    assert kinds == ["EpisodeOfCare", "Observation", "Patient"]
    # Who is left out has left: his history stays, marked.
    left = await practice.resources(leaves)
    assert [each["id"] for each in left] == [each["id"] for each in history]
    assert next(each for each in left if each["resourceType"] == "EpisodeOfCare")["status"] == "finished"


async def test_a_bulk_that_lost_a_whole_table_removes_nothing_of_it(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "a", "16")
    practice.row("CareRecord_Diary", DiaryGuid=guid(practice.name, "d"), PatientGuid=patient, CodeId="16")
    await practice.load("bulk")
    practice.base()
    practice.patient(NhsNumber=(await practice.one(patient, "Patient"))["identifier"][0]["value"])
    practice.observation(patient, "a", "16")
    batch = await practice.load("bulk")
    assert (await practice.one(patient, "ServiceRequest"))["intent"] == "plan"
    assert any("CareRecord_Diary" in alert for alert in batch["alerts"])


async def test_out_of_scope_keeps_the_history_and_coming_back_goes_on(practice: Practice) -> None:
    number = nhs()
    patient = practice.patient(NhsNumber=number, HomePhone="01632 960001")
    practice.observation(patient, "a", "16")
    await practice.load("bulk")
    before = await practice.resources(patient, "Observation")
    practice.delete("Admin_Patient", PatientGuid=patient)
    practice.delete("CareRecord_Observation", ObservationGuid=guid(practice.name, patient, "a"), PatientGuid=patient)
    report = (await practice.load())["report"]
    assert report[practice_key(practice)]["ended"] == 1
    assert await practice.resources(patient, "Observation") == before
    person = await practice.one(patient, "Patient")
    assert [each["use"] for each in person["identifier"] if each["system"].endswith("emis-patient-guid")] == ["old"]
    assert (await practice.one(patient, "EpisodeOfCare"))["status"] == "finished"
    # Nothing that still comes for him is taken; when he is back, all is.
    practice.observation(patient, "b", "6")
    await practice.load()
    assert not await practice.resources(patient, "Condition")
    practice.patient(NhsNumber=number, DateOfRegistration="2024-01-09")
    await practice.load()
    assert len(await practice.resources(patient, "Condition")) == 1
    episodes = await practice.resources(patient, "EpisodeOfCare")
    assert sorted(each["status"] for each in episodes) == ["active", "finished"]


async def test_roll_off_may_be_agreed_to_remove(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "a", "16")
    await practice.load("bulk", roll_off="remove")
    practice.delete("Admin_Patient", PatientGuid=patient)
    await practice.load()
    assert not await practice.resources(patient, "Observation")


async def test_a_disabled_practice_is_frozen(practice: Practice) -> None:
    patient = practice.patient()
    number = practice.observation(patient, "a", "16")
    await practice.load("bulk")
    before = await practice.resources(patient)
    practice.sharing(Disabled="True")
    practice.delete("CareRecord_Observation", ObservationGuid=number, PatientGuid=patient)
    practice.delete("Admin_Patient", PatientGuid=patient)
    batch = await practice.load()
    assert await practice.resources(patient) == before
    assert any("disabled is true" in alert for alert in batch["alerts"])
    assert any("frozen" in alert for alert in batch["alerts"])
    practice.sharing()
    practice.observation(patient, "b", "6")
    await practice.load()
    assert len(await practice.resources(patient, "Condition")) == 1


async def test_guids_are_one_thing_within_a_practice_and_patient_only(pool: asyncpg.Pool, tmp_path: Path) -> None:
    practices = [Practice(pool, tmp_path), Practice(pool, tmp_path)]
    same = guid("the same", tmp_path)
    for practice in practices:
        practice.base()
        for word in ("one", "two"):
            practice.patient(word, PatientGuid=guid(word, tmp_path))
            practice.observation(guid(word, tmp_path), "a", "16", ObservationGuid=same)
        await practice.load("bulk")
    ids = {
        each["id"]
        for practice in practices
        for word in ("one", "two")
        for each in await practice.resources(guid(word, tmp_path), "Observation")
    }
    assert len(ids) == 4
    records = {await practice.record(guid("one", tmp_path)) for practice in practices}
    assert len(records) == 2


async def test_an_appointment_whose_patient_was_cleared_is_cancelled(practice: Practice) -> None:
    first, second = practice.patient("first"), practice.patient("second")
    session = guid(practice.name, "session")
    practice.row("Appointment_Session", AppointmentSessionGuid=session, StartDate="2026-01-05", StartTime="09:00:00",
                 SessionTypeDescription="Asthma clinic")  # fmt: skip
    practice.row("Appointment_SessionUser", SessionGuid=session, UserInRoleGuid=guid(practice.name, "gp"))

    def slot(word: str, patient: str, **more: str) -> None:
        practice.row("Appointment_Slot", SlotGuid=guid(practice.name, word), PatientGuid=patient, SessionGuid=session,
                     AppointmentDate="2026-07-05", AppointmentStartTime="09:10:00", PlannedDurationInMinutes="10",
                     **more)  # fmt: skip

    slot("booked", first)
    slot("moves", first)
    slot("goes", first)
    slot("nobody's", "")
    await practice.load("bulk")
    booked = {each["id"]: each for each in await practice.resources(first, "Appointment")}
    assert {each["status"] for each in booked.values()} == {"booked"}
    one = next(iter(booked.values()))
    # Summer time: the wall says ten past nine.
    assert (one["start"], one["end"]) == ("2026-07-05T09:10:00+01:00", "2026-07-05T09:20:00+01:00")
    assert len(one["participant"]) == 2
    slot("booked", "")
    slot("moves", second)
    practice.delete("Appointment_Slot", SlotGuid=guid(practice.name, "goes"), PatientGuid=first)
    await practice.load()
    assert [each["status"] for each in await practice.resources(first, "Appointment")] == ["cancelled", "cancelled"]
    assert [each["status"] for each in await practice.resources(second, "Appointment")] == ["booked"]
    slot("moves", second, LeftTime="09:31:00")
    await practice.load()
    assert [each["status"] for each in await practice.resources(second, "Appointment")] == ["fulfilled"]
    # The session's people are sent for themselves.
    practice.row("Admin_UserInRole", UserInRoleGuid=guid(practice.name, "nurse"), Surname="Lindqvist")
    practice.row("Appointment_SessionUser", SessionGuid=session, UserInRoleGuid=guid(practice.name, "nurse"))
    await practice.load()
    assert len((await practice.one(second, "Appointment"))["participant"]) == 3


@pytest.mark.parametrize("diastolic_first", [False, True])
async def test_two_pressures_are_one_panel(practice: Practice, diastolic_first: bool) -> None:
    patient = practice.patient()
    parent = practice.observation(patient, "bp", "3")
    halves = [("dia", "5", "80"), ("sys", "4", "120")]
    for word, code, value in halves if diastolic_first else halves[::-1]:
        practice.observation(patient, word, code, Value=value, NumericUnit="mmHg", ParentObservationGuid=parent)
    await practice.load("bulk")
    panel = await practice.one(patient, "Observation")
    assert [part["valueQuantity"]["value"] for part in panel["component"]] == [120, 80]
    assert {"system": "http://loinc.org", "code": "8480-6", "display": "Systolic blood pressure"} in (
        panel["component"][0]["code"]["coding"]
    )
    # One half is corrected; then it goes, and the other stands by itself.
    practice.observation(patient, "sys", "4", Value="118", NumericUnit="mmHg", ParentObservationGuid=parent)
    await practice.load()
    panel = await practice.one(patient, "Observation")
    assert panel["component"][0]["valueQuantity"]["value"] == 118
    practice.delete("CareRecord_Observation", ObservationGuid=guid(practice.name, patient, "sys"), PatientGuid=patient)
    await practice.load()
    left = await practice.resources(patient, "Observation")
    assert sorted("component" in each for each in left) == [False, False]


async def test_children_come_before_their_parents(practice: Practice) -> None:
    patient = practice.patient()
    report, panel = guid(practice.name, patient, "report"), guid(practice.name, patient, "panel")
    practice.observation(patient, "hb", "1", Value="140", ParentObservationGuid=report)
    practice.observation(patient, "sys", "4", Value="120", ParentObservationGuid=panel)
    practice.observation(patient, "dia", "5", Value="80", ParentObservationGuid=panel)
    await practice.load("bulk")
    assert len(await practice.resources(patient, "Observation")) == 2
    practice.observation(patient, "report", "2")
    practice.observation(patient, "panel", "3", EffectiveDate="2024-05-07")
    await practice.load()
    result = await practice.one(patient, "DiagnosticReport")
    observations = await practice.resources(patient, "Observation")
    value = next(each for each in observations if "valueQuantity" in each)
    assert result["result"] == [{"reference": f"Observation/{value['id']}"}]
    assert next(each for each in observations if "component" in each)["effectiveDateTime"] == "2024-05-07"
    assert len(observations) == 2
    # A child that finds another parent leaves the first.
    practice.observation(patient, "hb", "1", Value="140")
    await practice.load()
    assert "result" not in await practice.one(patient, "DiagnosticReport")


async def test_a_code_that_comes_late_releases_its_rows(practice: Practice) -> None:
    practice.tables["Coding_ClinicalCode"] = []
    practice.codes("16")
    patient = practice.patient()
    practice.observation(patient, "a", "16")
    practice.observation(patient, "b", "6")
    batch = await practice.load("bulk")
    assert len(await practice.resources(patient, "Condition")) == 1
    assert not await practice.resources(patient, "Observation")
    [parked] = await practice.parked()
    assert parked["reason"] == "CodeId 16 is not in any coding file yet"
    assert parked["place"].startswith("CareRecord_Observation row 2")
    assert batch["report"][practice_key(practice)]["parked"] == 1
    practice.codes()
    await practice.load()
    assert len(await practice.resources(patient, "Observation")) == 1
    assert not await practice.parked()


async def test_problems(practice: Practice) -> None:
    patient = practice.patient()
    asthma, operation = practice.observation(patient, "a", "6"), practice.observation(patient, "b", "7")
    nobody = guid(practice.name, "without observation")
    for number in (asthma, operation, nobody):
        practice.row("CareRecord_Problem", ObservationGuid=number, PatientGuid=patient, EndDate="2024-06-01",
                     EndDatePrecision="YM", SignificanceDescription="Significant Problem", Comment="worse in spring",
                     ProblemStatusDescription="Past Problem", ParentProblemObservationGuid=asthma,
                     ParentProblemRelationship="Grouped")  # fmt: skip
    practice.row("Prescribing_DrugRecord", DrugRecordGuid=guid(practice.name, "drug"), PatientGuid=patient,
                 CodeId="100", IsActive="true", ProblemObservationGuid=asthma)  # fmt: skip
    await practice.load("bulk")
    conditions = await practice.resources(patient, "Condition")
    assert len(conditions) == 2
    for each in conditions:
        assert each["category"][0]["coding"][0]["code"] == "problem-list-item"
        assert each["clinicalStatus"]["coding"][0]["code"] == "inactive"
        assert each["abatementDateTime"] == "2024-06"
        assert each["note"] == [{"text": "worse in spring"}]
    # A procedure that is a problem is both.
    assert len(await practice.resources(patient, "Procedure")) == 1
    statement = await practice.one(patient, "MedicationStatement")
    assert statement["reasonReference"][0]["reference"].removeprefix("Condition/") in {c["id"] for c in conditions}
    # Only the status of a problem goes with it.
    for number in (asthma, operation):
        practice.delete("CareRecord_Problem", ObservationGuid=number, PatientGuid=patient)
    await practice.load()
    condition = await practice.one(patient, "Condition")
    assert condition["category"][0]["coding"][0]["code"] == "encounter-diagnosis"
    # A problem whose observation comes a night later.
    practice.observation(patient, "without", "16", ObservationGuid=nobody)
    await practice.load()
    assert len(await practice.resources(patient, "Condition")) == 2


async def test_issues_tell_their_drug(practice: Practice) -> None:
    patient = practice.patient()
    drug = guid(practice.name, "drug")

    def record(**values: str) -> None:
        practice.row("Prescribing_DrugRecord", DrugRecordGuid=drug, PatientGuid=patient, CodeId="100", **values)

    def issue(word: str, day: str, number: str = drug, code: str = "100") -> None:
        practice.row("Prescribing_IssueRecord", IssueRecordGuid=guid(practice.name, word), PatientGuid=patient,
                     DrugRecordGuid=number, CodeId=code, EffectiveDate=day, CourseDurationInDays="28", Quantity="56",
                     QuantityUnit="tablet", EstimatedNhsCost="1.42", PatientMessage='Take with "food"')  # fmt: skip

    record(IsActive="true", CancellationDate="2024-01-01", PrescriptionType="Repeat", EffectiveDate="2024-01-20")
    issue("i1", "2024-02-01")
    issue("orphan", "2024-02-01", "", "101")
    await practice.load("bulk")
    requests = await practice.resources(patient, "MedicationRequest")
    assert {each["medicationCodeableConcept"]["text"] for each in requests} == {
        "Metformin 500mg tablets", "Something made up",
    }  # fmt: skip
    statement = await practice.one(patient, "MedicationStatement")
    # Cancelled is only what is not active any more.
    assert statement["status"] == "active"
    assert "end" not in statement["effectivePeriod"]
    issue("i2", "2024-03-01")
    await practice.load()
    assert dates(await practice.one(patient, "MedicationStatement")) == ["2024-02-01", "2024-03-01"]
    record(IsActive="false", PrescriptionType="Repeat", EffectiveDate="2024-01-20")
    await practice.load()
    statement = await practice.one(patient, "MedicationStatement")
    assert statement["status"] == "completed"
    assert statement["effectivePeriod"]["end"] == "2024-03-29"
    practice.delete("Prescribing_IssueRecord", IssueRecordGuid=guid(practice.name, "i2"), PatientGuid=patient)
    await practice.load()
    assert dates(await practice.one(patient, "MedicationStatement")) == ["2024-02-01", "2024-02-01"]


def dates(statement: dict) -> list[str]:
    return [each["valueDateTime"] for each in statement["extension"] if each["url"].endswith("IssueDate")]


@pytest.mark.parametrize(
    ("precision", "shown"),
    [("Y", "2024"), ("YM", "2024-05"), ("YMD", "2024-05-06"), ("U", None), ("", "2024-05-06")],
)
async def test_dates_say_as_much_as_they_know(practice: Practice, precision: str, shown: str | None) -> None:
    patient = practice.patient()
    practice.observation(patient, "a", "16", EffectiveDatePrecision=precision)
    await practice.load("bulk")
    assert (await practice.one(patient, "Observation")).get("effectiveDateTime") == shown


async def test_who_is_nobody_and_whose_number_is_none(practice: Practice) -> None:
    dummies = [practice.patient("d1", DummyType="true"), practice.patient("d2", PatientTypeDescription=" Dummy ")]
    placeholders = [practice.patient(f"x{at}", NhsNumber=number, DateOfBirth=f"199{at}-01-01")
                    for at, number in enumerate(("9999999999", "0000000000", "1234567890", ""))]  # fmt: skip
    for patient in (*dummies, *placeholders):
        practice.observation(patient, "a", "16")
    batch = await practice.load("bulk")
    assert batch["report"][practice_key(practice)]["dummies"] == 2
    assert [await practice.record(patient) for patient in dummies] == [None, None]
    assert len({await practice.record(patient) for patient in placeholders}) == 4
    for patient in placeholders:
        person = await practice.one(patient, "Patient")
        assert not [each for each in person["identifier"] if each["system"].endswith("nhs-number")]


async def test_what_is_confidential_is_labelled(practice: Practice) -> None:
    await practice.pool.execute(
        "INSERT INTO sensitive_concept VALUES (240589008, 999004381000000103, 'sexual-health') ON CONFLICT DO NOTHING"
    )
    patient = practice.patient(SpineSensitive="true", MobilePhone="07700900001", Postcode="DT99 1ZZ",
                               CarerName="Jo Farrow")  # fmt: skip
    practice.observation(patient, "open", "16")
    practice.observation(patient, "closed", "6", IsConfidential="True")
    practice.observation(patient, "sensitive", "20")
    await practice.load("bulk")
    person = await practice.one(patient, "Patient")
    assert not {"address", "telecom", "contact"} & set(person)
    assert person["meta"]["security"][0]["code"] == "V"
    asthma, chlamydia = sorted(await practice.resources(patient, "Condition"), key=lambda each: each["code"]["text"])
    assert asthma["meta"]["security"][0]["code"] == "R"
    assert chlamydia["meta"]["security"] == [{"system": LABEL, "code": "sexual-health"}]
    assert "security" not in (await practice.one(patient, "Observation"))["meta"]


async def test_columns_come_go_and_are_misspelt(practice: Practice) -> None:
    def change(table: str, columns: list[str]) -> list[str]:
        columns.reverse()
        if table == "CareRecord_Observation":
            columns = [name for name in columns if name not in ("AssociatedText", "Qualifiers")]
            columns.insert(3, "SomethingNew")
        if table == "Prescribing_IssueRecord":
            columns = ["ClinicanUserInRoleGuid" if name == "ClinicianUserInRoleGuid" else name for name in columns]
        return columns

    patient = practice.patient()
    practice.observation(patient, "a", "16")
    batch = await practice.load("bulk", change=change)
    assert batch["status"] == "loaded"
    assert (await practice.one(patient, "Observation"))["code"]["text"] == "Cough"
    assert any("SomethingNew" in alert for alert in batch["alerts"])


async def test_a_column_that_is_needed_stops_the_batch(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "a", "16")
    with pytest.raises(ExtractError, match="CareRecord_Observation: the header lacks CodeId"):
        await practice.load(
            "bulk", change=lambda table, columns: [n for n in columns if table[-11:] != "Observation" or n != "CodeId"]
        )
    assert practice.agreement is not None
    [batch] = (await status.overview(practice.pool, practice.agreement))["batches"]
    assert batch["status"] == "failed"
    assert await practice.record(patient) is None


async def test_quotes_lines_and_xml(practice: Practice) -> None:
    patient = practice.patient()
    xml = '<q name="a">' + "x" * 7900 + "</q>"
    note = 'He said "yes",\r\nand\tthen \\N \\. nothing; ünïcødé 🙂'
    practice.observation(patient, "a", "16", AssociatedText=note, Qualifiers=xml)
    await practice.load("bulk")
    made = await practice.one(patient, "Observation")
    assert made["note"] == [{"text": note}]
    assert next(each for each in made["extension"] if each["url"].endswith("Qualifiers"))["valueString"] == xml


async def test_a_value_that_is_none_parks_its_row(practice: Practice) -> None:
    patient, other = practice.patient("p"), practice.patient("other")
    practice.observation(patient, "good", "16")
    practice.observation(patient, "bad", "1", Value="twelve")
    practice.observation(patient, "worse", "16", EffectiveDate="2024-02-31")
    practice.observation(other, "good", "16")
    practice.row("CareRecord_Observation", ObservationGuid="not a guid", PatientGuid=patient, CodeId="16")
    batch = await practice.load("bulk")
    assert sorted(each["reason"] for each in await practice.parked()) == [
        "column EffectiveDate: not a date", "column Value: not a number",
    ]  # fmt: skip
    assert any("1 rows could not be placed, first row 6, column ObservationGuid" in each for each in batch["alerts"])
    assert len(await practice.resources(patient, "Observation")) == 1
    assert len(await practice.resources(other, "Observation")) == 1
    practice.observation(patient, "bad", "1", Value="12")
    await practice.load()
    assert [each["reason"] for each in await practice.parked()] == ["column EffectiveDate: not a date"]


async def test_a_doubt_parks_the_patient_until_a_person_answers(practice: Practice) -> None:
    number = nhs()
    elsewhere = Practice(practice.pool, practice.folder)
    elsewhere.base()
    first = elsewhere.patient(NhsNumber=number, Surname="Corrigan", DateOfBirth="1950-01-01")
    await elsewhere.load("bulk")
    patient, fine = practice.patient(NhsNumber=number), practice.patient("fine")
    practice.observation(patient, "a", "16")
    practice.observation(fine, "a", "16")
    await practice.load("bulk")
    assert await practice.record(patient) is None
    assert len(await practice.resources(fine, "Observation")) == 1
    [parked] = await practice.parked()
    assert "date of birth and family name must agree" in parked["reason"]
    assert practice.agreement is not None
    await status.decide(practice.pool, parked["id"], "administrator/test", approve=True)
    assert await practice.record(patient) == await elsewhere.record(first)
    assert len(await practice.resources(patient, "Observation")) == 1
    assert not await practice.parked()


async def test_what_is_parked_can_be_dismissed(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "bad", "1", Value="twelve")
    await practice.load("bulk")
    [parked] = await practice.parked()
    with pytest.raises(agreements.AgreementError, match="reason"):
        await status.dismiss(practice.pool, parked["id"], "administrator/test", " ")
    await status.dismiss(practice.pool, parked["id"], "administrator/test", "the practice mends it")
    assert not await practice.parked()
    assert practice.agreement is not None
    assert await status.retry(practice.pool, practice.agreement) == 0


async def test_rows_of_somebody_unknown_wait_for_him(practice: Practice) -> None:
    stranger = guid(practice.name, "late")
    practice.patient("here")
    practice.observation(stranger, "a", "16")
    await practice.load("bulk")
    [parked] = await practice.parked()
    assert parked["reason"] == "his row of Admin_Patient has not come"
    assert practice.patient("late") == stranger
    await practice.load()
    assert len(await practice.resources(stranger, "Observation")) == 1
    assert not await practice.parked()


async def test_batches_go_in_order_and_none_is_skipped(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "a", "1", Value="1")
    await practice.load("bulk")
    old = practice.write()
    practice.sharing()
    practice.observation(patient, "a", "1", Value="3")
    await practice.load()
    assert practice.agreement is not None
    from carefolio.extracts import loading

    with pytest.raises(ExtractError, match="older than the last"):
        await loading.load_folder(practice.pool, practice.agreement, old)
    assert (await practice.one(patient, "Observation"))["valueQuantity"]["value"] == 3


async def test_a_practice_that_is_not_allowed_is_left_alone(pool: asyncpg.Pool, tmp_path: Path) -> None:
    practice = Practice(pool, tmp_path)
    practice.base()
    patient = practice.patient()
    batch = await practice.load("bulk", practices=("A81001",))
    assert await practice.record(patient) is None
    assert any("not shared with us" in alert for alert in batch["alerts"])


async def test_an_ods_code_that_flips_is_told_and_not_taken(practice: Practice) -> None:
    practice.patient()
    await practice.load("bulk")
    practice.row("Admin_Organisation", ODSCode=practice.ods + "A", OrganisationName="Test Surgery")
    batch = await practice.load()
    assert any(f"was {practice.ods} and is {practice.ods}A" in alert for alert in batch["alerts"])
    assert practice.agreement is not None
    [shown] = (await status.overview(practice.pool, practice.agreement))["practices"]
    assert shown["ods_code"] == practice.ods


async def test_audits_tell_who_did_what(practice: Practice) -> None:
    patient = practice.patient()
    number = practice.observation(patient, "a", "16")
    practice.row("Audit_PatientAudit", ItemGuid=number, PatientGuid=patient, ModifiedDate="2024-05-06",
                 ModifiedTime="09:31:00", UserInRoleGuid=guid(practice.name, "gp"), ItemType="Observation",
                 ModeType="Insert")  # fmt: skip
    await practice.load("bulk")
    made, provenance = await practice.one(patient, "Observation"), await practice.one(patient, "Provenance")
    assert provenance["target"] == [{"reference": f"Observation/{made['id']}"}]
    assert provenance["recorded"] == "2024-05-06T09:31:00+01:00"
    practice.row("Audit_PatientAudit", ItemGuid=number, PatientGuid=patient, ModifiedDate="2024-05-07",
                 ModifiedTime="10:00:00", UserInRoleGuid=guid(practice.name, "gp"), ItemType="Observation",
                 ModeType="Update")  # fmt: skip
    await practice.load()
    assert len(await practice.resources(patient, "Provenance")) == 2
    practice.delete("CareRecord_Observation", ObservationGuid=number, PatientGuid=patient)
    await practice.load()
    assert not await practice.resources(patient, "Provenance")


async def test_ethnicity_that_comes_later_reaches_the_patient(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "x", "16")
    await practice.load("bulk")
    number = practice.observation(patient, "e", "12")
    await practice.load()
    assert (await practice.one(patient, "Patient"))["extension"][0]["valueCodeableConcept"]["text"] == "White British"
    practice.delete("CareRecord_Observation", ObservationGuid=number, PatientGuid=patient)
    await practice.load()
    assert not (await practice.one(patient, "Patient")).get("extension")
