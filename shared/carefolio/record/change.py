"""What a mapped message changes in the record: whose record, which versions. One transaction of the caller's."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from carefolio.cloud.database import Connection
from carefolio.cloud.topics import MESSAGE_STORED
from carefolio.identity.sender_settings import SenderSettings
from carefolio.mapping import Entry, Mapped, merge
from carefolio.mapping.merge import MERGED
from carefolio.record import joining, labelling, links, matching, sets
from carefolio.record.ids import derived
from carefolio.record.joining import Target
from carefolio.record.labelling import concepts
from carefolio.record.labels import ALWAYS_GENERAL, GENERAL, label_of
from carefolio.record.matching import Held
from carefolio.record.rows import Known, Row, make_row, without_head
from carefolio.record.sources import StoredMessage
from carefolio.record.write import ChangedMeanwhileError, Origin, known, write

_REGISTRATIONS = ("A28", "A31")


@dataclass(slots=True)
class Change:
    """Versions to write, of one or more patients; ``released``: messages that were held may have been queued."""

    rows: dict[uuid.UUID, Row] = field(default_factory=dict)
    patients: list[uuid.UUID] = field(default_factory=list)
    seen: list[uuid.UUID] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    released: bool = False


async def apply_parts(
    connection: Connection, message: StoredMessage, parts: Sequence[Mapped], settings: SenderSettings
) -> Change:
    """Write what the parts of a message say, and end the message.

    Raises Held and matching.Rejected, which leave nothing changed, and what write raises.
    """
    origin = Origin.of(message, parts[0].time.instant)
    now = datetime.now(UTC)
    change = Change()
    if len(parts) == 1 and not joining.concerns(parts[0]):
        await _part(connection, message, parts[0], settings, origin, now, change)
    else:
        everybody = [i for mapped in parts for i in (*mapped.identifiers, *(mapped.prior or _NOBODY).identifiers)]
        await matching.lock_identifiers(connection, matching.usable(everybody, message["organisation_id"]))
        # What one part has done must be undone where another is held.
        async with connection.transaction():
            for mapped in parts:
                await _part(connection, message, mapped, settings, origin, now, change)
            await joining.link_parts(connection, message, parts, settings, change.patients)
            await relink(connection, origin, change.patients, now, change)
        # A join releases what named both of its records.
        change.released = True
    rows = sorted(change.rows.values(), key=lambda row: row.id)
    await write(connection, origin, rows, now, patients=change.patients, seen=change.seen, notes=change.notes)
    return change


_NOBODY = joining.NOBODY


async def repeat_parts(
    connection: Connection, message: StoredMessage, parts: Sequence[Mapped], settings: SenderSettings
) -> None:
    """Write what a message says as it was applied before: to the records that it was given to then, without doubts."""
    origin = Origin.of(message, parts[0].time.instant)
    now = datetime.now(UTC)
    change = Change()
    numbers = [message["patient_id"], *message["other_patients"]]
    await joining.repeat(connection, message, numbers)
    for mapped, number in zip(parts, numbers, strict=True):
        target = await joining.target_of(connection, number)
        if message["moved_to"] is None:
            await joining.repeat_numbers(connection, message, mapped, target)
            await _part(connection, message, mapped, settings, origin, now, change, target)
        else:
            await _moved(connection, message, mapped, settings, origin, now, change, target)
    await relink(connection, origin, change.patients, now, change)
    rows = sorted(change.rows.values(), key=lambda row: row.id)
    await write(connection, origin, rows, now, patients=change.patients, seen=change.seen)


async def _moved(
    connection: Connection,
    message: StoredMessage,
    mapped: Mapped,
    settings: SenderSettings,
    origin: Origin,
    now: datetime,
    change: Change,
    target: Target,
) -> None:
    """A message that belongs to another record than it was sent for.

    Who it was sent for keeps what it says of the person, unless he is of other organisations alone; all else is of
    whom it was given to, whom the organisation reads from now on.
    """
    organisation = message["organisation_id"]
    people = await known(connection, [target.patient, message["moved_to"]], ["Patient"])
    first, second = people.get(target.patient), people.get(message["moved_to"])
    if first is None or not first.live or organisation in first.organisations:
        person = [entry for entry in mapped.entries if entry is mapped.patient or entry.scope != "patient"]
        own = replace(mapped, entries=person, sets=set())
        await _part(connection, message, own, settings, origin, now, change, target)
    rest = [entry for entry in mapped.entries if entry is not mapped.patient]
    given = await joining.target_of(connection, message["moved_to"])
    await _part(connection, message, replace(mapped, entries=rest), settings, origin, now, change, given)
    change.patients = [number for number in change.patients if number != given.patient]
    if second is not None and second.content is not None and organisation not in second.organisations:
        row = make_row(
            second.id,
            without_head(second.content),
            second,
            patient_id=second.id,
            organisations=[*second.organisations, organisation],
            source=origin.id,
            now=now,
        )
        if row is not None:
            change.rows[row.id] = row


async def _part(
    connection: Connection,
    message: StoredMessage,
    mapped: Mapped,
    settings: SenderSettings,
    origin: Origin,
    now: datetime,
    change: Change,
    given: Target | None = None,
) -> None:
    """Add to ``change`` what one patient's part says.

    ``given`` where the record is known already, from when the message was applied before; nothing is asked then.
    """
    organisation: uuid.UUID = message["organisation_id"]
    if given is not None:
        target = given
    elif joining.concerns(mapped):
        target = await joining.target(connection, message, mapped, settings)
    else:
        target = await _target(connection, message, mapped, settings)
    records = [target.patient, *target.others]
    candidates = {id(entry): _ids(entry, organisation, records) for entry in mapped.entries}
    wanted = [number for numbers in candidates.values() for number in numbers]
    more = ["DiagnosticReport"] if sets.deletes_reports(mapped) else []
    there = await known(connection, wanted, [*MERGED, *more], together=records)
    current = there.get(target.patient)
    assert mapped.patient is not None
    if given is None and current is not None and current.content is not None:
        first_contact = organisation not in current.organisations
        content = orjson.loads(current.content)
        if held := matching.difference(mapped, content, organisation, target.patient, first_contact=first_contact):
            await matching.decided(connection, held)
    if given is None:
        await matching.check_emails(connection, mapped, records)
    if target.new:
        await matching.register(connection, target.patient, target.new, message["id"])
        change.released = bool(await matching.release(connection, target.new, MESSAGE_STORED)) or change.released
    of_team = await labelling.of_team(connection, message["team_id"], records)
    of_codes = await labelling.of_concepts(connection, (entry.resource for entry in mapped.entries))
    rows = _rows(message, mapped, target, candidates, there, origin, now, of_team, of_codes)
    # The same clinician may be in two patients' parts.
    for row in rows:
        change.rows.setdefault(row.id, row)
    if target.retired:
        for row in await _retire(connection, target.retired, origin, now):
            change.rows[row.id] = row
    if mapped.event in _REGISTRATIONS and settings.replace_sets and mapped.sets:
        for row in await sets.left_out(connection, mapped, organisation, target.patient, message["seq"], set(wanted)):
            change.rows.setdefault(row.id, row)
    if more:
        for row in await sets.results_of_deleted(connection, mapped, there, candidates, origin, now):
            change.rows.setdefault(row.id, row)
    if given is None and (person := change.rows.get(target.patient)) and person.content:
        addresses = matching.emails(orjson.loads(person.content))
        had = matching.emails(orjson.loads(current.content)) if current and current.content else []
        if addresses != had and not await matching.register_emails(connection, target.patient, addresses):
            raise ChangedMeanwhileError
    change.patients.append(target.patient)
    change.seen += [found.id for found in there.values() if found.live]
    change.notes += mapped.notes


async def _target(connection: Connection, message: StoredMessage, mapped: Mapped, settings: SenderSettings) -> Target:
    """The record of the message's patient, locked, with its identifiers that are new; a new one where allowed.

    Raises Held.
    """
    identifiers = matching.usable(mapped.identifiers, message["organisation_id"])
    if not identifiers:
        raise Held("no identifier that may find a record (PID-3): an NHS number that is not verified, or none")
    found = await matching.find(connection, identifiers)
    if found.new:
        # From here on, messages that bring the same new identifiers decide one after the other.
        await matching.lock_identifiers(connection, identifiers)
        found = await matching.find(connection, identifiers)
    if found.patient is not None:
        return Target(found.patient, found.others, found.new)
    if not matching.may_create(mapped, auto_create=settings.auto_create):
        raise Held("the patient is not known here", unknown=True)
    matching.check_creation(mapped)
    await matching.check_emails(connection, mapped, ())
    number = uuid.uuid4()
    await connection.execute("INSERT INTO record (id, person_id, created_at) VALUES ($1, $1, now())", number)
    return Target(number, [], found.new)


# What has a key of the sender's own goes on wherever in the person's records it began. Allergies, diagnoses, relatives
# are each record's: two records say the same twice, so that parting them leaves both whole.
_CONTINUED = frozenset({
    "Appointment", "DiagnosticReport", "DocumentReference", "Encounter", "Immunization", "MedicationAdministration",
    "MedicationDispense", "MedicationRequest", "NutritionOrder", "Observation", "Procedure", "ServiceRequest",
    "Specimen", "SupplyRequest",
})  # fmt: skip


def _ids(entry: Entry, organisation: uuid.UUID, records: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """The ids that a resource may have: the record's own first, then those in the person's other records."""
    if entry.type == "Patient":
        return [records[0]]
    if entry.scope == "patient" and entry.type not in _CONTINUED:
        return [derived(entry.type, str(records[0]), str(organisation), *entry.key)]
    if entry.scope == "patient":
        return [derived(entry.type, str(record), str(organisation), *entry.key) for record in records]
    owner = str(organisation) if entry.scope == "organisation" else ""
    return [derived(entry.type, owner, *entry.key)]


def _rows(
    message: StoredMessage,
    mapped: Mapped,
    target: Target,
    candidates: dict[int, list[uuid.UUID]],
    there: dict[uuid.UUID, Known],
    origin: Origin,
    now: datetime,
    of_team: str,
    of_codes: dict[str, str],
) -> list[Row]:
    """What has to be written: new resources, and those that the message changes."""
    organisation: uuid.UUID = message["organisation_id"]
    current: dict[int, Known | None] = {}
    ids: dict[int, uuid.UUID] = {}
    for entry in mapped.entries:
        found = [there[number] for number in candidates[id(entry)] if number in there]
        # A correction goes to what it corrects, in whichever of the person's records that is.
        best = next((each for each in found if each.live), found[0] if found else None)
        own = entry.scope == "patient" and entry.type != "Patient"
        if best is not None and own and organisation not in best.organisations:
            # Its id was made of what only the organisation knows: somebody else has taken it.
            raise Held("what the message names is another organisation's here")
        current[id(entry)] = best
        ids[id(entry)] = best.id if best else candidates[id(entry)][0]
    made = []
    for entry in mapped.entries:
        before = current[id(entry)]
        record = before.patient_id if before and before.patient_id and entry.type != "Patient" else target.patient
        for reference, to in entry.references:
            number = record if to.type == "Patient" else ids[id(to)]
            reference["reference"] = f"{to.type}/{number}"
        resource: dict[str, Any] | None = entry.resource
        organisations = [organisation]
        if before is not None:
            organisations = list(dict.fromkeys([*before.organisations, organisation]))
            resource = _merged(entry, before, message, mapped) if before.live else entry.resource
        if resource is None:
            continue
        row = make_row(
            ids[id(entry)],
            resource,
            before,
            patient_id=record if entry.scope == "patient" else None,
            organisations=organisations,
            source=origin.id,
            now=now,
            label=_label(entry, mapped, before, of_team, of_codes),
            place=entry.place,
            available_from=entry.available_from,
        )
        if row is not None:
            made.append(row)
    return made


def _label(entry: Entry, mapped: Mapped, before: Known | None, of_team: str, of_codes: dict[str, str]) -> str:
    """The privacy label (domain rules A8): by specialty, else the team's, else its code's, else general.

    What the patient chose stays, and a message that says nothing of it takes no protection away.
    """
    if before is not None and before.label_is_his:
        return before.label
    found = GENERAL
    if entry.scope == "patient" and entry.type not in ALWAYS_GENERAL:
        found = label_of(entry.type, mapped.specialty)
        if found == GENERAL:
            found = of_team
        if found == GENERAL:
            found = next((of_codes[code] for code in concepts(entry.resource) if code in of_codes), GENERAL)
    return before.label if before is not None and found == GENERAL else found


def _merged(entry: Entry, before: Known, message: StoredMessage, mapped: Mapped) -> dict[str, Any] | None:
    """What an entry makes of what is there; None where what is there is newer and stays."""
    # Demographics go by the sender's clock (MSH-7), everything else by the order of receipt.
    if entry.type == "Patient":
        older = bool(mapped.time.instant < before.source_time)
    else:
        older = bool(message["seq"] < before.seq)
    if entry.type not in MERGED or before.content is None:
        return None if older else entry.resource
    content = without_head(before.content)
    return merge(content, entry.resource, entry.erased, mapped.event, older=older)


async def _retire(
    connection: Connection, retired: dict[uuid.UUID, uuid.UUID], origin: Origin, now: datetime
) -> list[Row]:
    """Visits that are one with another: kept, marked as entered in error, and pointing at the one that remains."""
    made = []
    for number, before in (await known(connection, list(retired), ["Encounter"], aliases=False)).items():
        if before.content is None:
            continue
        into = {"status": "entered-in-error", "partOf": {"reference": f"Encounter/{retired[number]}"}}
        row = make_row(
            number,
            without_head(before.content) | into,
            before,
            patient_id=before.patient_id,
            organisations=before.organisations,
            source=origin.id,
            now=now,
            label=before.label,
            place="MRG",
        )
        if row is not None:
            made.append(row)
    return made


async def relink(
    connection: Connection, origin: Origin, patients: Sequence[uuid.UUID], now: datetime, change: Change
) -> None:
    """Bring Patient.link and Patient.active of these people's records in line with the links that hold."""
    for number, found in (await links.links_of(connection, patients)).items():
        pending = change.rows.get(number)
        before = (await known(connection, [number], ["Patient"])).get(number)
        content = pending.content if pending else before.content if before else None
        if content is None:
            continue
        resource = without_head(content)
        linked = links.linked(resource, found)
        if linked == resource:
            continue
        row = make_row(
            number,
            linked,
            before,
            patient_id=number,
            organisations=pending.organisations if pending else before.organisations if before else [],
            source=origin.id,
            now=now,
            place=pending.place if pending else None,
        )
        if row is not None:
            change.rows[number] = row
