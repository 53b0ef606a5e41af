"""What search needs of a resource, in its row: by FHIR's own search parameters (R4, search-parameters.json).

``keys``: 64-bit hashes under one GIN index: tokens, references, URIs, exact strings, beginnings of strings, places of
dates and numbers. They find candidates; ``texts`` and ``ranges`` tell exactly. The type's main date is a column.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple

from carefolio.cloud import addresses
from carefolio.fhir.dates import DateRange, date_range_of
from carefolio.fhir.definitions import SearchParameter, elements, search_parameters
from carefolio.fhir.normalise import LONGEST, normalised
from carefolio.fhir.paths import Values, compile_path
from carefolio.fhir.units import UCUM, Unit, unit
from carefolio.mapping.serialise import dumps
from carefolio.record import parameters, words
from carefolio.record.places import LIMIT, Interval, buckets, key, literals, places_of, range_literal

# The date by which a type's resources are put in order for a reader.
MAIN_DATE = {
    "AllergyIntolerance": "date",
    "Appointment": "date",
    "CarePlan": "date",
    "Communication": "sent",
    "Condition": "recorded-date",
    "DiagnosticReport": "date",
    "DocumentReference": "date",
    "Encounter": "date",
    "FamilyMemberHistory": "date",
    "Goal": "start-date",
    "Immunization": "date",
    "MedicationAdministration": "effective-time",
    "MedicationDispense": "whenhandedover",
    "MedicationRequest": "authoredon",
    "MedicationStatement": "effective",
    "Observation": "date",
    "Patient": "birthdate",
    "Procedure": "date",
    "ServiceRequest": "authored",
    "Specimen": "collected",
}
# An Observation's combo-code is its code or a component's, and so on.
COMBINED = "combo-"
# Beginnings of strings have keys of these lengths; between them ``texts`` tell.
_BEGINNINGS = (1, 3, 6)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Indexed(NamedTuple):
    """``keys`` and ``ranges`` as PostgreSQL writes an array and a multirange, ``texts`` as a JSON list."""

    keys: str
    date_from: datetime | None
    date_to: datetime | None
    texts: str
    ranges: str


def index(resource: dict[str, Any], elements: dict[str, bytes] | None = None) -> Indexed:
    """The row's search columns of one resource. ``elements`` are its top-level elements as JSON, where they are known.

    What an element (or a group that one parameter looks at together) means to search is remembered: codes, units,
    patients and clinicians come again and again, and looking them up anew is most of the work.
    """
    kind = resource["resourceType"]
    if elements is None:
        elements = {name: dumps(value) for name, value in resource.items() if name not in _NOT_INDEXED}
    keys: list[str] = []
    texts: list[str] = []
    ranges: list[str] = []
    main: DateRange | None = None
    for names, plan in _shaped(kind, tuple(elements), parameters.version()):
        if len(names) == 1:
            told = elements[names[0]]
            if not plan.parameters and _WORDLESS(told):
                continue
            called: Any = (plan.number, told)
        elif names:
            called = (plan.number, *[elements[name] for name in names])
        else:
            called = None
        said = _remembered.get(called) if called is not None else None
        if said is None:
            said = _said(kind, plan, resource, names)
            if called is not None and sum(map(len, called[1:])) <= _LONGEST_REMEMBERED:
                # orjson's bytes hold four times the room that they need.
                _remembered.put((called[0], *[memoryview(each).tobytes() for each in called[1:]]), said)
        # What two of them say is there twice, which costs less than to see that it is.
        if said.keys:
            keys.append(said.keys)
        if said.texts:
            texts.append(said.texts)
        if said.ranges:
            ranges.append(said.ranges)
        main = main or said.main
    whole: set[int] = set()
    if "meta" in resource:
        _meta(resource, whole)
    if "text" in resource:
        whole.update(key("_text", word) for word in words.of_narrative(resource))
    if whole:
        keys.append(",".join(map(str, whole)))
    return Indexed(
        "{" + ",".join(keys) + "}",
        main.start if main else None,
        main.end if main else None,
        "[" + ",".join(texts) + "]",
        "{" + ",".join(ranges) + "}",
    )


class _Said(NamedTuple):
    """What some elements of a resource mean to search: as in ``Indexed``, without the brackets."""

    keys: str
    texts: str
    ranges: str
    main: DateRange | None


class _Memory:
    """The last so many meanings: when the younger half is full, the older one is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most // 2
        self._young: dict[Any, _Said] = {}
        self._old: dict[Any, _Said] = {}

    def get(self, called: Any) -> _Said | None:
        found = self._young.get(called)
        if found is None and (found := self._old.get(called)) is not None:
            self.put(called, found)
        return found

    def put(self, called: Any, said: _Said) -> None:
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[called] = said


