"""One search parameter with its modifier and values -> SQL (R4 3.1.1). Values are always arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from carefolio.cloud import addresses
from carefolio.fhir.dates import date_range
from carefolio.fhir.definitions import SearchParameter, resource_types, type_of_path
from carefolio.fhir.normalise import LONGEST, normalised
from carefolio.fhir.units import UCUM, unit
from carefolio.record import near, parameters, words
from carefolio.record import search_index as ix
from carefolio.record.arguments import Arguments, SearchError, UnknownParameterError
from carefolio.record.ids import internal_id
from carefolio.record.places import LIMIT, Interval, date_cover, key, number_cover, range_literal

_PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
_MOST_ALTERNATIVES = 500
_MOST_DIGITS = 100
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?|[+-]?\.\d+([eE][+-]?\d+)?", re.ASCII)
_ALLOWED = {
    "token": {"", "not", "text", "of-type", "missing"},
    "reference": {"", "identifier", "missing"},
    "string": {"", "exact", "contains", "missing"},
    "uri": {"", "above", "below", "missing"},
    "date": {"", "missing"},
    "number": {"", "missing"},
    "quantity": {"", "missing"},
    "composite": {"", "missing"},
    "special": {"", "missing"},
}


# The parameters of every type (R4 3.1.1.1.4), as far as they are about a row and not about the answer.
COMMON = {
    "_id": "token", "_lastUpdated": "date", "_tag": "token", "_security": "token", "_profile": "uri", "_source": "uri",
    "_text": "string", "_content": "string",
}  # fmt: skip


def condition(kind: str, name: str, value: str, arguments: Arguments) -> str:
    """The SQL of one parameter without chains; commas are alternatives. Raises SearchError."""
    code, _, modifier = name.partition(":")
    alternatives = split(value, ",")
    if not all(alternatives):
        raise SearchError(name, "an empty value")
    if len(alternatives) > _MOST_ALTERNATIVES:
        raise SearchError(name, f"more than {_MOST_ALTERNATIVES} alternatives")
    if code in COMMON:
        return _common(kind, name, code, modifier, alternatives, arguments)
    parameter = parameters.find(kind, code, arguments.organisation_id)
    if parameter is None:
        raise UnknownParameterError(name, f"not a search parameter of {kind}")
    if (kept := ix.kept_as(kind, code)) != code:
        return condition(kind, f"{kept}:{modifier}" if modifier else kept, value, arguments)
    if code.startswith(ix.COMBINED):
        own, of_part = (f"{prefix}{name.removeprefix(ix.COMBINED)}" for prefix in ("", "component-"))
        both = [condition(kind, each, value, arguments) for each in (own, of_part)]
        # What neither has, or is, is said of both.
        negative = modifier == "not" or (modifier == "missing" and value == "true")
        return f"({both[0]} {'AND' if negative else 'OR'} {both[1]})"
    of = parameter.kind
    if modifier not in _ALLOWED[of] and not (of == "reference" and modifier in resource_types()):
        raise SearchError(name, f"the modifier :{modifier} is not one of a {of} parameter here")
    if modifier == "missing":
        return _missing(name, kind, parameter.code, alternatives, arguments)
    if modifier != "not" and (of in ("string", "uri") or code == "identifier"):
        arguments.selective = True
    made = _MAKERS[of](kind, name, parameter, modifier, alternatives, arguments)
    return f"NOT ({made})" if modifier == "not" else made


def _common(kind: str, name: str, code: str, modifier: str, values: list[str], arguments: Arguments) -> str:
    if code == "_id":
        if modifier not in ("", "not"):
            raise SearchError(name, "the one modifier is :not")
        wanted = arguments.typed([internal_id(kind, unescape(value)) for value in values], "uuid[]")
        return f"NOT (id = ANY({wanted}))" if modifier else f"id = ANY({wanted})"
    if code == "_lastUpdated":
        if modifier:
            raise SearchError(name, "no modifier is known here")
        return _alternatives([_column(name, value, "last_updated", "last_updated", arguments) for value in values])
    if code in ("_text", "_content"):
        arguments.selective = True
        return _alternatives([_words(name, code, value, arguments) for value in values])
    if modifier == "missing":
        return _missing(name, kind, code, values, arguments)
    if modifier not in ("", "not", "below"):
        raise SearchError(name, f"the modifier :{modifier} is not known here")
    made = _keys(arguments, [key(code, unescape(value)) for value in values])
    return f"NOT ({made})" if modifier == "not" else made


def _words(name: str, code: str, value: str, arguments: Arguments) -> str:
    """Every word of a value, in any order; the content is what the narrative says, and all else."""
    wanted = words.asked(unescape(value))
    if not wanted:
        raise SearchError(name, "no word to look for")
    codes = ("_text",) if code == "_text" else ("_text", "_content")
    return "(" + " AND ".join(_keys(arguments, [key(each, word) for each in codes]) for word in wanted) + ")"


def _missing(name: str, kind: str, code: str, values: list[str], arguments: Arguments) -> str:
    if values not in (["true"], ["false"]):
        raise SearchError(name, "true or false")
    if ix.MAIN_DATE.get(kind) == code:
        return "date_from IS NULL" if values == ["true"] else "date_from IS NOT NULL"
    made = arguments.found(f"keys @> {arguments.typed([ix.present(code)], 'bigint[]')}")
    return f"NOT ({made})" if values == ["true"] else made


def _keys(arguments: Arguments, keys: Sequence[int]) -> str:
    return arguments.found(f"keys && {arguments.typed(list(keys), 'bigint[]')}")


def _token(
    kind: str, name: str, parameter: SearchParameter, modifier: str, values: list[str], arguments: Arguments
) -> str:
    if modifier == "text":
        return _alternatives([_like(parameter.code + ":text", f"%{like(value)}%", arguments) for value in values])
    if modifier == "of-type":
        if any(value.count("|") < 2 for value in values):
            raise SearchError(name, "system|code|value")
        return _keys(arguments, [key(parameter.code, f":of-type|{unescape(value)}") for value in values])
    plain = [token_of(value) for value in values]
    plain += [value.lower() for value in plain if "@" in value]
    if type_of_path(kind, parameter.expression) in ("code", "boolean"):
        # The system of a code is its element's binding: who names it means no other.
        plain = [value.rpartition("|")[2] or value for value in plain]
    return _keys(arguments, [key(parameter.code, value) for value in plain])


def of_tokens(kind: str, name: str, values: Sequence[str], arguments: Arguments, *, negative: bool) -> str:
    """A token that is one of very many (``system|code``). Raises SearchError."""
    code = name.partition(":")[0]
    if code.startswith(ix.COMBINED):
        own, of_part = (f"{prefix}{code.removeprefix(ix.COMBINED)}" for prefix in ("", "component-"))
        both = [of_tokens(kind, each, values, arguments, negative=negative) for each in (own, of_part)]
        return f"({both[0]} {'AND' if negative else 'OR'} {both[1]})"
    parameter = parameters.find(kind, code, arguments.organisation_id)
    if parameter is None:
        raise UnknownParameterError(name, f"not a search parameter of {kind}")
    plain = list(values)
    if type_of_path(kind, parameter.expression) in ("code", "boolean"):
        plain = [value.rpartition("|")[2] or value for value in plain]
    made = _keys(arguments, [key(parameter.code, value) for value in plain])
    return f"NOT ({made})" if negative else made


def token_of(value: str) -> str:
    """A token as its key was made; ``|code`` asks for a code without system."""
    return unescape(value)


def _reference(
    kind: str, name: str, parameter: SearchParameter, modifier: str, values: list[str], arguments: Arguments
) -> str:
    if modifier == "identifier":
        return _keys(arguments, [key(parameter.code, f":identifier|{token_of(value)}") for value in values])
    wanted = [reference_of(value, modifier) for value in values]
    return _keys(arguments, [key(parameter.code, each) for each in wanted])


def reference_of(value: str, modifier: str) -> str:
    """A reference as its key was made: of this server's addresses type and id."""
    plain = unescape(value)
    plain = addresses.below(plain) or plain
    return f"{modifier}/{plain}" if modifier and "/" not in plain else plain


