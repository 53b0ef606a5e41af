"""Random lives of a practice, night after night: a delta comes to what a whole reading comes to, and both to what a
second reader, with the csv module and nothing of the product's, makes of the same files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from carefolio.emis.chunks import NOBODY
from carefolio.extracts import agreements, loading, status
from carefolio.extracts.agreements import Wanted
from tests.conftest import CLI, Running
from tests.extracts.kit import CODES, Practice, guid, told

_NIGHTS = 6
_KEYS = {
    "Admin_Patient": ("PatientGuid",),
    "CareRecord_Observation": ("PatientGuid", "ObservationGuid"),
    "CareRecord_Problem": ("PatientGuid", "ObservationGuid"),
    "Prescribing_DrugRecord": ("PatientGuid", "DrugRecordGuid"),
    "Prescribing_IssueRecord": ("PatientGuid", "IssueRecordGuid"),
    "CareRecord_Consultation": ("PatientGuid", "ConsultationGuid"),
    "Coding_ClinicalCode": ("CodeId",),
}


class Life:
    """A practice to which something happens every night."""

    def __init__(self, practice: Practice, seed: int) -> None:
        self.practice, self.chance = practice, random.Random(seed)
        self.patients: list[str] = []
        self.observations: dict[tuple[str, str], str] = {}
        self.problems: set[tuple[str, str]] = set()
        self.drugs: set[tuple[str, str]] = set()
        self.issues: set[tuple[str, str]] = set()
        self.ever: set[tuple[str, str]] = set()

    def begin(self, patients: int = 3) -> None:
        self.practice.tables = {}
        self.practice.base()
        self.practice.tables["Coding_ClinicalCode"] = []
        # Two codes come only later.
        self.practice.codes("16", "7")
        self.patients = [self.practice.patient(f"p{at}") for at in range(patients)]

    def night(self, events: int) -> None:
        for _ in range(events):
            patient = self.chance.choice(self.patients)
            self.chance.choice(
                [self._observe] * 4 + [self._delete, self._problem, self._drug, self._issue, self._issue, self._visit]
            )(patient)
        self.chance.shuffle(self.practice.tables.get("CareRecord_Observation", []))

    def _observe(self, patient: str) -> None:
        word = f"o{self.chance.randrange(25)}"
        code = self.chance.choice(list(CODES))
        if code in ("16", "7") and (patient, word) in self.ever:
            # What waits for its code stays as it was: that is another test's.
            code = "6"
        self.ever.add((patient, word))
        values = {"Value": str(self.chance.randrange(1, 300))} if code in ("1", "4", "5") else {}
        if self.chance.random() < 0.5:
            values["ParentObservationGuid"] = guid(self.practice.name, patient, f"o{self.chance.randrange(25)}")
            if values["ParentObservationGuid"] == guid(self.practice.name, patient, word):
                del values["ParentObservationGuid"]
        if self.chance.random() < 0.2:
            values["IsConfidential"] = "true"
        self.observations[patient, word] = self.practice.observation(patient, word, code, **values)

    def _delete(self, patient: str) -> None:
        mine = [key for key in self.observations if key[0] == patient]
        if mine:
            key = self.chance.choice(mine)
            number = self.observations.pop(key)
            self.practice.delete("CareRecord_Observation", ObservationGuid=number, PatientGuid=patient)

    def _problem(self, patient: str) -> None:
        number = guid(self.practice.name, patient, f"o{self.chance.randrange(25)}")
        if (patient, number) in self.problems and self.chance.random() < 0.4:
            self.problems.discard((patient, number))
            self.practice.delete("CareRecord_Problem", ObservationGuid=number, PatientGuid=patient)
            return
        self.problems.add((patient, number))
        past = self.chance.random() < 0.5
        self.practice.row("CareRecord_Problem", ObservationGuid=number, PatientGuid=patient,
                          ProblemStatusDescription="Past Problem" if past else "Active Problem")  # fmt: skip

    def _drug(self, patient: str) -> None:
        number = guid(self.practice.name, patient, f"d{self.chance.randrange(3)}")
        self.drugs.add((patient, number))
        self.practice.row("Prescribing_DrugRecord", DrugRecordGuid=number, PatientGuid=patient, CodeId="100",
                          IsActive=self.chance.choice(("true", "false")))  # fmt: skip

    def _issue(self, patient: str) -> None:
        number = guid(self.practice.name, patient, f"i{self.chance.randrange(8)}")
        if (patient, number) in self.issues and self.chance.random() < 0.3:
            self.issues.discard((patient, number))
            self.practice.delete("Prescribing_IssueRecord", IssueRecordGuid=number, PatientGuid=patient)
            return
        self.issues.add((patient, number))
        drug = guid(self.practice.name, patient, f"d{self.chance.randrange(3)}")
        day = f"2024-0{self.chance.randrange(1, 10)}-1{self.chance.randrange(10)}"
        self.practice.row("Prescribing_IssueRecord", IssueRecordGuid=number, PatientGuid=patient, CodeId="101",
                          DrugRecordGuid=drug, EffectiveDate=day, CourseDurationInDays="28")  # fmt: skip

    def _visit(self, patient: str) -> None:
        number = guid(self.practice.name, patient, f"c{self.chance.randrange(5)}")
        self.practice.row("CareRecord_Consultation", ConsultationGuid=number, PatientGuid=patient,
                          Complete=self.chance.choice(("true", "false")))  # fmt: skip


class SecondReader:
    """The files of every night, as rows that stand: keys and deletions, and the higher ProcessingId of a night."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[tuple[str, ...], dict[str, str]]] = {table: {} for table in _KEYS}

    def read(self, folder: Path) -> None:
        for table, keys in _KEYS.items():
            rows = sorted(told(folder, table), key=lambda row: int(row["ProcessingId"]))
            for row in rows:
                key = tuple(row[name] for name in keys)
                if row.get("Deleted", "").lower() == "true":
                    self.tables[table].pop(key, None)
                else:
                    self.tables[table][key] = row

    def expected(self, patient: str) -> Counter[tuple[Any, ...]]:
        """What the record must have of a patient, in the words of domain notes B9: (type, what, …)."""
        found: Counter[tuple[Any, ...]] = Counter()
        codes = {key[0]: row for key, row in self.tables["Coding_ClinicalCode"].items()}
        mine = {key[1]: row for key, row in self.tables["CareRecord_Observation"].items() if key[0] == patient}
        known = {key: row for key, row in mine.items() if row["CodeId"] in codes}
        problems = {key[1]: row for key, row in self.tables["CareRecord_Problem"].items() if key[0] == patient}
        absorbed, panels = self._panels(known, mine)
        for key, row in known.items():
            if key in absorbed:
                continue
            kind = route(row, codes)
            term = "" if kind == "FamilyMemberHistory" else CODES[row["CodeId"]][0]
            value = float(row["Value"]) if row["Value"] and kind == "Observation" else None
            if kind == "Condition":
                found[kind, term, key in problems] += 1
                continue
            found[kind, term, value, *panels.pop(key, ())] += 1
            if key in problems:
                found["Condition", CODES[row["CodeId"]][0], True] += 1
        for values in panels.values():
            found["Observation", "Blood pressure", None, *values] += 1
        issues = [row for key, row in self.tables["Prescribing_IssueRecord"].items() if key[0] == patient]
        for row in issues:
            found["MedicationRequest", row["EffectiveDate"]] += 1
        for key, row in self.tables["Prescribing_DrugRecord"].items():
            if key[0] == patient:
                days = sorted(each["EffectiveDate"] for each in issues if each["DrugRecordGuid"] == key[1])
                status_of = "active" if row["IsActive"] == "true" else "completed"
                found["MedicationStatement", status_of, *(days[:1] + days[-1:])] += 1
        for key, row in self.tables["CareRecord_Consultation"].items():
            if key[0] == patient:
                found["Encounter", "finished" if row["Complete"] == "true" else "in-progress"] += 1
        return found

    def _panels(
        self, known: dict[str, dict[str, str]], mine: dict[str, dict[str, str]]
    ) -> tuple[set[str], dict[str, tuple[float, float]]]:
        """Systolic and diastolic of one parent: which rows they are, and the panel's values by the parent."""
        absorbed: set[str] = set()
        panels: dict[str, tuple[float, float]] = {}
        for parent in {row["ParentObservationGuid"] for row in known.values()} - {""}:
            above = mine.get(parent)
            if above is not None and (parent not in known or above["Value"] or above["CodeId"] not in _PLAIN):
                continue
            halves = []
            for code in ("4", "5"):
                rows = sorted(
                    key
                    for key, row in known.items()
                    if row["ParentObservationGuid"] == parent and row["CodeId"] == code
                )
                halves += rows[:1]
            if len(halves) == 2:
                absorbed |= set(halves)
                panels[parent] = (float(known[halves[0]]["Value"]), float(known[halves[1]]["Value"]))
        return absorbed, panels


