"""The 21 tables: their columns, keys and types (EMIS extract 5.0 to 8.2), from ``tables.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """``columns``: name -> type, in our order. ``required`` must be in a file's header; ``shared`` rows are nobody's.

    ``key`` is unique within a practice (EMIS's own answer: GUIDs are not unique beyond); empty where there is none.
    """

    name: str
    key: tuple[str, ...]
    columns: dict[str, str]
    required: frozenset[str]
    has_deleted: bool
    shared: bool


@lru_cache(maxsize=1)
def tables() -> dict[str, Table]:
    """Every table by its name, such as ``CareRecord_Observation``."""
    return {name: _table(name, facts) for name, facts in _loaded()["tables"].items()}


@lru_cache(maxsize=1)
def aliases() -> dict[str, str]:
    """How a column was misspelt, in small letters -> its name."""
    known: dict[str, str] = {name.casefold(): column for name, column in _loaded()["aliases"].items()}
    return known


@lru_cache(maxsize=1)
def _loaded() -> dict[str, Any]:
    text = resources.files("carefolio.emis").joinpath("tables.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _table(name: str, facts: dict[str, Any]) -> Table:
    columns: dict[str, str] = facts["columns"]
    return Table(
        name,
        tuple(facts["key"]),
        {column: kind.rstrip("?") for column, kind in columns.items()},
        frozenset(column for column, kind in columns.items() if not kind.endswith("?")),
        bool(facts["deleted"]),
        bool(facts["shared"]),
    )
