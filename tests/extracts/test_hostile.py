"""What a hostile reader found in the first version, held."""

from __future__ import annotations

import dataclasses
import tempfile
import uuid
from pathlib import Path

import asyncpg
import pytest

from carefolio.cloud import secrets
from carefolio.emis.errors import ExtractError
from carefolio.emis.rows import read_header
from carefolio.emis.tables import tables
from carefolio.extracts import agreements, loading
from carefolio.extracts.agreements import AgreementError, Wanted
from carefolio.extracts.coding import Coding
from carefolio.local import extract_demo
from tests.conftest import nhs
from tests.extracts.kit import HEADERS, Practice, guid


@pytest.fixture
def practice(pool: asyncpg.Pool, tmp_path: Path) -> Practice:
    made = Practice(pool, tmp_path)
    made.base()
    return made


async def test_one_person_twice_at_a_practice(practice: Practice) -> None:
    number = nhs()
    old = practice.patient("old", NhsNumber=number)
    practice.observation(old, "a", "16")
    await practice.load("bulk")
    new = practice.patient("new", NhsNumber=number, DateOfRegistration="2024-01-05")
    practice.observation(new, "b", "6")
    await practice.load()
    assert await practice.record(new) is None
    [parked] = await practice.parked()
    assert "twice" in parked["reason"]
    # The first registration ends; the other is tried again with the next night, and takes nothing away.
    practice.delete("Admin_Patient", PatientGuid=old)
    await practice.load()
    await practice.load()
    assert await practice.record(new) == await practice.record(old)
    assert not await practice.parked()
    kinds = [each["resourceType"] for each in await practice.resources(new)]
    assert kinds == ["Condition", "EpisodeOfCare", "EpisodeOfCare", "Observation", "Patient"]
    practice.base()
    practice.patient("new", NhsNumber=number, DateOfRegistration="2024-01-05")
    practice.observation(new, "b", "6")
    await practice.load("bulk")
    assert [each["resourceType"] for each in await practice.resources(new)] == kinds


async def test_what_cannot_be_said_anew_stays_as_it_was(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "allergy", "8")
    practice.observation(patient, "value", "1", Value="140")
    await practice.load("bulk")
    practice.observation(patient, "allergy", "999")
    practice.observation(patient, "value", "1", Value="many")
    await practice.load()
    assert (await practice.one(patient, "AllergyIntolerance"))["code"]["text"] == "Penicillin allergy"
    assert (await practice.one(patient, "Observation"))["valueQuantity"]["value"] == 140
    assert len(await practice.parked()) == 2


async def test_a_confidential_half_makes_its_panel_confidential(practice: Practice) -> None:
    patient = practice.patient()
    parent = practice.observation(patient, "bp", "3")
    for word, code, hidden in (("sys", "4", "true"), ("dia", "5", "false")):
        practice.observation(patient, word, code, Value="100", ParentObservationGuid=parent, IsConfidential=hidden)
    await practice.load("bulk")
    assert (await practice.one(patient, "Observation"))["meta"]["security"][0]["code"] == "R"


async def test_deletions_with_keys_alone(practice: Practice) -> None:
    patient = practice.patient()
    number, slot = practice.observation(patient, "a", "16"), guid(practice.name, "slot")
    practice.row("Appointment_Slot", SlotGuid=slot, PatientGuid=patient, AppointmentDate="2026-01-05",
                 AppointmentStartTime="09:00:00", SessionGuid=guid(practice.name, "session"))  # fmt: skip
    await practice.load("bulk")
    assert len(await practice.resources(patient, "Appointment")) == 1
    practice.sharing()
    practice.tables["CareRecord_Observation"] = [
        {"ObservationGuid": number, "PatientGuid": patient, "Deleted": "true", "ProcessingId": "9000"}
    ]
    practice.tables["Appointment_Slot"] = [{"SlotGuid": slot, "Deleted": "true", "ProcessingId": "9001"}]
    await practice.load()
    assert [each["resourceType"] for each in await practice.resources(patient)] == ["EpisodeOfCare", "Patient"]


