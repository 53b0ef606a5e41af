"""Who reads what, and as of when: part of every SELECT of a resource."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from carefolio.fhir.definitions import resource_types
from carefolio.identity import scopes
from carefolio.record.arguments import Arguments, SearchError
from carefolio.record.search_terms import condition


@dataclass(frozen=True, slots=True)
class Reader:
    """Who is reading. ``actor`` goes to the audit trail, such as ``client/…``; ``scope`` is an app's, None for none.

    ``at`` is the first moment after the one as of which he reads; None for now.
    """

    actor: str
    organisation_id: uuid.UUID
    scope: str | None = None
    at: datetime | None = None

    def may(self, kind: str, right: str) -> bool:
        """Whether the scope allows ``right`` (a letter of ``cruds``) on a type: what a search goes through counts."""
        return self.scope is None or scopes.permits(self.scope, kind, right)

    @property
    def is_restricted(self) -> bool:
        """Whether a scope has a query, so that not all of a type is open."""
        return bool(scopes.restrictions(self.scope or ""))


_COLUMNS = "patient_id, organisations, label, available_from, content, keys, date_from, date_to, texts, ranges"


def readable(reader: Reader, arguments: list[Any], table: str = "resource") -> str:
    """The predicate of the rows of ``table`` that ``reader`` may read; its values are appended to ``arguments``.

    A system client reads what its organisation contributed, and of that what its scopes find. (The value is a subquery,
    so that plans are the same for everybody and need not be made anew.)
    """
    arguments.append([reader.organisation_id])
    predicate = f"{table}.organisations @> (SELECT ${len(arguments)}::uuid[])"
    for kind, queries in scopes.restrictions(reader.scope or "").items():
        allowed = " OR ".join(f"({_found(kind, query, reader, arguments)})" for query in queries)
        predicate += f" AND ({table}.type <> '{kind}' OR {allowed})"
    return predicate


def _found(kind: str, query: str, reader: Reader, arguments: list[Any]) -> str:
    """What the query of a scope finds. Raises SearchError where it is none that a client can be registered with."""
    made = Arguments(values=arguments, organisation_id=reader.organisation_id)
    return " AND ".join(condition(kind, name, value, made) for name, value in parse_qsl(query, keep_blank_values=True))


def check_scope(text: str) -> None:
    """Raise SearchError where the query of a scope is not one of plain parameters of its type."""
    scope = scopes.read_scope(text)
    if scope is not None and scope.query:
        if scope.type not in resource_types():
            raise SearchError(text, f"{scope.type} is no resource type")
        for name, value in parse_qsl(scope.query, keep_blank_values=True) or [("?", "")]:
            condition(scope.type, name, value, Arguments())


def resources(reader: Reader, arguments: list[Any]) -> str:
    """What a SELECT of resources is from: the table, or the record as it stood at ``reader.at``, under its name."""
    if reader.at is None:
        return "resource"
    arguments.append(reader.at)
    at = f"${len(arguments)}::timestamptz"
    return f"""(
        SELECT id, type, version, last_updated, {_COLUMNS} FROM resource WHERE last_updated < {at}
        UNION ALL
        SELECT id, type, version, valid_from, {_COLUMNS} FROM resource_history
        WHERE valid_from < {at} AND valid_to >= {at} AND content IS NOT NULL
    ) AS resource"""  # noqa: S608 - ours


def of_person(records: str, reader: Reader, arguments: list[Any]) -> str:
    """SQL: the ids of all records of the people whose records ``records`` (an SQL array) names.

    Records that were joined are read as one; nothing in them was moved. As of an earlier moment they are those that
    were joined then.
    """
    if reader.at is None:
        return joined_now(records)
    arguments.append(reader.at)
    then = f"created_at < ${len(arguments)}::timestamptz AND coalesce(undone_at, 'infinity') >= ${len(arguments)}"
    return f"""ARRAY(
        WITH RECURSIVE joined (id) AS (
            SELECT unnest({records})
            UNION
            SELECT CASE WHEN link.survivor = joined.id THEN link.other ELSE link.survivor END
            FROM joined JOIN record_link link ON joined.id IN (link.survivor, link.other) AND {then}
        ) SELECT id FROM joined
    )"""  # noqa: S608 - ours


def joined_now(records: str) -> str:
    """SQL: ``of_person`` as of now."""
    return (
        "ARRAY(SELECT joined.id FROM record asked JOIN record joined USING (person_id)"  # noqa: S608 - ours
        f" WHERE asked.id = ANY({records}))"
    )
