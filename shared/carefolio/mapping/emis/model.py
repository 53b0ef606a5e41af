"""Rows in, resources out: what both are, and the engine that fills a resource by a table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from carefolio.emis import values
from carefolio.emis.tables import tables
from carefolio.mapping import codes as systems
from carefolio.mapping.emis.codes import Code, Drug

Resource = dict[str, Any]
BASE = f"{systems.BASE}/StructureDefinition/emis-"
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"


class ColumnError(ValueError):
    """A value that is none of its column's; ``column`` says where, the text says why and quotes nothing."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"column {column}: {reason}")
        self.column = column


class UnknownCodeError(Exception):
    """A CodeId that no coding file has brought yet: the row waits for it."""

    def __init__(self, code: int, *, drug: bool) -> None:
        super().__init__(f"CodeId {code} is not in any coding file yet")
        self.code = code
        self.drug = drug


@dataclass(frozen=True, slots=True)
class Line:
    """One row: values in the table's order; ``key`` and ``parent`` are GUIDs in small letters without braces.

    ``file`` and ``number`` say where it stood. ``cancelled``: a slot that was this patient's and is no more.
    """

    table: str
    key: str
    values: Sequence[str]
    file: int = 0
    number: int = 0
    parent: str = ""
    cancelled: bool = False

    def __getitem__(self, name: str) -> str:
        return self.values[column(self.table, name)]

    @property
    def is_confidential(self) -> bool:
        at = _confidential(self.table)
        return at >= 0 and self.values[at][:1] in ("t", "T", "1")


@lru_cache(maxsize=1000)
def column(table: str, name: str) -> int:
    """Where a column stands in a row."""
    return list(tables()[table].columns).index(name)


@lru_cache(maxsize=50)
def _confidential(table: str) -> int:
    columns = list(tables()[table].columns)
    return columns.index("IsConfidential") if "IsConfidential" in columns else -1


@dataclass(slots=True)
class Made:
    """One resource without id: its ``id`` follows from ``type`` and ``key`` (the record's business)."""

    type: str
    key: str
    resource: Resource
    line: Line
    label: str = ""


@dataclass(slots=True)
class Context:
    """What rules need beside a value. ``number``: (type, key) -> the id that this resource has.

    ``practice`` is the practice's GUID, ``subject`` the Reference to the patient.
    """

    practice: str
    number: Callable[[str, str], str]
    shared_number: Callable[[str, str], str]
    codes: Mapping[int, Code]
    drugs: Mapping[int, Drug]
    subject: dict[str, str] = field(default_factory=dict)
    _own: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    _known: dict[str, Code] = field(default_factory=dict)
    _shared: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def own(self, kind: str, key: str) -> dict[str, str]:
        """A Reference to another resource of the same patient."""
        found = self._own.get((kind, key))
        if found is None:
            found = self._own[kind, key] = {"reference": f"{kind}/{self.number(kind, key)}"}
        return found

    def of(self, number: Callable[[str, str], str], subject: str) -> None:
        """From here on it is about another patient: (type, key) -> id, and his record's id."""
        self.number, self.subject = number, {"reference": f"Patient/{subject}"}
        self._own.clear()

    def shared(self, kind: str, key: str) -> dict[str, str]:
        """A Reference to a clinician, a place, an organisation."""
        found = self._shared.get((kind, key))
        if found is None:
            found = self._shared[kind, key] = {"reference": f"{kind}/{self.shared_number(kind, guid(key))}"}
        return found

    def code(self, text: str) -> Code:
        known = self._known.get(text)
        if known is not None:
            return known
        number = _long(text)
        found = self.codes.get(number)
        if found is None:
            raise UnknownCodeError(number, drug=False)
        self._known[text] = found
        return found

    def drug(self, text: str) -> Drug:
        number = _long(text)
        found = self.drugs.get(number)
        if found is None:
            raise UnknownCodeError(number, drug=True)
        return found


def _long(text: str) -> int:
    plain = text.strip()
    if not plain.isascii() or not plain.lstrip("-").isdigit() or len(plain) > 19:
        raise ValueError("not a whole number")
    return int(plain)


@lru_cache(maxsize=20_000)
def guid(text: str) -> str:
    """In small letters, without braces. Raises ValueError."""
    return values.guid(text).lower()


Convert = Callable[..., Any]


class Rule(NamedTuple):
    """``columns`` -> ``element``; the first column decides whether the rule speaks. ``[]`` adds to a list."""

    columns: str
    element: str
    convert: Convert


Plan = tuple[tuple[int, tuple[int, ...], str, bool, Convert, str], ...]


def compiled(table: str, *rules: Rule | tuple[str, str, Convert]) -> Plan:
    """Rules with the places of their columns."""
    made = []
    for names, element, convert in rules:
        first, *more = (column(table, name) for name in names.split())
        made.append((first, tuple(more), element.removesuffix("[]"), element.endswith("[]"), convert, names.split()[0]))
    return tuple(made)


def fill(resource: Resource, row: Sequence[str], plan: Plan, context: Context) -> Resource:
    """Add to a resource what the rules make of a row. Raises ColumnError and UnknownCodeError."""
    for first, more, element, many, convert, name in plan:
        value = row[first]
        if not value or value.isspace():
            continue
        try:
            made = convert(context, value, *[row[at] for at in more])
        except ValueError as error:
            raise ColumnError(name, str(error) if type(error) is ValueError else "not such a value") from None
        if made is None:
            continue
        if many:
            resource.setdefault(element, []).append(made)
        else:
            resource[element] = made
    return resource


def kept(name: str) -> Rule:
    """A column without a home in the resource: kept as an extension under its own name."""

    def convert(_: Context, value: str) -> dict[str, str]:
        return {"url": f"{BASE}{name}", "valueString": value}

    return Rule(name, "extension[]", convert)


def kept_code(name: str) -> Rule:
    """A coded column without a home in the resource."""

    def convert(context: Context, value: str) -> dict[str, Any]:
        return {"url": f"{BASE}{name}", "valueCodeableConcept": context.code(value).concept}

    return Rule(name, "extension[]", convert)