def _string(
    kind: str, name: str, parameter: SearchParameter, modifier: str, values: list[str], arguments: Arguments
) -> str:
    if modifier == "exact":
        return _keys(arguments, [key(f"{parameter.code}:exact", unescape(value)[:LONGEST]) for value in values])
    return _alternatives([_beginning(parameter.code, value, modifier, arguments) for value in values])


def _beginning(code: str, value: str, modifier: str, arguments: Arguments) -> str:
    plain = normalised(unescape(value))
    if modifier == "contains":
        return f"({_present(code, arguments)} AND {_like(code, f'%{like(value)}%', arguments)})"
    first, says_all = ix.beginning(code, plain)
    found = _keys(arguments, [first])
    if says_all:
        return found
    return f"({found} AND {_like(code, f'{like(value)}%', arguments)})"


def ending(code: str, value: str, arguments: Arguments) -> str:
    """A string that ends with a value (``_filter``'s ew)."""
    return f"({_present(code, arguments)} AND {_like(code, f'%{like(value)}', arguments)})"


def _present(code: str, arguments: Arguments) -> str:
    return arguments.found(f"keys @> {arguments.typed([ix.present(code)], 'bigint[]')}")


def _like(code: str, pattern: str, arguments: Arguments) -> str:
    whole = arguments.add(f"{code}\x1f{pattern}")
    return f"EXISTS (SELECT FROM unnest(texts) AS t (text) WHERE t.text LIKE {whole})"