_NOT_INDEXED = frozenset({"resourceType", "id", "meta"})
_LONGEST_REMEMBERED = 1000
_remembered = _Memory(20_000)


class _Plan(NamedTuple):
    """Parameters that look at the same elements, under a ``number`` of its own."""

    number: int
    parameters: list[tuple[SearchParameter, Values]]


def _said(kind: str, plan: _Plan, resource: dict[str, Any], names: tuple[str, ...]) -> _Said:
    """What ``names`` (none: the whole resource) mean to the parameters of a plan, and to _content."""
    keys: set[int] = set()
    texts: list[str] = []
    ranges: set[str] = set()
    main: DateRange | None = None
    of = {"resourceType": kind, **{name: resource[name] for name in names}} if names else resource
    for parameter, select in plan.parameters:
        values = select(of)
        if not values:
            continue
        code = parameter.code
        keys.add(present(code))
        if parameter.kind == "date" and MAIN_DATE.get(kind) == code:
            main = main or next((span for value in values if (span := date_range_of(value))), None)
            continue
        for value in values:
            if parameter.kind == "composite":
                _composite(parameter, value, keys, ranges, texts)
            else:
                _index_value(code, parameter.kind, value, keys, ranges, texts)
    if len(names) == 1 and names[0] != "text":
        keys.update(key("_content", word) for word in words.of_content(of))
    return _Said(",".join(map(str, keys)), dumps(list(dict.fromkeys(texts))).decode()[1:-1], ",".join(ranges), main)


# A date, a time, a number: no word of it is asked for.
_WORDLESS = re.compile(rb'"[\d:.,+TZ-]*"\Z').match


@lru_cache(maxsize=2000)
def _shaped(kind: str, there: tuple[str, ...], version: int) -> list[tuple[tuple[str, ...], _Plan]]:
    """The plans of a type for a resource with these elements, and of each the elements that are there.

    Every element has a plan, for its words; a plan without elements looks at the whole.
    """
    known = set(elements(kind))
    made: dict[tuple[str, ...], list[int]] = {}
    for at, (names, _) in enumerate(_plans(kind, version)):
        found = tuple(name for name in names if name in there)
        if found or not names:
            # What looks at the same, once others are not there, is looked up together.
            made.setdefault(found, []).append(at)
    for name in there:
        if name not in known:
            made[name,] = []
    return [(names, _together(kind, version, tuple(groups))) for names, groups in made.items()]


@lru_cache(maxsize=20_000)
def _together(kind: str, version: int, groups: tuple[int, ...]) -> _Plan:
    """Several groups of ``_plans`` as one."""
    plans = _plans(kind, version)
    return _Plan(next(_numbers), [each for group in groups for each in plans[group][1]])


_AN_ELEMENT = re.compile(r"(?:^|\|)[\s(]*([a-z][A-Za-z]*)")


