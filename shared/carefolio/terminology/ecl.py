"""SNOMED CT's Expression Constraint Language 2.2, without refinements: which concepts an expression means, as SQL.

``<`` ``<<`` ``<!`` (descendants, with itself, children), ``>`` ``>>`` ``>!`` (ancestors), ``^`` (members of a reference
set), ``*``, ``AND`` ``OR`` ``MINUS``, parentheses, terms between bars.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

_TOKEN = re.compile(
    r"\s*(?:(<<|<!|<|>>|>!|>|\^)|(\d{1,18})(?:\s*\|[^|]{0,500}\|)?|(\*)|([()])|(and|or|minus)\b|(,))", re.IGNORECASE
)
_LONGEST, _DEEPEST = 2000, 20
# The number of a code in its system, 0 where it is not there.
Number = Callable[[str], Awaitable[int]]


class EclError(Exception):
    """An expression that cannot be read here; the text says where."""


async def condition(expression: str, number: Number) -> str:
    """A predicate on rows ``c`` of ``concept``. Raises EclError."""
    if len(expression) > _LONGEST:
        raise EclError(f"longer than {_LONGEST} characters")
    reader = _Reader(expression, number)
    made = await reader.expression(0)
    if reader.peek():
        raise EclError(f"cannot be read at {reader.peek()[:20]}")
    return made


class _Reader:
    def __init__(self, text: str, number: Number) -> None:
        self._number = number
        self._tokens: list[str] = []
        text, at = text.rstrip(), 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                raise EclError(f"cannot be read at character {at + 1}: refinements and filters are not known here")
            self._tokens.append((match[1] or match[2] or match[3] or match[4] or match[5] or match[6]).upper())
            at = match.end()
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self.peek()
        self._at += 1
        return token

    async def expression(self, depth: int) -> str:
        """One operator at a level, as the language has it; several of another kind need parentheses."""
        if depth > _DEEPEST:
            raise EclError(f"deeper than {_DEEPEST} levels")
        made = await self._part(depth)
        before = ""
        while self.peek() in ("AND", "OR", "MINUS", ","):
            operator = "AND" if self.peek() == "," else self.peek()
            self._next()
            if before and (operator != before or before == "MINUS"):
                raise EclError("different operators need parentheses")
            before = operator
            other = await self._part(depth)
            made = f"({made} AND NOT {other})" if operator == "MINUS" else f"({made} {operator} {other})"
        return made

    async def _part(self, depth: int) -> str:
        operator = self._next() if self.peek() in ("<<", "<", "<!", ">>", ">", ">!", "^") else ""
        said = self._next()
        if said == "(" and not operator:
            made = await self.expression(depth + 1)
            if self._next() != ")":
                raise EclError("a parenthesis is not closed")
            return made
        if said == "*":
            if operator not in ("", "<<", ">>", "^"):
                raise EclError(f"{operator} of every concept is not known here")
            return "EXISTS (SELECT FROM unnest(c.above) AS n WHERE n < 0)" if operator == "^" else "true"
        if not said.isdigit():
            raise EclError("a concept is needed" + (f" before {said}" if said else " at the end"))
        number = await self._number(said)
        return {
            "": f"c.number = {number}",
            "<<": f"c.above @> ARRAY[{number}]",
            "<": f"(c.above @> ARRAY[{number}] AND c.number <> {number})",
            "<!": f"c.parents @> ARRAY[{number}]",
            "^": f"c.above @> ARRAY[{-number}]",
            ">>": f"c.number = ANY({above(number)})",
            ">": f"(c.number = ANY({above(number)}) AND c.number <> {number})",
            ">!": f"c.number = ANY({above(number, 'parents')})",
        }[operator]


def above(number: int, column: str = "above") -> str:
    """SQL: the numbers of what a concept of the system of ``c`` is a kind of, itself too (``parents``: directly)."""
    of = f"up.system_id = c.system_id AND up.number = {number}"
    return f"ARRAY(SELECT unnest(up.{column}) FROM concept up WHERE {of})"  # noqa: S608 - ours
