"""The values of a search's statement, and how a search fails."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class SearchError(Exception):
    """A search that cannot be answered; ``parameter`` is the one at fault."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter}: {reason}")
        self.parameter = parameter
        self.reason = reason


class UnknownParameterError(SearchError):
    """A parameter that the type does not have: an error where handling is strict."""


@dataclass(slots=True)
class Arguments:
    """The values of a statement; ``organisation_id`` is whose own search parameters are known.

    ``of_one_record``: the search is within a patient's record, which is read by its own index. ``selective``: some
    condition leaves few rows, whatever their type. For both the best plan is the same whatever the values are, and
    PostgreSQL must not see them: it would plan anew each time, which takes longer than the search.
    """

    values: list[Any] = field(default_factory=list)
    organisation_id: uuid.UUID | None = None
    of_one_record: bool = False
    selective: bool = False

    def add(self, value: Any) -> str:
        """The placeholder of a value."""
        self.values.append(value)
        return f"${len(self.values)}"

    def found(self, predicate: str) -> str:
        """A predicate on ``keys``; within a patient's record his own index is the way, and not that of the keys."""
        return f"(({predicate}) IS TRUE)" if self.of_one_record else predicate

    def of_types(self, kinds: Sequence[str]) -> str:
        """The predicate of the types; where few rows are left anyway the index of types would be read for nothing."""
        predicate = f"type = ANY({self.typed(list(kinds), 'text[]')})"
        return f"(({predicate}) IS TRUE)" if self.selective and not self.of_one_record else predicate

    def typed(self, value: Any, of: str) -> str:
        """The placeholder of a value of an SQL type, by which rows are chosen."""
        placeholder = f"{self.add(value)}::{of}"
        return f"(SELECT {placeholder})::{of}" if self.of_one_record or self.selective else placeholder
