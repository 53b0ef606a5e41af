"""What a mapped message is: resources with an identity each, before the record gives them their ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from carefolio.hl7 import Moment, Repetition, Segment
from carefolio.hl7.time import LONDON

Resource = dict[str, Any]

# A resource of a patient is one only within that record; of an organisation, within what it sends; a shared one
# (a clinician by national number, an organisation by ODS code) is one for everybody.
Scope = Literal["patient", "organisation", "shared"]


@dataclass(frozen=True, slots=True)
class Source:
    """Whose message it is, by the credentials that posted it, never by the message itself; and what was agreed.

    ``authorities``: assigning authority -> FHIR system. ``codes``: (system, code) of the sender's own -> the Coding
    that it means. ``z_fields``: ``ZPI-2`` -> the name of its extension. ``r_deletes``: what OBR-25 = R says.
    """

    ods_code: str
    zone: ZoneInfo = LONDON
    authorities: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    z_fields: Mapping[str, str] = field(default_factory=dict)
    r_deletes: bool = True


@dataclass(slots=True, eq=False)
class Entry:
    """One resource without id and meta. ``key`` is its identity in its ``scope``; ``place`` its segment.

    ``references`` are the Reference elements inside ``resource`` that point at other entries of the message.
    ``erased`` are the top-level elements that the sender asked to erase. ``available_from``: when the patient may
    see it, None for at once.
    """

    type: str
    key: tuple[str, ...]
    scope: Scope
    resource: Resource
    place: str
    references: list[tuple[dict[str, Any], Entry]] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    available_from: datetime | None = None

    def refer(self, target: Entry, **extra: Any) -> dict[str, Any]:
        """A Reference element from this entry to ``target``; its address is filled in when ids are known."""
        reference: dict[str, Any] = {"reference": "", **extra}
        self.references.append((reference, target))
        return reference


@dataclass(frozen=True, slots=True)
class PatientIdentifier:
    """An identifier that may find a record. ``national`` ones mean the same from every sender.

    ``verified`` is None where the sender states no status, else whether the NHS number was traced (code 01).
    ``shown`` is its system in FHIR, where another one was agreed with the sender.
    """

    system: str
    value: str
    national: bool
    verified: bool | None
    place: str
    shown: str = ""


@dataclass(slots=True)
class Prior:
    """MRG: who or what a message joins, moves or renames. ``patient`` is the Patient that was, in the Bundle only.

    ``numbers`` are its identifiers as FHIR has them, with use ``old``; ``account`` and ``visit`` are MRG-3 and MRG-5.
    """

    identifiers: list[PatientIdentifier] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)
    patient: Entry | None = None
    account: str = ""
    visit: str = ""


@dataclass(slots=True)
class Mapped:
    """One patient's part of a message as resources (most messages have one part). ``time`` is MSH-7.

    ``specialty`` is PV1-10; ``account`` PID-18; ``encounter`` the visit; ``sets`` are the resource types whose whole
    set the message states, though it may be empty (AL1, DG1, ZRX).
    ``rules``: (id of a segment, field) -> the element that its table names, and the converter; ``claims``: id of a
    segment -> the resource that it belongs to.
    """

    event: str
    time: Moment
    control_id: str = ""
    entries: list[Entry] = field(default_factory=list)
    patient: Entry | None = None
    encounter: Entry | None = None
    identifiers: list[PatientIdentifier] = field(default_factory=list)
    prior: Prior | None = None
    specialty: str = ""
    account: str = ""
    sets: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    rules: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    claims: dict[int, Entry] = field(default_factory=dict)


@dataclass(slots=True)
class Context:
    """What converters may need beside their field: the source, and a place to put shared resources."""

    source: Source
    mapped: Mapped
    owner: Entry
    shared: dict[tuple[str, ...], Entry] = field(default_factory=dict)
    counts: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def claims(self) -> dict[int, Entry]:
        return self.mapped.claims

    def of(self, owner: Entry) -> Context:
        return Context(self.source, self.mapped, owner, self.shared, self.counts)

    def claim(self, segment: Segment, owner: Entry) -> None:
        """The resource that a segment belongs to: it keeps what has no home of its own."""
        self.claims.setdefault(id(segment), owner)

    def own(self, kind: str, key: tuple[str, ...], place: str) -> Entry:
        """A new entry in the patient's record; one more with the same identity in one message is counted."""
        count = self.counts[kind, *key] = self.counts.get((kind, *key), 0) + 1
        entry = Entry(kind, key if count == 1 else (*key, f"#{count}"), "patient", {"resourceType": kind}, place)
        self.mapped.entries.append(entry)
        return entry

    def entry(self, kind: str, key: tuple[str, ...], scope: Scope, resource: Resource, place: str) -> Entry:
        """The entry with this identity, made at its first mention; later mentions add what is new."""
        full = (kind, scope, *key)
        known = self.shared.get(full)
        if known is None:
            known = Entry(kind, key, scope, {"resourceType": kind, **resource}, place)
            self.shared[full] = known
            self.mapped.entries.append(known)
        else:
            for element, value in resource.items():
                known.resource.setdefault(element, value)
        return known


Converter = Callable[[Repetition, Context], Any]
Special = Callable[[Segment, Context], Resource]


@dataclass(frozen=True, slots=True)
class Rule:
    """A field's way into an element. ``element`` is dotted; ``[]`` at its end takes every repetition.

    ``slot`` names the part of a list that the field owns, where two fields share the list (see merge).
    """

    field: int
    element: str
    convert: Converter
    slot: str = ""
