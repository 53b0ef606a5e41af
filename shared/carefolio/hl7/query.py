"""What a query asks: QRY^A19 in its old form, QBP Q21, Q22, Q23 and the immunisation histories (Z34, Z44)."""

from __future__ import annotations

from dataclasses import dataclass, field

from carefolio.hl7.errors import REQUIRED_FIELD_MISSING, TABLE_VALUE, HL7Error, Place
from carefolio.hl7.reader import Delimiters, Message, Repetition

# QBP's trigger event -> the event of its answer (HL7 v2.8 chapter 3.3.56-58; CDC's guide 2.5.1 for Q11).
ANSWERS = {"Q11": "K11", "Q21": "K21", "Q22": "K22", "Q23": "K23"}
HISTORIES = {"Z34": "Z32", "Z44": "Z42"}
_MOST = 100


@dataclass(slots=True)
class Query:
    """``kind``: demographics, candidates, identifiers, appointments or immunisations. ``tag`` is echoed.

    ``identifiers`` are the CX fields that name the patient; ``demographics`` are what else is known of him, by
    ``PID.5.1`` and the like. ``start`` and ``end`` are HL7 times, '' for open.
    """

    kind: str
    event: str
    tag: str
    identifiers: list[Repetition] = field(default_factory=list)
    demographics: dict[str, str] = field(default_factory=dict)
    start: str = ""
    end: str = ""
    limit: int = _MOST
    profile: str = ""


def is_query(message: Message) -> bool:
    """Whether the message is a question that is answered at once."""
    return (message.code, message.event) == ("QRY", "A19") or (message.code == "QBP" and message.event in ANSWERS)


def read_query(message: Message) -> Query:
    """The question of a message for which is_query is true. Raises HL7Error."""
    return _original(message) if message.code == "QRY" else _by_parameter(message)


def _original(message: Message) -> Query:
    """QRD-8.1 is the id, QRD-8.13 MR for a local one, QRD-9 DEM or APN, QRF-2 and -3 the window (domain rules A4)."""
    asked = message.first("QRD")
    if asked is None:
        raise HL7Error(REQUIRED_FIELD_MISSING, Place("QRD"), "a query of this kind has a QRD segment")
    people = asked.repetitions(8)
    if not people or not people[0].get(1).strip():
        raise HL7Error(REQUIRED_FIELD_MISSING, asked.place(8, 0, 1), "no patient identifier")
    wanted = asked.get(9).strip().upper() or "DEM"
    if wanted not in ("DEM", "APN"):
        raise HL7Error(TABLE_VALUE, asked.place(9), "DEM (demographics) or APN (appointments) can be asked for")
    person = people[0]
    # An XCN names authority and type elsewhere than a CX does; without a type it is the national number.
    local = person.get(13).strip().upper() == "MR"
    named = "^".join(("", "", person.get(9).strip(), "MR") if local else ("", "", "NHS", "NH"))
    number = Repetition(f"{person.get(1).strip()}^{named}", Delimiters(), person.place)
    query = Query("demographics" if wanted == "DEM" else "appointments", "A19", asked.get(4).strip(), [number])
    if (window := message.first("QRF")) is not None:
        query.start, query.end = window.get(2).strip(), window.get(3).strip()
    return query


def _by_parameter(message: Message) -> Query:
    asked = message.first("QPD")
    if asked is None:
        raise HL7Error(REQUIRED_FIELD_MISSING, Place("QPD"), "a query by parameter has a QPD segment")
    kind = {"Q21": "demographics", "Q22": "candidates", "Q23": "identifiers", "Q11": "immunisations"}[message.event]
    query = Query(kind, message.event, asked.get(2).strip())
    if message.event == "Q11":
        query.profile = HISTORIES.get(asked.get(1).strip(), "")
        if not query.profile:
            raise HL7Error(TABLE_VALUE, asked.place(1), "Z34 or Z44 (immunisation history) can be asked for")
        query.identifiers = asked.repetitions(3)
        for name, at, component in (("PID.5.1", 4, 1), ("PID.5.2", 4, 2), ("PID.7", 6, 1), ("PID.8", 7, 1)):
            if value := asked.get(at, component).strip():
                query.demographics[name] = value
    else:
        for repetition in asked.repetitions(3):
            if not repetition.text.startswith("@"):
                query.identifiers.append(repetition)
            elif value := repetition.get(2).strip():
                query.demographics[repetition.get(1).strip().lstrip("@").replace("PID.5.1.1", "PID.5.1")] = value
    if (control := message.first("RCP")) is not None and (count := control.get(2).strip()).isdigit():
        query.limit = min(int(count), _MOST) or _MOST
    if not query.identifiers and not query.demographics:
        raise HL7Error(REQUIRED_FIELD_MISSING, asked.place(3), "nothing to look for a patient by")
    return query
