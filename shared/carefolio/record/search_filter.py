"""The ``_filter`` expressions of R4 3.1.3, read into search parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from carefolio.record import parameters
from carefolio.record.arguments import Arguments, SearchError, UnknownParameterError
from carefolio.record.search_terms import COMMON, condition, ending

_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>[()\[\]])|(?P<word>[^\s()\[\]"]+))')
_LONGEST = 2000
_DEEPEST = 20
_PREFIXES = frozenset({"gt", "lt", "ge", "le", "sa", "eb", "ap"})
_OPERATORS = _PREFIXES | {"eq", "ne", "co", "sw", "ew", "pr", "po", "re"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A parameter, chained or not, an operator, a value."""

    name: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Group:
    """``operator`` is and, or, not."""

    operator: str
    parts: tuple[Expression, ...]


Expression = Comparison | Group


def parse(text: str) -> Expression:
    """An expression. Raises SearchError for what is none; ``and`` binds before ``or``."""
    if len(text) > _LONGEST:
        raise SearchError("_filter", f"longer than {_LONGEST} characters")
    reader = _Reader(text)
    made = reader.alternatives(0)
    if reader.peek():
        raise SearchError("_filter", "something stands after its end")
    return made


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                raise SearchError("_filter", f"cannot be read at character {at + 1}")
            kind = match.lastgroup or ""
            self._tokens.append((kind, match.group(kind)))
            at = match.end()
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self, what: str) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise SearchError("_filter", f"{what} is missing at its end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, sign: str) -> None:
        if self._next(sign)[1] != sign:
            raise SearchError("_filter", f"{sign} is missing")

    def alternatives(self, depth: int) -> Expression:
        return self._row("or", depth)

    def _row(self, operator: str, depth: int) -> Expression:
        def part() -> Expression:
            return self._row("and", depth) if operator == "or" else self._one(depth)

        parts = [part()]
        while self.peek() == operator:
            self._at += 1
            parts.append(part())
        return parts[0] if len(parts) == 1 else Group(operator, tuple(parts))

    def _one(self, depth: int) -> Expression:
        if depth > _DEEPEST:
            raise SearchError("_filter", f"nested more than {_DEEPEST} deep")
        if self.peek() == "not":
            self._at += 1
            return Group("not", (self._one(depth + 1),))
        if self.peek() == "(":
            self._at += 1
            made = self.alternatives(depth + 1)
            self._expect(")")
            return made
        return self._comparison()

    def _comparison(self) -> Expression:
        kind, path = self._next("a parameter")
        if kind != "word" or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:-]*", path):
            raise SearchError("_filter", "a comparison begins with a parameter")
        if self.peek() == "[":
            raise SearchError("_filter", "filters within a path ([…]) are not known here; chain with a dot")
        _, operator = self._next("an operator")
        kind, value = self._next("a value")
        if kind == "sign":
            raise SearchError("_filter", "a value is missing")
        if kind == "text":
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if operator not in _OPERATORS:
            raise SearchError("_filter", f"the operators are {' '.join(sorted(_OPERATORS))}")
        # Separators of ordinary parameters have no meaning in a filter, except those of tokens and quantities.
        return Comparison(path, operator, re.sub(r"([\\,$])", r"\\\1", value))


def compared(kind: str, name: str, operator: str, value: str, arguments: Arguments) -> str:
    """The SQL of one comparison on resources of type ``kind``. Raises SearchError."""
    parameter = parameters.find(kind, name, arguments.organisation_id)
    of = parameter.kind if parameter else COMMON.get(name, "")
    if operator == "pr":
        if value not in ("true", "false"):
            raise SearchError(name, "pr is followed by true or false")
        return condition(kind, f"{name}:missing", "false" if value == "true" else "true", arguments)
    if operator == "ne":
        return f"NOT ({compared(kind, name, 'eq', value, arguments)})"
    if operator in ("eq", "re"):
        return condition(kind, f"{name}:exact" if of == "string" else name, value, arguments)
    if operator in ("co", "sw", "ew") and parameter and of == "string":
        if operator == "ew":
            return ending(parameter.code, value, arguments)
        return condition(kind, f"{name}:contains" if operator == "co" else name, value, arguments)
    if of in ("date", "number", "quantity"):
        if operator in _PREFIXES:
            return condition(kind, name, operator + value, arguments)
        if operator == "po" and of == "date":
            # What overlaps is there, and lies neither wholly after nor wholly before.
            beside = [condition(kind, name, prefix + value, arguments) for prefix in ("sa", "eb")]
            return f"({condition(kind, name + ':missing', 'false', arguments)} AND NOT ({beside[0]} OR {beside[1]}))"
    if not of:
        raise UnknownParameterError(name, f"not a search parameter of {kind}")
    raise SearchError(name, f"{operator} does not compare a {of}")
