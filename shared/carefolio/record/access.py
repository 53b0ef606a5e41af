"""Who reads what: one function, part of every SELECT of a resource."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from carefolio.identity import scopes


@dataclass(frozen=True, slots=True)
class Reader:
    """Who is reading. ``actor`` goes to the audit trail, such as ``client/…``; ``scope`` is an app's, None for none."""

    actor: str
    organisation_id: uuid.UUID
    scope: str | None = None

    def may(self, kind: str, right: str) -> bool:
        """Whether the scope allows ``right`` (a letter of ``cruds``) on a type: what a search goes through counts."""
        return self.scope is None or scopes.permits(self.scope, kind, right)


def readable(reader: Reader, arguments: list[Any], table: str = "resource") -> str:
    """The predicate of the rows of ``table`` that ``reader`` may read; its values are appended to ``arguments``.

    A system client reads what its organisation contributed.
    """
    arguments.append([reader.organisation_id])
    return f"{table}.organisations @> ${len(arguments)}::uuid[]"


def of_person(records: str) -> str:
    """SQL: the ids of all records of the people whose records ``records`` (an SQL array) names.

    Records that were joined are read as one; nothing in them was moved.
    """
    return (
        "ARRAY(SELECT joined.id FROM record asked JOIN record joined USING (person_id)"  # noqa: S608 - ours
        f" WHERE asked.id = ANY({records}))"
    )