def like(value: str) -> str:
    """A value, normalised, in which LIKE's own signs stand for themselves."""
    return re.sub(r"([\\%_])", r"\\\1", normalised(unescape(value)))


def _uri(
    kind: str, name: str, parameter: SearchParameter, modifier: str, values: list[str], arguments: Arguments
) -> str:
    plain = [unescape(value) for value in values]
    if modifier == "above":
        plain = [part for value in plain for part in ix.above_of(value)]
    code = f"{parameter.code}<" if modifier == "below" else parameter.code
    return _keys(arguments, [key(code, value.rstrip("/") if modifier == "below" else value) for value in plain])


def _date(
    kind: str, name: str, parameter: SearchParameter, modifier: str, values: list[str], arguments: Arguments
) -> str:
    if ix.MAIN_DATE.get(kind) == parameter.code:
        return _alternatives([_column(name, value, "date_from", "date_to", arguments) for value in values])
    return _alternatives([_in_band(name, parameter.code, "date", value, arguments) for value in values])


def _measured(
    kind: str, name: str, parameter: SearchParameter, modifier: str, values: list[str], arguments: Arguments
) -> str:
    return _alternatives([_in_band(name, parameter.code, parameter.kind, value, arguments) for value in values])


def _composite(
    kind: str, name: str, parameter: SearchParameter, modifier: str, values: list[str], arguments: Arguments
) -> str:
    made = []
    (_, first_kind, _), (_, second_kind, _) = parameter.components[:2]
    for value in values:
        parts = split(value, "$")
        if len(parts) != 2 or not all(parts):
            raise SearchError(name, "two values with $ between them")
        start = token_of(parts[0]) if first_kind == "token" else reference_of(parts[0], "")
        code = ix.paired(parameter.code, start)
        second = SearchParameter(code, second_kind, "", (), ())
        made.append(_MAKERS[second_kind]("", name, second, "", [parts[1]], arguments))
    return _alternatives(made)


