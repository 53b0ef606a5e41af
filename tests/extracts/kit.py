"""A practice of the tests' own, written down row by row, and what reads it back without any code of the product's."""

from __future__ import annotations

import csv
import io
import itertools
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from carefolio.extracts import agreements, loading, status
from carefolio.extracts.agreements import Agreement, Wanted
from tests.conftest import nhs

HEADERS = json.loads((Path(__file__).parent / "headers.json").read_text())
_SERIAL = itertools.count(1)
# CodeId: term, Read, SNOMED, category
CODES = {
    "1": ("Haemoglobin", "423..", "1022431000000105", "Haematology"),
    "2": ("Full blood count", "424..", "26604007", "Haematology"),
    "3": ("Blood pressure", "246..", "75367002", "Biological values"),
    "4": ("Systolic", "2469.", "72313002", "Biological values"),
    "5": ("Diastolic", "246A.", "1091811000000102", "Biological values"),
    "6": ("Asthma", "H33..", "195967001", "Conditions, operations and procedures"),
    "7": ("Appendicectomy", "770..", "80146002", "Conditions, operations and procedures"),
    "8": ("Penicillin allergy", "TJ00.", "91936005", "Allergy and adverse drug reactions"),
    "9": ("Flu vaccine", "65E..", "86198006", "Immunisations"),
    "10": ("Referral to eye clinic", "8H4..", "183523002", "Referral"),
    "11": ("FH: Glaucoma", "1295.", "160306009", "Family history"),
    "12": ("White British", "9i00.", "976631000000101", "Ethnicity"),
    "13": ("Married", "1331.", "87915002", "Marital status"),
    "14": ("Blood specimen", "4I1..", "119297000", "Pathology specimen"),
    "15": ("Chest X-ray requested", "5351.", "168537006", "Investigation requests"),
    "16": ("Cough", "171..", "49727002", "Symptoms, Findings"),
    "17": ("Dental caries", "", "80967001", "Dental disorder"),
    "18": ("Dental scaling", "", "234713009", "Dental procedure"),
    "19": ("EMIS local disorder", "EMISNQLO1", "123451000006118", "Conditions, operations and procedures"),
    "20": ("Chlamydia", "A78AX", "240589008", "Conditions, operations and procedures"),
    "21": ("History of operation", "14B..", "161615003", "Conditions, operations and procedures"),
}
ABOVE = {"19": "6"}
DRUGS = {"100": ("Metformin 500mg tablets", "322236009"), "101": ("Something made up", "")}


def guid(*words: object) -> str:
    return "{" + str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, words)))).upper() + "}"