@lru_cache(maxsize=600)
def _plans(kind: str, _: int) -> list[tuple[tuple[str, ...], list[tuple[SearchParameter, Values]]]]:
    """Groups of elements with the parameters that look at exactly them; no elements for those that need everything.
    (One for each version of what organisations defined.)

    A combined parameter is asked for by its two parts (search_terms).
    """
    known = elements(kind)
    made: dict[tuple[str, ...], list[tuple[SearchParameter, Values]]] = {
        (name,): [] for name in known if name not in _NOT_INDEXED
    }
    for parameter in (*search_parameters(kind).values(), *parameters.custom(kind)):
        if parameter.code.startswith(COMBINED) or kept_as(kind, parameter.code) != parameter.code:
            continue
        said = set(re.findall(rf"\b{kind}\.([A-Za-z]+)", parameter.expression))
        if parameter.kind == "composite" and not said:
            # Its components look at the elements of the resource itself.
            said = {name for _, _, part in parameter.components for name in _AN_ELEMENT.findall(part)}
        # A choice element is there under one of several names.
        names = tuple(name for name, element in known.items() if name in said or element.choice in said)
        # What asks whether something is there has an answer for everybody.
        if "exists()" in parameter.expression or not _NOT_INDEXED.isdisjoint(names):
            names = ()
        made.setdefault(names, []).append((parameter, compile_path(parameter.expression)))
    return list(made.items())


_numbers = itertools.count()


def _index_value(
    code: str,
    kind: str,
    value: Any,
    keys: set[int],
    ranges: set[str],
    texts: list[str],
) -> None:
    if kind == "token":
        keys.update(key(code, token) for token in tokens(value))
        texts.extend(text_row(f"{code}:text", token) for token in _token_texts(value))
    elif kind == "reference":
        keys.update(key(code, reference) for reference in references(value))
    elif kind == "uri":
        keys.add(key(code, str(value)))
        keys.update(key(f"{code}<", above) for above in above_of(str(value)))
    elif kind == "special":
        for axis in ("latitude", "longitude"):
            if isinstance(value, dict) and (degrees := number(value.get(axis))) is not None:
                keys.update(buckets(f"{code}~{axis}", "number", Interval(degrees, degrees)))
                ranges.add(range_literal(f"{code}~{axis}", Interval(degrees, degrees)))
    elif kind == "string":
        for part in strings(value):
            keys.add(key(f"{code}:exact", part[:LONGEST]))
            plain = normalised(part)
            keys.update(key(f"{code}^", plain[:length]) for length in _BEGINNINGS if length <= len(plain))
            texts.append(text_row(code, plain))
    else:
        _index_on_the_line([code], kind, value, keys, ranges)


def _composite(parameter: SearchParameter, item: Any, keys: set[int], ranges: set[str], texts: list[str]) -> None:
    """Pairs of one item: a token with a token, a string, a date or a quantity; the pair is one value."""
    if not isinstance(item, dict):
        return
    (_, first_kind, first), (_, second_kind, second) = parameter.components[:2]
    # A pair is asked for by a code; a system alone tells nothing.
    starts = (
        [t for value in relative(first, item) for t in tokens(value) if t[-1:] != "|"] if first_kind == "token" else []
    )
    if first_kind == "reference":
        starts = [found for value in relative(first, item) for found in references(value)]
    codes = [paired(parameter.code, start) for start in starts]
    for value in relative(second, item) if codes else []:
        if second_kind in _ON_THE_LINE:
            _index_on_the_line(codes, second_kind, value, keys, ranges)
            continue
        for code in codes:
            _index_value(code, second_kind, value, keys, ranges, texts)


_ON_THE_LINE = ("date", "number", "quantity")


def _index_on_the_line(codes: list[str], kind: str, value: Any, keys: set[int], ranges: set[str]) -> None:
    """One value under several codes: where it lies is the same for all of them."""
    found = _of_date(value) if kind == "date" and isinstance(value, str) else _on_the_line(kind, value)
    for suffix, where, literal in found:
        # A unit's numbers lie where the same numbers without it do; in base units they lie elsewhere.
        has_places = not suffix or suffix[0] == "~"
        for code in codes:
            band = code + suffix
            if has_places:
                keys.update([key(f"{band}#", place) for place in where])
            ranges.add(literal(band))


_Where = list[tuple[str, list[str], Callable[[str], str]]]