def _special(
    kind: str, name: str, parameter: SearchParameter, modifier: str, values: list[str], arguments: Arguments
) -> str:
    """Location's near. Its columns are read only of what the box leaves: a position is there."""
    made = []
    for value in values:
        try:
            latitude, longitude, metres = near.asked(unescape(value))
        except ValueError:
            reason = "latitude|longitude|distance|units, in degrees and a UCUM unit of length"
            raise SearchError(name, reason) from None
        candidates, inside = [], []
        for axis, span in zip(("latitude", "longitude"), near.box(latitude, longitude, metres), strict=True):
            band = f"{parameter.code}~{axis}"
            candidates.append(_keys(arguments, [key(f"{band}#", place) for place in number_cover(span)]))
            inside.append(_exactly(band, "eq", "number", span, arguments))
        exact = near.within(*(f"{arguments.add(number)}::float8" for number in (latitude, longitude, metres)))
        boxed = f"CASE WHEN {' AND '.join(inside)} THEN {exact} ELSE false END"
        made.append(" AND ".join([*candidates, boxed]))
    return _alternatives(made)


_MAKERS: dict[str, Callable[[str, str, SearchParameter, str, list[str], Arguments], str]] = {
    "token": _token,
    "reference": _reference,
    "string": _string,
    "uri": _uri,
    "date": _date,
    "number": _measured,
    "quantity": _measured,
    "composite": _composite,
    "special": _special,
}


def _column(name: str, value: str, start: str, end: str, arguments: Arguments) -> str:
    """A date against the columns of a range, or of one instant (``start`` = ``end``)."""
    prefix, plain = prefixed(value)
    low, high = _span(name, plain)
    if prefix == "ap":
        slack = max((high - low) / 2, timedelta(hours=12))
        low = low - slack if low - _FIRST > slack else _FIRST
        high = high + slack if _LAST - high > slack else _LAST
    first, last = arguments.typed(low, "timestamptz"), arguments.typed(high, "timestamptz")
    point = start == end
    # That it starts before the end follows from the rest, and bounds what an index looks at.
    inside = f"({start} >= {first} AND {start} <= {last} AND {end} {'<' if point else '<='} {last})"
    after = f"{end} {'>=' if point else '>'} {last}"
    return {
        "eq": inside,
        "ne": f"NOT {inside}",
        "gt": after,
        "ge": f"({after} OR {inside})",
        "lt": f"{start} < {first}",
        "le": f"({start} < {first} OR {inside})",
        "sa": f"{start} >= {last}",
        "eb": f"{end} {'<' if point else '<='} {first}",
        "ap": f"({start} < {last} AND {end} {'>=' if point else '>'} {first})",
    }[prefix] + f" AND {first} <= {last}"


_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _span(name: str, text: str) -> Any:
    try:
        return date_range(text.replace(" ", "+"))
    except (ValueError, OverflowError):
        raise SearchError(name, "not a date, with one of the prefixes eq ne gt lt ge le sa eb ap or none") from None


def prefixed(value: str) -> tuple[str, str]:
    """The prefix of a date or a number (eq where there is none), and the rest."""
    return (value[:2], value[2:]) if value[:2] in _PREFIXES else ("eq", value)