async def test_a_batch_that_is_seen_later_and_is_older_goes_first(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "a", "1", Value="1")
    await practice.load("bulk")
    assert practice.agreement is not None
    folders = []
    for value in ("2", "3"):
        practice.sharing()
        practice.observation(patient, "a", "1", Value=value, ProcessingId="50")
        folders.append(practice.write())
    # The later one is there first, but for one file.
    missing = next(folders[1].glob("*Admin_Patient_2*"))
    aside = missing.rename(practice.folder / missing.name)
    with pytest.raises(ExtractError, match="lacks Admin_Patient"):
        await loading.load_folder(practice.pool, practice.agreement, folders[1])
    aside.rename(missing)
    await loading.load_folder(practice.pool, practice.agreement, folders[0])
    await loading.load_folder(practice.pool, practice.agreement, folders[1])
    assert (await practice.one(patient, "Observation"))["valueQuantity"]["value"] == 3


async def test_a_batch_that_contradicts_itself_holds_up_the_next(practice: Practice) -> None:
    patient = practice.patient()
    practice.observation(patient, "a", "1", Value="1")
    await practice.load("bulk")
    assert practice.agreement is not None
    practice.sharing()
    practice.observation(patient, "a", "1", Value="2")
    folder = practice.write()
    twice = next(folder.glob("*Admin_Location_*"))
    (folder / "again").mkdir()
    copy = folder / "again" / twice.name
    copy.write_bytes(twice.read_bytes())
    with pytest.raises(ExtractError, match="twice"):
        await loading.load_folder(practice.pool, practice.agreement, folder)
    practice.sharing()
    later = practice.write()
    await loading.load_folder(practice.pool, practice.agreement, later)
    assert await practice.pool.fetchval(
        "SELECT count(*) FROM extract_batch WHERE agreement_id = $1 AND status = 'loaded'", practice.agreement.id
    ) == 1  # fmt: skip
    copy.unlink()
    await loading.load_folder(practice.pool, practice.agreement, folder)
    assert (await practice.one(patient, "Observation"))["valueQuantity"]["value"] == 2
    assert await practice.pool.fetchval(
        "SELECT count(*) FROM extract_batch WHERE agreement_id = $1 AND status = 'loaded'", practice.agreement.id
    ) == 3  # fmt: skip


async def test_a_history_row_is_said_once(practice: Practice) -> None:
    patient = practice.patient()
    await practice.load("bulk")
    practice.row("Admin_PatientHistory", PatientGuid=patient, HistoryDate="2024-01-02", HistoryTime="09:00:00",
                 StatusDescription="Registered")  # fmt: skip
    await practice.load()
    assert len((await practice.one(patient, "EpisodeOfCare"))["statusHistory"]) == 1


async def test_a_clinician_of_another_practice_is_found(practice: Practice) -> None:
    other = Practice(practice.pool, practice.folder)
    locum = guid(practice.name, "locum")
    practice.row("Agreements_SharingOrganisation", OrganisationGuid=other.org, IsActivated="true", Disabled="false")
    practice.row("Admin_Organisation", OrganisationGuid=other.org, ODSCode=other.ods, OrganisationName="Other")
    practice.row("Admin_UserInRole", UserInRoleGuid=locum, OrganisationGuid=other.org, Surname="Marlowe")
    practice.row("Admin_UserInRole", UserInRoleGuid=guid(practice.name, "hub"), OrganisationGuid=guid("elsewhere"))
    patient = practice.patient()
    practice.observation(patient, "a", "16", ClinicianUserInRoleGuid=locum)
    practice.observation(patient, "b", "16", ClinicianUserInRoleGuid=guid(practice.name, "hub"))
    await practice.load("bulk")
    for each in await practice.resources(patient, "Observation"):
        number = each["performer"][0]["reference"].removeprefix("Practitioner/")
        assert await practice.pool.fetchval("SELECT type FROM resource WHERE id::text = $1", number) == "Practitioner"


