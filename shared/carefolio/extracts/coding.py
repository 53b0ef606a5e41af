"""The codes that a set of rows needs, from the agreement's coding files; those that come again are remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from carefolio.cloud.database import Connection
from carefolio.emis.chunks import NUMBERS
from carefolio.extracts.rows import named
from carefolio.mapping.emis import Code, Drug, code_of, column, drug_of
from carefolio.mapping.emis.codes import ETHNICITY, MARITAL

T = TypeVar("T")
_MOST = 20_000
_CLIMB = "conditions, operations and procedures"
# Which columns of which tables are codes, and of which kind.
COLUMNS: dict[int, tuple[tuple[int, ...], bool]] = {
    NUMBERS[table]: (tuple(column(table, name) for name in names), drug)
    for table, names, drug in (
        ("Appointment_Slot", ("DnaReasonCodeId",), False),
        ("CareRecord_Consultation", ("ConsultationSourceCodeId",), False),
        ("Prescribing_IssueRecord", ("CodeId",), True),
        ("Prescribing_DrugRecord", ("CodeId",), True),
        ("CareRecord_Diary", ("CodeId",), False),
        ("CareRecord_ObservationReferral", ("ReferralSourceId", "ReferralReasonCodeId",
         "ReferringCareProfessionalStaffGroupCodeId", "ReferralEpisodeRTTMeasurementTypeId",
         "ReferralClosureReasonCodeId"), False),
        ("CareRecord_Observation", ("CodeId",), False),
    )
}  # fmt: skip


@dataclass(slots=True)
class Coding:
    """The codes of an agreement that this process knows. ``version`` is the batch up to which they are true."""

    agreement: int
    version: int
    codes: OrderedDict[int, Code] = field(default_factory=OrderedDict)
    drugs: OrderedDict[int, Drug] = field(default_factory=OrderedDict)
    _personal: frozenset[str] | None = None

    async def need(
        self, connection: Connection, codes: set[int], drugs: set[int]
    ) -> tuple[dict[int, Code], dict[int, Drug]]:
        """These, as far as there are any; what others need meanwhile takes none of them away."""
        return (
            await self._need(self.codes, codes, lambda wanted: self._codes(connection, wanted)),
            await self._need(self.drugs, drugs, lambda wanted: self._drugs(connection, wanted)),
        )

    async def _need(
        self, known: OrderedDict[int, T], wanted: set[int], find: Callable[[list[int]], Awaitable[dict[int, T]]]
    ) -> dict[int, T]:
        found = {number: known[number] for number in wanted if number in known}
        for number in found:
            known.move_to_end(number)
        if missing := sorted(wanted - set(found)):
            new = await find(missing)
            found |= new
            known.update(new)
            while len(known) > _MOST:
                known.popitem(last=False)
        return found

    async def _codes(self, connection: Connection, wanted: list[int]) -> dict[int, Code]:
        labels = await self._labels(connection, rows := await self._rows(connection, wanted, drug=False))
        above = await self._above(connection, rows)
        return {
            number: code_of(row, above.get(number, ()), labels.get(row["SnomedCTConceptId"], ""))
            for number, row in rows.items()
        }

    async def _drugs(self, connection: Connection, wanted: list[int]) -> dict[int, Drug]:
        return {number: drug_of(row) for number, row in (await self._rows(connection, wanted, drug=True)).items()}

    async def personal(self, connection: Connection) -> frozenset[str]:
        """The CodeIds, as text, of ethnicity and marital status: observations that are part of the Patient."""
        if self._personal is None:
            at = column("Coding_ClinicalCode", "EmisCodeCategoryDescription") + 1
            rows = await connection.fetch(
                f"SELECT id FROM extract_code WHERE agreement_id = $1 AND NOT drug"  # noqa: S608 - our own column
                f" AND lower(trim(split_part(row, E'\\x1f', {at}))) = ANY($2)",
                self.agreement,
                [ETHNICITY, MARITAL],
            )
            self._personal = frozenset(str(row["id"]) for row in rows)
        return self._personal

    async def _rows(self, connection: Connection, wanted: list[int], *, drug: bool) -> dict[int, dict[str, str]]:
        table = "Coding_DrugCode" if drug else "Coding_ClinicalCode"
        rows = await connection.fetch(
            "SELECT id, row FROM extract_code WHERE agreement_id = $1 AND drug = $2 AND id = ANY($3)",
            self.agreement,
            drug,
            wanted,
        )
        return {row["id"]: named(table, row["row"]) for row in rows}

    async def _labels(self, connection: Connection, rows: dict[int, dict[str, str]]) -> dict[str, str]:
        """The privacy labels of concepts that are in a sensitive refset."""
        concepts = {text for row in rows.values() if (text := row["SnomedCTConceptId"]).isdigit() and len(text) < 19}
        found = await connection.fetch(
            "SELECT concept, label FROM sensitive_concept WHERE concept = ANY($1)", [int(text) for text in concepts]
        )
        return {str(row["concept"]): row["label"] for row in found}

    async def _above(self, connection: Connection, rows: dict[int, dict[str, str]]) -> dict[int, list[str]]:
        """The Read codes above those whose own code says nothing of a chapter, the nearest first."""
        climbing = [
            number for number, row in rows.items()
            if row["EmisCodeCategoryDescription"].strip().casefold() == _CLIMB and row["ParentCodeId"].strip()
        ]  # fmt: skip
        if not climbing:
            return {}
        parent = column("Coding_ClinicalCode", "ParentCodeId") + 1
        read = column("Coding_ClinicalCode", "ReadTermId") + 1
        found = await connection.fetch(
            f"""
            WITH RECURSIVE up (start, id, row, depth) AS (
                SELECT id, id, row, 0 FROM extract_code WHERE agreement_id = $1 AND NOT drug AND id = ANY($2)
                UNION ALL
                SELECT up.start, c.id, c.row, depth + 1 FROM up
                JOIN extract_code c ON c.agreement_id = $1 AND NOT c.drug
                 AND c.id = CASE WHEN split_part(up.row, E'\\x1f', {parent}) ~ '^-?[0-9]{{1,18}}$'
                                 THEN split_part(up.row, E'\\x1f', {parent})::bigint END
                WHERE depth < 20
            )
            SELECT start, split_part(row, E'\\x1f', {read}) AS read FROM up WHERE depth > 0 ORDER BY start, depth
            """,  # noqa: S608 - our own columns
            self.agreement,
            climbing,
        )
        above: dict[int, list[str]] = {}
        for row in found:
            above.setdefault(row["start"], []).append(row["read"].strip())
        return above


def needed(rows: Iterable[tuple[int, Sequence[str]]]) -> tuple[set[int], set[int]]:
    """The clinical and the drug codes that rows (table's number, values) name; what is no number is left to the map."""
    found: tuple[set[str], set[str]] = (set(), set())
    for kind, values in rows:
        known = COLUMNS.get(kind)
        if known is not None:
            of = found[known[1]]
            for at in known[0]:
                of.add(values[at])
    return tuple({int(t) for t in of if t.strip().lstrip("-").isdigit() and len(t) < 20} for of in found)  # type: ignore[return-value]


_remembered: dict[int, Coding] = {}


def coding(agreement: int, version: int) -> Coding:
    """The agreement's codes, as of a batch."""
    known = _remembered.get(agreement)
    if known is None or known.version != version:
        known = _remembered[agreement] = Coding(agreement, version)
    return known