@dataclass
class Practice:
    """A practice, and the agreement that brings its extract: tables as they stand, and nights that change them."""

    pool: asyncpg.Pool
    folder: Path
    name: str = field(default_factory=lambda: f"t{next(_SERIAL)}-{uuid.uuid4().hex[:8]}")
    processing: int = 0
    night: int = 0
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    agreement: Agreement | None = None

    def __post_init__(self) -> None:
        self.guid = uuid.uuid5(uuid.NAMESPACE_URL, self.name)
        self.ods = "Y" + uuid.uuid4().hex[:6].upper()
        self.org = guid(self.name)

    def row(self, table: str, **values: str) -> dict[str, str]:
        """Add a row to the next batch, with what rows of its table have."""
        self.processing += 1
        columns = HEADERS[table]
        made = {"ProcessingId": str(self.processing), "OrganisationGuid": self.org, "Deleted": "false"}
        if "EffectiveDate" in columns:
            made |= {"EffectiveDate": "2024-05-06", "EffectiveDatePrecision": "YMD", "EnteredDate": "2024-05-06",
                     "EnteredTime": "09:30:00"}  # fmt: skip
        made = {name: value for name, value in (made | values).items() if name in columns}
        assert set(values) <= set(columns), set(values) - set(columns)
        self.tables.setdefault(table, []).append(made)
        return made

    def base(self) -> None:
        """What every first batch has."""
        self.row("Agreements_SharingOrganisation", IsActivated="true", Disabled="false")
        self.row("Admin_Organisation", ODSCode=self.ods, OrganisationName="Test Surgery")
        self.row("Admin_UserInRole", UserInRoleGuid=guid(self.name, "gp"), Surname="Trevanion", GivenName="Seun")
        self.codes()

    def codes(self, *left_out: str) -> None:
        for code, (term, read, snomed, category) in CODES.items():
            if code not in left_out:
                self.row("Coding_ClinicalCode", CodeId=code, Term=term, ReadTermId=read, SnomedCTConceptId=snomed,
                         EmisCodeCategoryDescription=category, ParentCodeId=ABOVE.get(code, ""))  # fmt: skip
        for code, (term, dmd) in DRUGS.items():
            self.row("Coding_DrugCode", CodeId=code, Term=term, DmdProductCodeId=dmd)

    def sharing(self, **values: str) -> None:
        self.row("Agreements_SharingOrganisation", **({"IsActivated": "true", "Disabled": "false"} | values))

    def patient(self, word: str = "p", **values: str) -> str:
        """A patient; returns his GUID."""
        number = guid(self.name, word)
        facts = {
            "PatientGuid": number, "Surname": "Ashdown", "GivenName": "Rowan", "DateOfBirth": "1970-02-03", "Sex": "F",
            "NhsNumber": nhs(), "PatientNumber": str(self.processing), "DateOfRegistration": "2011-01-02",
            "PatientTypeDescription": " Regular", "UsualGpUserInRoleGuid": guid(self.name, "gp"),
        }  # fmt: skip
        self.row("Admin_Patient", **(facts | values))
        return number

    def observation(self, patient: str, word: str, code: str, **values: str) -> str:
        number = guid(self.name, patient, word)
        facts = {"ObservationGuid": number, "PatientGuid": patient, "CodeId": code,
                 "ClinicianUserInRoleGuid": guid(self.name, "gp")}  # fmt: skip
        self.row("CareRecord_Observation", **(facts | values))
        return number

    def delete(self, table: str, **keys: str) -> None:
        """A deletion: its keys alone are there."""
        self.processing += 1
        made = {**keys, "Deleted": "TRUE", "OrganisationGuid": self.org, "ProcessingId": str(self.processing)}
        self.tables.setdefault(table, []).append({n: v for n, v in made.items() if n in HEADERS[table]})

    def write(self, kind: str = "delta", change: Callable[[str, list[str]], list[str]] | None = None) -> Path:
        """The batch as a folder of 21 files; ``change`` may spoil the columns of a table."""
        self.night += 1
        folder = self.folder / self.name / f"{self.night:03}"
        folder.mkdir(parents=True)
        for table, columns in HEADERS.items():
            named = f"{kind}_{self.night}_" if kind else f"{self.night}_"
            file = folder / f"{named}{table}_202401{self.night:02}020000_{str(self.guid).upper()}.csv"
            with file.open("w", encoding="utf-8-sig" if self.night % 2 else "utf-8", newline="") as out:
                writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n" if self.night % 3 else "\n")
                shown = change(table, list(columns)) if change else columns
                writer.writerow(shown)
                for row in self.tables.get(table, []):
                    writer.writerow([row.get(column, "") for column in shown])
        self.tables = {}
        return folder

    async def load(self, kind: str = "delta", **options: Any) -> dict[str, Any]:
        """Load what was added since the last batch; returns the batch as status shows it."""
        if kind != "bulk" and not self.tables.get("Agreements_SharingOrganisation"):
            self.sharing()
        folder = self.write(kind, options.pop("change", None))
        if self.agreement is None:
            self.agreement = await agreements.add(self.pool, Wanted(self.name, self.guid, **options))
        await loading.load_folder(self.pool, self.agreement, folder)
        return (await status.overview(self.pool, self.agreement, batches_shown=1))["batches"][0]

    async def record(self, patient: str) -> uuid.UUID | None:
        """The record that a patient of this practice has."""
        assert self.agreement is not None
        found: uuid.UUID | None = await self.pool.fetchval(
            """
            SELECT record_id FROM extract_patient e JOIN extract_practice p ON p.number = e.practice
            WHERE p.agreement_id = $1 AND e.patient = $2
            """,
            self.agreement.id,
            uuid.UUID(patient),
        )
        return found

    async def resources(self, patient: str, kind: str = "") -> list[dict[str, Any]]:
        """What the record has of a patient, by type and id."""
        rows = await self.pool.fetch(
            "SELECT content FROM resource WHERE patient_id = $1 AND ($2 = '' OR type = $2) ORDER BY type, id",
            await self.record(patient),
            kind,
        )
        return [json.loads(row["content"]) for row in rows]

    async def one(self, patient: str, kind: str) -> dict[str, Any]:
        found = await self.resources(patient, kind)
        assert len(found) == 1, [each.get("code") for each in found]
        return found[0]

    async def parked(self) -> list[dict[str, Any]]:
        assert self.agreement is not None
        return await status.parked(self.pool, self.agreement)


def told(folder: Path, table: str) -> list[dict[str, str]]:
    """The rows of a table as the plain csv module reads them."""
    file = next(folder.glob(f"*_{table}_*"))
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")))