def _on_the_line(kind: str, value: Any) -> _Where:
    """(suffix of the code, places, the range's literal in a band) of a date, number or quantity."""
    return [(suffix, places_of(kind, of), literals(of)) for suffix, of in intervals("", kind, value)]


@lru_cache(maxsize=20_000)
def _of_date(text: str) -> _Where:
    """``_on_the_line`` of a day or instant: many things happen on one day."""
    return _on_the_line("date", text)


def paired(code: str, start: str) -> str:
    """The name under which the second part of a composite is kept: the parameter with its first part."""
    return f"{code}$\x1e{start}"


def relative(expression: str, item: dict[str, Any]) -> list[Any]:
    """The values that a component's expression selects from an item of its composite."""
    return [value for part in expression.split("|") for value in compile_path(f"Item.{part.strip()}")(item)]


def _meta(resource: dict[str, Any], keys: set[int]) -> None:
    meta = resource.get("meta") or {}
    for code, name in (("_tag", "tag"), ("_security", "security")):
        for coding in meta.get(name, []):
            keys.update(key(code, token) for token in tokens(coding))
            keys.add(present(code))
    for profile in meta.get("profile", []):
        keys.add(key("_profile", profile))
        keys.add(present("_profile"))
    if source := meta.get("source"):
        keys.add(key("_source", source.partition("#")[0]))
        keys.add(key("_source", source))


def kept_as(kind: str, code: str) -> str:
    """The parameter under which the values of one are kept: ``phonetic`` has those of ``name`` where both are one."""
    standard = search_parameters(kind)
    same = (
        code == "phonetic"
        and code in standard
        and "name" in standard
        and standard[code].expression == standard["name"].expression
    )
    return "name" if same else code


def above_of(uri: str) -> list[str]:
    """A URI and those that it lies below, by whole segments of the path (R4 3.1.1.4.12)."""
    parts = uri.split("/")
    return ["/".join(parts[:length]) for length in range(min(3, len(parts)), len(parts) + 1)]


def beginning(code: str, plain: str) -> tuple[int, bool]:
    """The key of what begins like a normalised text, and whether it says all."""
    length = max(length for length in _BEGINNINGS if length <= max(1, len(plain)))
    return key(f"{code}^", plain[:length]), length == len(plain)


def present(parameter: str) -> int:
    """The key of a resource in which a parameter has any value (``:missing``)."""
    return key(parameter, "\x1e")


def tokens(value: Any) -> Iterator[str]:
    """How a coded value can be asked for: with its system, without, by system alone (R4 3.1.1.4.10)."""
    if isinstance(value, dict):
        codings = value.get("coding")
        if codings is None:
            codings = [value]
        for coding in codings:
            code = coding.get("code") or coding.get("value")
            system = coding.get("system", "")
            if code is not None:
                yield str(code)
                yield f"{system}|{code}"
                if "@" in str(code):
                    # An e-mail address is the same in any case.
                    yield str(code).lower()
            if system:
                yield f"{system}|"
        for coding in value.get("type", {}).get("coding", []) if isinstance(value.get("type"), dict) else []:
            if "value" in value:
                yield f":of-type|{coding.get('system', '')}|{coding.get('code', '')}|{value['value']}"
    elif isinstance(value, bool):
        yield "true" if value else "false"
        yield f"|{'true' if value else 'false'}"
    else:
        yield str(value)
        yield f"|{value}"


def _token_texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for text in (value.get("text"), value.get("display")) if isinstance(text, str))
        if isinstance(value.get("type"), dict) and isinstance(text := value["type"].get("text"), str):
            yield text
        yield from (coding["display"] for coding in value.get("coding", []) if isinstance(coding.get("display"), str))


_LOCAL = re.compile(r"[A-Z][A-Za-z]+/([0-9a-f-]{36})\Z")


