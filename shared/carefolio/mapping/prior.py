"""MRG: who or what a message joins, links, moves or renames (HL7 v2.8 chapter 3.4.9, 3.6)."""

from __future__ import annotations

from carefolio.hl7 import Message
from carefolio.mapping import datatypes as dt
from carefolio.mapping.engine import apply
from carefolio.mapping.model import Context, Entry, Prior, Rule
from carefolio.mapping.patient import identifiers_of

# Two patients become one: the prior one is a Patient of its own, replaced by the surviving one.
JOINS = frozenset({"A18", "A30", "A34", "A36", "A39", "A40"})
# Something goes from one patient to another, and both remain.
MOVES = frozenset({"A43", "A44", "A45"})
# A patient has another identifier.
RENAMES = frozenset({"A46", "A47", "A48"})

PRIOR = (Rule(7, "name[]", dt.human_name),)


def map_prior(message: Message, patient: Entry, encounter: Entry | None, context: Context) -> None:
    """``context.mapped.prior`` from the MRG segment, where there is one."""
    segment = message.first("MRG")
    if segment is None:
        return
    own = context.of(patient)
    prior = context.mapped.prior = Prior(account=segment.get(3).strip(), visit=segment.get(5).strip())
    numbers = identifiers_of(segment, (1, 2, 4), own, prior.identifiers)
    prior.numbers = [number | {"use": "old"} for number in numbers]
    event = context.mapped.event
    if event in JOINS | MOVES:
        before = prior.patient = context.own("Patient", ("prior",), "MRG")
        before.resource |= {"active": event in MOVES, "identifier": numbers} if numbers else {"active": event in MOVES}
        apply(PRIOR, segment, context.of(before))
        if event in JOINS:
            before.resource["link"] = [{"other": before.refer(patient), "type": "replaced-by"}]
            patient.resource["link"] = [{"other": patient.refer(before), "type": "replaces"}]
    elif event in RENAMES:
        context.claim(segment, patient)
        for number in prior.numbers:
            _add(patient, number)
    else:
        # Whose account or visit it is; his own numbers are in PID.
        context.claim(segment, patient)
    if event not in MOVES:
        for repetition in segment.repetitions(3):
            if account := dt.identifier(repetition, own):
                _add(patient, account | {"use": "old"})
        _visits(message, encounter, context)


def _visits(message: Message, encounter: Entry | None, context: Context) -> None:
    """MRG-5 and MRG-6: the numbers that the visit had."""
    segment = message.first("MRG")
    if encounter is None or segment is None or not encounter.key[0]:
        return
    visit_system = encounter.resource["identifier"][0]["system"]
    for repetition in segment.repetitions(5):
        if number := dt.value(repetition, 1):
            _add(encounter, {"system": visit_system, "value": number, "use": "old"})
    for repetition in segment.repetitions(6):
        if made := dt.identifier(repetition, context):
            _add(encounter, made | {"use": "old"})


def _add(entry: Entry, number: dict[str, object]) -> None:
    """An identifier that is there no longer, unless the message says that it is."""
    known = entry.resource.setdefault("identifier", [])
    if not any((k.get("system"), k["value"]) == (number.get("system"), number["value"]) for k in known):
        known.append(number)