def test_a_header_that_is_none_is_not_repeated() -> None:
    table = tables()["Admin_Patient"]
    row = ["Zqxjk"] * 20
    with pytest.raises(ExtractError) as failure:
        read_header(table, row)
    assert "Zqxjk" not in str(failure.value)
    with pytest.raises(ExtractError, match="a column that is not known twice") as failure:
        read_header(table, [*HEADERS["Admin_Patient"], "Zqxjk", "Zqxjk"])
    assert "Zqxjk" not in str(failure.value)


async def test_what_a_set_needs_is_not_taken_from_it(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carefolio.extracts.coding._MOST", 3)
    practice.patient()
    await practice.load("bulk")
    assert practice.agreement is not None
    coding = Coding(practice.agreement.id, 0)
    async with practice.pool.acquire() as connection:
        await coding.need(connection, {1, 2, 3}, set())
        codes, drugs = await coding.need(connection, {1, 4, 5, 6, 7}, {100})
    assert set(codes) == {1, 4, 5, 6, 7}
    assert set(drugs) == {100}


@pytest.mark.skipif(not Path("/usr/bin/gpg").exists(), reason="gpg is not on this machine")
async def test_a_change_keeps_the_keys_and_a_refused_one_changes_nothing(pool: asyncpg.Pool, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="gpg-") as ring:
        theirs = extract_demo.new_keys(Path(ring), "Them", "them@example.org")
    first = Wanted("keeps-keys", uuid.uuid4(), verify_keys=[theirs.public.encode()], passphrase=b"old")
    made = await agreements.add(pool, first)
    assert made.signers
    changed = await agreements.add(pool, Wanted("keeps-keys", first.guid, schedule="5 4 * * *"))
    assert (changed.signers, changed.schedule) == (made.signers, "5 4 * * *")
    other = await agreements.add(pool, Wanted("another", uuid.uuid4()))
    with pytest.raises(AgreementError):
        await agreements.add(pool, dataclasses.replace(first, guid=other.guid, passphrase=b"new"))
    assert secrets.fetch("emis-keeps-keys-passphrase") == b"old"


async def test_an_extract_does_not_write_as_somebody_else(practice: Practice) -> None:
    await practice.pool.execute("INSERT INTO organisation (ods_code, name) VALUES ($1, 'A hospital')", practice.ods)
    patient = practice.patient()
    told = (await practice.load("bulk"))["alerts"]
    assert await practice.record(patient) is None
    assert any(practice.ods in line and "--practice" in line for line in told), told
    # An operator says that it is the practice.
    assert practice.agreement is not None
    wanted = Wanted(practice.name, practice.guid, practices=[practice.ods])
    practice.agreement = await agreements.add(practice.pool, wanted)
    practice.base()
    practice.patient()
    await practice.load("bulk")
    assert await practice.record(patient) is not None


async def test_a_patient_whom_the_database_refuses_holds_up_nobody(practice: Practice) -> None:
    """Not the others of his set, not the batch, not the next night; when it can be, he is applied."""
    fine, odd = practice.patient("fine"), practice.patient("odd")
    practice.observation(fine, "a", "1", Value="1")
    practice.observation(odd, "b", "1", Value="2", AssociatedText=f"refuse{practice.name}")
    await practice.pool.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON resource FOR EACH ROW
            WHEN (NEW.content LIKE '%refuse{practice.name}%') EXECUTE FUNCTION refuse();
        """
    )
    try:
        assert (await practice.load("bulk"))["status"] == "loaded"
        assert (await practice.one(fine, "Observation"))["valueQuantity"]["value"] == 1
        [parked] = await practice.parked()
        assert parked["reason"].startswith("it could not be applied: RaiseError")
    finally:
        await practice.pool.execute("DROP TRIGGER refuse ON resource; DROP FUNCTION refuse()")
    practice.observation(fine, "a", "1", Value="3")
    assert (await practice.load())["status"] == "loaded"
    assert (await practice.one(odd, "Observation"))["valueQuantity"]["value"] == 2
    assert await practice.parked() == []