def references(value: Any) -> Iterator[str]:
    """How a reference can be asked for: as it stands, by type and id, by id alone, by its identifier."""
    if isinstance(value, str):
        yield value
        return
    if not isinstance(value, dict):
        return
    target = value.get("reference")
    if isinstance(target, str) and (local := _LOCAL.match(target)):
        yield target
        yield local[1]
    elif isinstance(target, str) and not target.startswith("#"):
        plain = target.partition("/_history/")[0]
        yield target
        if plain != target:
            yield plain
        # What another server calls Patient/1 is not ours.
        parts = (addresses.below(plain) or plain).split("/")
        if len(parts) == 2:
            yield f"{parts[-2]}/{parts[-1]}"
            yield parts[-1]
    if isinstance(identifier := value.get("identifier"), dict):
        yield from (f":identifier|{token}" for token in tokens(identifier))


def strings(value: Any) -> Iterator[str]:
    """The texts of a string element; of a name or an address every part of it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name in ("use", "type", "period", "extension", "id"):
                continue
            yield from (inner for inner in (part if isinstance(part, list) else [part]) if isinstance(inner, str))


def text_row(code: str, text: str) -> str:
    """A text of a parameter as it stands in ``texts``."""
    return f"{code}\x1f{normalised(text)}"


def intervals(code: str, kind: str, value: Any) -> Iterator[tuple[str, Interval]]:
    """The values of a date, number or quantity: (the name that it is kept under, the range that it covers)."""
    if kind == "date":
        if span := date_range_of(value):
            yield code, of_dates(span)
    elif kind == "number":
        if (point := number(value)) is not None:
            yield code, Interval(point, point)
    elif isinstance(value, dict):
        of = value.get("low") or value.get("high") or value
        for low, high in _quantity(value):
            for suffix in units(of):
                yield f"{code}{suffix}", Interval(low, high)
            if of.get("system") == UCUM and (known := unit(str(of.get("code")))):
                yield in_base_units(code, known, Interval(low, high))


def in_base_units(code: str, of: Unit, interval: Interval) -> tuple[str, Interval]:
    """A range of a UCUM unit, comparable with those of every other unit of its dimension."""
    low, high = (end if abs(end) >= LIMIT else of.canonical(end) for end in interval)
    return f"{code}~{of.dimension}", Interval(low, high)


def _quantity(value: dict[str, Any]) -> Iterator[tuple[Decimal, Decimal]]:
    if "low" in value or "high" in value:
        low = number((value.get("low") or {}).get("value"))
        high = number((value.get("high") or {}).get("value"))
        yield -LIMIT if low is None else low, LIMIT if high is None else high
    elif (point := number(value.get("value"))) is not None:
        comparator = str(value.get("comparator", ""))
        if comparator[:1] == "<":
            # "Less than 5" is a range, and not 5.
            yield -LIMIT, point
        elif comparator[:1] == ">":
            yield point, LIMIT
        else:
            yield point, point


def units(quantity: dict[str, Any]) -> set[str]:
    """Under which units a quantity can be asked for: none, its code with its system, its code or its unit alone.

    With UCUM's system it is asked for in base units.
    """
    made = {""}
    if code := quantity.get("code"):
        made.add(f"||{code}")
        if not (quantity.get("system") == UCUM and unit(str(code))):
            made.add(f"|{quantity.get('system', '')}|{code}")
    if currency := quantity.get("currency"):
        made |= {f"|urn:iso:std:iso:4217|{currency}", f"||{currency}"}
    if shown := quantity.get("unit"):
        made.add(f"||{shown}")
    return made


# What is smaller is nothing, to a search.
_FINEST = 100


def number(value: Any) -> Decimal | None:
    """A JSON number as a decimal within the bounds of the index; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        made = Decimal(str(value))
    except InvalidOperation:
        return None
    if not made.is_finite():
        return None
    return max(-LIMIT, min(LIMIT, made)) if made == 0 or made.adjusted() > -_FINEST else Decimal(0)


def of_dates(span: DateRange) -> Interval:
    """A range of time as microseconds."""
    return Interval(*(Decimal(_microseconds(moment)) for moment in span))


def _microseconds(moment: datetime) -> int:
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