# Codes whose rows without a value are Observations.
_PLAIN = {"3", "12", "13", "16", "21"}


def route(row: dict[str, str], codes: dict[str, dict[str, str]]) -> str:
    """Domain notes B9, routing, for the codes of the kit."""
    if row["CodeId"] == "1":
        return "Observation" if row["Value"] else "DiagnosticReport"
    return {
        "2": "DiagnosticReport", "6": "Condition", "7": "Procedure", "8": "AllergyIntolerance", "9": "Immunization",
        "10": "ServiceRequest", "11": "FamilyMemberHistory", "14": "Specimen", "15": "ServiceRequest",
        "17": "Condition", "18": "Procedure", "19": "Condition", "20": "Condition",
    }.get(row["CodeId"], "Observation")  # fmt: skip


def seen(resources: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """The record in the second reader's words."""
    found: Counter[tuple[Any, ...]] = Counter()
    for each in resources:
        kind = each["resourceType"]
        if kind in ("Patient", "EpisodeOfCare"):
            continue
        term = next((each[name].get("text", "") for name in ("code", "vaccineCode", "type")
                     if isinstance(each.get(name), dict)), "")  # fmt: skip
        if kind == "Condition":
            category = each["category"][0]["coding"][0]["code"]
            found[kind, term, category == "problem-list-item"] += 1
        elif kind == "MedicationRequest":
            found[kind, each["authoredOn"]] += 1
        elif kind == "MedicationStatement":
            days = [e["valueDateTime"] for e in each.get("extension", []) if e["url"].endswith("IssueDate")]
            found[kind, each["status"], *days] += 1
        elif kind == "Encounter":
            found[kind, each["status"]] += 1
        else:
            values = [part["valueQuantity"]["value"] for part in each.get("component", [])]
            found[kind, term, each.get("valueQuantity", {}).get("value"), *values] += 1
    return found


async def versions(practice: Practice) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in await practice.pool.fetch(
        "SELECT id::text, version FROM resource WHERE organisations @> ARRAY[(SELECT id FROM organisation"
        " WHERE ods_code = $1)]", practice.ods,
    ):  # fmt: skip
        found[row["id"]] = row["version"]
    return found


@pytest.mark.parametrize("seed", range(int(os.environ.get("LIVES", "6"))))
async def test_a_delta_comes_to_what_the_whole_comes_to(pool: asyncpg.Pool, tmp_path: Path, seed: int) -> None:
    practice, reader = Practice(pool, tmp_path), SecondReader()
    life = Life(practice, seed)
    life.begin()
    for night in range(_NIGHTS):
        life.night(40 if night == 0 else 12)
        if night == 3:
            practice.codes()
        if night:
            practice.sharing()
        folder = practice.write("delta" if night else "bulk")
        reader.read(folder)
        practice.agreement = practice.agreement or await agreements.add(pool, Wanted(practice.name, practice.guid))
        await loading.load_folder(pool, practice.agreement, folder)
        for patient in life.patients:
            made, wanted = seen(await practice.resources(patient)), reader.expected(patient)
            assert made == wanted, f"night {night}: too much {made - wanted}, lacks {wanted - made}"
        before = await versions(practice)
        number = await pool.fetchval(
            "SELECT number FROM extract_practice WHERE agreement_id = $1 AND guid <> $2::text::uuid",
            practice.agreement.id, NOBODY,
        )  # fmt: skip
        parked = [(each["place"], each["reason"]) for each in await practice.parked()]
        guids = [patient.strip("{}").lower() for patient in life.patients]
        await status.read_anew(pool, practice.agreement, {number: guids})
        assert await versions(practice) == before, f"night {night}: a whole reading changes something"
        assert [(each["place"], each["reason"]) for each in await practice.parked()] == parked


async def test_killed_at_any_moment_it_comes_to_the_same(
    pool: asyncpg.Pool, tmp_path: Path, installation: Running
) -> None:
    chance = random.Random(3)
    results = []
    for killed in (False, True):
        practice = Practice(pool, tmp_path)
        life = Life(practice, 77)
        life.begin(60)
        life.night(6000)
        folder = practice.write("bulk")
        agreement = await agreements.add(pool, Wanted(practice.name, practice.guid))
        practice.agreement = agreement
        command = [str(CLI), "emis", "load", str(folder), "--agreement", practice.name, "--json"]
        kills = 0
        while killed and kills < 12:
            process = subprocess.Popen(command, env=installation.environment, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
            time.sleep(chance.uniform(0.7, 2.2))
            over = process.poll() is not None
            # The first process and those that it started.
            os.killpg(process.pid, signal.SIGKILL) if not over else None
            process.wait()
            if over:
                break
            kills += 1
        subprocess.run(command, env=installation.environment, check=True, capture_output=True)
        shown = (await status.overview(pool, agreement))["batches"][0]
        assert shown["status"] == "loaded"
        everything = [sorted(map(plain, await practice.resources(patient))) for patient in life.patients]
        results.append((everything, len(await practice.parked())))
        doubled = await pool.fetchval(
            "SELECT count(*) FROM resource WHERE version > 1 AND type <> 'Patient' AND organisations @> ARRAY[("
            "SELECT id FROM organisation WHERE ods_code = $1)]", practice.ods,
        )  # fmt: skip
        assert doubled == 0
    assert results[0] == results[1]


def plain(resource: dict[str, Any]) -> str:
    """A resource without what two loads cannot share: ids, times of writing, and who the patient is."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: without(inner)
                for name, inner in value.items()
                if name not in ("id", "meta", "reference", "identifier")
            }
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(without(resource), sort_keys=True)