def _in_band(name: str, code: str, kind: str, value: str, arguments: Arguments) -> str:
    """A date, number or quantity against ``ranges``; its places are the way to the index."""
    prefix, plain = prefixed(value)
    suffix, of = "", None
    if kind == "quantity":
        parts = split(plain, "|")
        if len(parts) == 3 and parts[2]:
            system, unit_code = unescape(parts[1]), unescape(parts[2])
            suffix = f"|{system}|{unit_code}"
            of = unit(unit_code) if system == UCUM else None
        elif len(parts) not in (1, 3):
            raise SearchError(name, "a number, or number|system|code")
        plain = parts[0]
    asked = ix.of_dates(_span(name, plain)) if kind == "date" else _precise(name, plain, prefix)
    if prefix == "ap":
        slack = (asked.high - asked.low) / 2 if kind == "date" else abs(asked.low) / 10
        asked = Interval(asked.low - slack, asked.high + slack)
    band = f"{code}{suffix}"
    if of is not None:
        band, asked = ix.in_base_units(code, of, asked)
    low, high = -LIMIT, LIMIT
    wanted = {
        "gt": Interval(asked.high, high) if kind == "date" else Interval(asked.low, high),
        "ge": Interval(asked.low, high),
        "sa": Interval(asked.high, high) if kind == "date" else Interval(asked.low, high),
        "lt": Interval(low, asked.low) if kind == "date" else Interval(low, asked.high),
        "le": Interval(low, asked.high),
        "eb": Interval(low, asked.low) if kind == "date" else Interval(low, asked.high),
    }.get(prefix, asked)
    if prefix == "ne":
        inside = _exactly(band, "eq", kind, asked, arguments)
        return f"(ranges && {_literal(band, Interval(low, high), arguments)} AND NOT {inside})"
    cover = date_cover(wanted) if kind == "date" else number_cover(wanted)
    # A unit's numbers lie where the same numbers without it do; in base units they lie elsewhere.
    places = code if of is None else band
    candidates = _keys(arguments, [key(f"{places}#", place) for place in cover])
    return f"({candidates} AND {_exactly(band, prefix, kind, wanted, arguments)})"


def _exactly(band: str, prefix: str, kind: str, wanted: Interval, arguments: Arguments) -> str:
    placeholder = _literal(band, wanted, arguments)
    if prefix == "eq" or (kind == "date" and prefix in ("sa", "eb")):
        # The value lies within what is asked for, whole.
        return f"EXISTS (SELECT FROM unnest(ranges) AS r (span) WHERE r.span <@ {placeholder})"
    if kind != "date" and prefix in ("gt", "lt", "sa", "eb"):
        # Strictly beyond: the number itself is not enough.
        bound = wanted.low if prefix in ("gt", "sa") else wanted.high
        point = _literal(band, Interval(bound, bound), arguments)
        return f"EXISTS (SELECT FROM unnest(ranges) AS r (span) WHERE r.span && {placeholder} AND r.span <> {point})"
    if kind != "date" and prefix == "le":
        point = _literal(band, Interval(wanted.high, wanted.high), arguments)
        return f"(ranges && {placeholder} OR ranges && {point})"
    return f"ranges && {placeholder}"


def _literal(band: str, interval: Interval, arguments: Arguments) -> str:
    """A range as an argument, which stops before its end; a point where both ends are one."""
    return arguments.typed(range_literal(band, interval), "text") + "::numrange"


def _precise(name: str, text: str, prefix: str) -> Interval:
    """A number as the range that its digits cover (R4 3.1.1.4.6); with gt, lt and the like as it stands."""
    value = ix.number(text) if _NUMBER.fullmatch(text) and len(text) <= _MOST_DIGITS else None
    if value is None or abs(Decimal(text).adjusted()) > _MOST_DIGITS:
        raise SearchError(name, "not a number, with one of the prefixes eq ne gt lt ge le sa eb ap or none")
    if prefix in ("eq", "ne", "ap"):
        half = Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2
        return Interval(value - half, value + half)
    return Interval(value, value)


def _alternatives(made: Sequence[str]) -> str:
    return made[0] if len(made) == 1 else "((" + ") OR (".join(made) + "))"


def split(value: str, separator: str) -> list[str]:
    """A value at its separators that are not escaped (R4 3.1.1.4.2)."""
    return re.split(rf"(?<!\\){re.escape(separator)}", value)


def unescape(value: str) -> str:
    """A value without the backslashes that FHIR puts before its separators."""
    return re.sub(r"\\([,$|\\])", r"\1", value)
