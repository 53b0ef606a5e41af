"""Who reads what, and as of when: part of every SELECT of a resource."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from carefolio.cloud.database import Connection
from carefolio.fhir.definitions import resource_types
from carefolio.identity import scopes, sessions
from carefolio.record.arguments import Arguments, SearchError
from carefolio.record.labels import SEXUAL
from carefolio.record.search_terms import condition


@dataclass(frozen=True, slots=True)
class Reader:
    """Who is reading. ``actor`` goes to the audit trail, such as ``client/…``; ``scope`` is an app's, None for none.

    ``at`` is the first moment after the one as of which he reads; None for now. ``own`` is the record of a patient who
    reads (and contributes: then ``organisation_id`` is its number too), ``patient`` the one that his app was opened
    for. ``account`` is a person's, None where a system reads; ``grant`` what he allowed the app. ``acts_for``: the
    patient in whose name a carer acts.
    """

    actor: str
    organisation_id: uuid.UUID
    scope: str | None = None
    at: datetime | None = None
    own: uuid.UUID | None = None
    patient: uuid.UUID | None = None
    account: uuid.UUID | None = None
    acts_for: uuid.UUID | None = None
    grant: uuid.UUID | None = None

    @classmethod
    def of_person(
        cls,
        account: uuid.UUID,
        organisation: uuid.UUID | None,
        own: uuid.UUID | None,
        *,
        client: str = "",
        scope: str | None = None,
        at: datetime | None = None,
        patient: uuid.UUID | None = None,
        grant: uuid.UUID | None = None,
    ) -> Reader:
        """A professional of an organisation, the patient of his ``own`` record, or a carer, who may have neither.

        A patient contributes as himself, under the number of his record, and a carer under the patient's; of himself
        alone he contributed nothing.
        """
        actor = f"account/{account} client/{client}" if client else f"account/{account}"
        acts_for = patient if organisation is None and patient != own else None
        return cls(actor, own or organisation or account, scope, at, own, patient, account, acts_for, grant)

    def told(self) -> dict[str, Any]:
        """As it is kept, for what is done later in his name."""
        numbers = {name: str(value) if (value := getattr(self, name)) else None for name in _NUMBERS}
        return {"actor": self.actor, "scope": self.scope, "at": self.at.isoformat() if self.at else None} | numbers

    @classmethod
    def of_told(cls, told: dict[str, Any]) -> Reader:
        """Who was kept."""
        numbers = {name: uuid.UUID(told[name]) if told.get(name) else None for name in _NUMBERS}
        at = datetime.fromisoformat(told["at"]) if told["at"] else None
        return cls(told["actor"], scope=told["scope"], at=at, **numbers)  # type: ignore[arg-type]

    @property
    def is_professional(self) -> bool:
        return self.account is not None and self.own is None and self.organisation_id != self.account

    @property
    def contributor(self) -> uuid.UUID:
        """Under whose number he writes."""
        return self.acts_for or self.organisation_id

    def may(self, kind: str, right: str) -> bool:
        """Whether the scope allows ``right`` (a letter of ``cruds``) on a type: what a search goes through counts."""
        return self.scope is None or scopes.permits(self.scope, kind, right)

    def confined(self, kind: str, right: str) -> uuid.UUID | None:
        """The record outside of which he writes nothing of a type; None where his organisation is the only bound."""
        if self.account is not None and not self.is_professional:
            # A carer for whom no record was chosen writes nowhere.
            return self.acts_for or self.own or uuid.UUID(int=0)
        if self.scope is None or "patient" not in scopes.contexts(self.scope):
            return None
        free = scopes.permits(self.scope, kind, right, "user")
        return None if free else self.patient or uuid.UUID(int=0)

    @property
    def is_restricted(self) -> bool:
        """Whether a scope has a query, so that not all of a type is open."""
        return bool(scopes.restrictions(self.scope or ""))


_NUMBERS = ("organisation_id", "own", "patient", "account", "acts_for", "grant")
_COLUMNS = (
    "patient_id, organisations, team_id, label, confidential, available_from, content, keys, date_from, date_to, "
    "texts, ranges"
)


# What is nobody's and everybody needs, to read his own: who did it, where, with what.
SHARED = (
    "CareTeam", "Device", "HealthcareService", "Location", "Medication", "Organization", "Practitioner",
    "PractitionerRole",
)  # fmt: skip


def readable(reader: Reader, arguments: list[Any], table: str = "resource") -> str:
    """The predicate of the rows of ``table`` that ``reader`` may read; its values are appended to ``arguments``.

    Not frozen, and his own, or contributed by him, or shared with him (domain rules A8); of that what the scopes of the
    app find. A system client reads what its organisation contributed, a professional what his teams did. (Values that
    must not matter to a plan are in subqueries, so that plans are the same for everybody and need not be made anew.)
    """
    contexts = scopes.contexts(reader.scope or "")
    # An app that was opened for his own record: what others share with him is another's.
    alone = reader.own is not None and reader.own == reader.patient and set(contexts) == {"patient"}
    if reader.own is not None:
        predicate = _of_record(reader.own, arguments, table)
        predicate += f" AND ({table}.available_from IS NULL OR {table}.available_from <= now())"
    else:
        arguments.append([reader.organisation_id])
        predicate = f"{table}.organisations @> (SELECT ${len(arguments)}::uuid[])"
    if reader.account is not None and not alone:
        arguments.append(reader.account)
        account = f"(SELECT ${len(arguments)}::uuid)"
        if reader.own is None:
            predicate += f" AND {_of_his_teams(account, table)} OR {_is_directory(table)}"
        predicate = f"({predicate} OR {_shared_with(account, table)})"
    predicate += f" AND {_not_frozen(table)}"
    found = [_in_context(context, len(contexts) > 1, reader, arguments, table) for context in contexts]
    if not all(found):
        # One of the contexts is all that he may read.
        return predicate
    return f"{predicate} AND ({' OR '.join(f'({each})' for each in found)})" if found else predicate


def _of_his_teams(account: str, table: str) -> str:
    """Of what his organisation contributed that of his own teams, and of none: not that of its other teams."""
    return f"""({table}.team_id IS NULL OR {table}.team_id <> ALL(ARRAY(
        SELECT team.id FROM account JOIN team USING (organisation_id) WHERE account.id = {account}
        EXCEPT SELECT team_id FROM account_team WHERE account_id = {account}
    )))"""  # noqa: S608 - ours


def _is_directory(table: str) -> str:
    shared = ", ".join(f"'{kind}'" for kind in SHARED)
    return f"{table}.patient_id IS NULL AND {table}.type IN ({shared})"


def _shared_with(account: str, table: str) -> str:
    """What a sharing with a person, or with one of his teams, opens (carefolio.record.sharing).

    What follows from a contribution counts where the patient has said nothing of the grantee, in any record of his. Who
    the patient is, is told with any of his labels, and to a team that contributed though nothing is shared. A carer
    waits for what the patient waits for; of somebody from 11 to 15 he sees nothing about sexual health; and what
    was shared with him before the patient was 16 he does not see from then on.
    """
    return f"""EXISTS (
        SELECT FROM record asked JOIN record known USING (person_id) JOIN sharing s ON s.record_id = known.id
        WHERE asked.id = {table}.patient_id AND s.ended_at IS NULL AND s.grantee = ANY(ARRAY(
            SELECT account_team.team_id FROM account_team JOIN account living ON living.id = account_id
            WHERE account_id = {account} AND living.ended_at IS NULL
            UNION ALL SELECT living.id FROM account living WHERE living.id = {account} AND living.ended_at IS NULL
        )) AND (s.kind <> 'glass' OR EXISTS ({IS_OPEN})) AND (
            {table}.type = 'Patient' AND s.contributed
            OR asked.sharing_off_at IS NULL AND s.ends_at > now() AND ({table}.type = 'Patient' AND s.labels <> '{{}}'
                OR {table}.label = ANY(s.labels) AND (s.confidential OR NOT {table}.confidential))
            AND (s.kind <> 'implied' OR NOT EXISTS (
                SELECT FROM record every JOIN sharing word ON word.record_id = every.id
                WHERE every.person_id = asked.person_id AND word.grantee = s.grantee AND word.kind = 'explicit'
                AND word.ended_at IS NULL
            ))
        ) AND (s.role <> 'carer' OR ({table}.available_from IS NULL OR {table}.available_from <= now())
            AND NOT EXISTS (
                SELECT FROM record kin JOIN resource child ON child.id = kin.id AND child.type = 'Patient'
                WHERE kin.person_id = asked.person_id AND ({table}.label = '{SEXUAL}'
                    AND child.date_from > now() - interval '16 years' AND child.date_from <= now() - interval '11 years'
                    OR s.created_at < child.date_from + interval '16 years'
                    AND child.date_from <= now() - interval '16 years')
            ))
    )"""  # noqa: S608 - ours


# A session in which a glass was broken, as carefolio.identity.sessions.find knows it: not ended, and used lately.
IS_OPEN = f"""
    SELECT FROM session open WHERE open.number = s.session_number AND open.ended_at IS NULL
    AND open.seen_at > now() - interval '{sessions.IDLE} seconds'
    AND open.created_at > now() - interval '{sessions.ABSOLUTE} seconds'
"""


def _not_frozen(table: str) -> str:
    return f"""({table}.patient_id IS NULL OR {table}.patient_id <> ALL(ARRAY(
        SELECT frozen.id FROM record frozen WHERE frozen.frozen_at IS NOT NULL
    )))"""  # noqa: S608 - ours


def _in_context(context: str, several: bool, reader: Reader, arguments: list[Any], table: str) -> str:
    """What the scopes of a context find; empty for everything."""
    scope = reader.scope or ""
    conditions = []
    types = scopes.readable_types(scope, context) if several else None
    if types is not None:
        # A type's name has letters alone (scopes.read_scope).
        conditions.append(f"{table}.type IN ({', '.join(repr(kind) for kind in types)})" if types else "false")
    if context == "patient" and (several or reader.own is None or reader.patient != reader.own):
        conditions.append(_of_record(reader.patient, arguments, table) if reader.patient else "false")
    for kind, queries in scopes.restrictions(scope, context).items():
        allowed = " OR ".join(f"({_found(kind, query, reader, arguments)})" for query in queries)
        conditions.append(f"({table}.type <> '{kind}' OR {allowed})")
    return " AND ".join(conditions)


def _of_record(record: uuid.UUID, arguments: list[Any], table: str) -> str:
    """What is in the records of a person, and what it refers to that is nobody's."""
    arguments.append([record])
    records = f"${len(arguments)}::uuid[]"
    shared = ", ".join(f"'{kind}'" for kind in SHARED)
    # Whose it is now: a join that was undone opens nothing, however far back somebody reads.
    return f"""({table}.patient_id = ANY({joined_now(records)})
        OR {table}.patient_id IS NULL AND {table}.type IN ({shared}) AND {table}.organisations && coalesce((
            SELECT contributed.organisations FROM resource contributed WHERE contributed.id = ({records})[1]
        ), '{{}}'))"""  # noqa: S608 - ours


def _found(kind: str, query: str, reader: Reader, arguments: list[Any]) -> str:
    """What the query of a scope finds. Raises SearchError where it is none that a client can be registered with."""
    made = Arguments(values=arguments, organisation_id=reader.organisation_id)
    return " AND ".join(condition(kind, name, value, made) for name, value in parse_qsl(query, keep_blank_values=True))


def check_scope(text: str) -> None:
    """Raise SearchError where the query of a scope is not one of plain parameters of its type."""
    scope = scopes.read_scope(text)
    if scope is not None and scope.type not in resource_types() and scope.type not in scopes.OURS | {"*"}:
        raise SearchError(text, f"{scope.type} is no resource type")
    if scope is not None and scope.query:
        for name, value in parse_qsl(scope.query, keep_blank_values=True) or [("?", "")]:
            condition(scope.type, name, value, Arguments())


async def may_write_into(
    connection: Connection, reader: Reader, kind: str, method: str, patient: uuid.UUID | None
) -> bool:
    """Whether the reader may write a resource of a type into the record of ``patient`` (None: into nobody's)."""
    bound = reader.confined(kind, {"POST": "c", "DELETE": "d"}.get(method, "u"))
    if bound is None or patient == bound:
        return True
    return patient is not None and bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM record a JOIN record b USING (person_id) WHERE a.id = $1 AND b.id = $2)",
            bound,
            patient,
        )
    )


async def team_of(connection: Connection, account: uuid.UUID) -> uuid.UUID | None:
    """The team for which a professional writes: his only one; with several of them, it is the organisation."""
    found: uuid.UUID | None = await connection.fetchval(
        "SELECT CASE WHEN count(*) = 1 THEN (array_agg(team_id))[1] END FROM account_team WHERE account_id = $1",
        account,
    )
    return found


async def are_open(connection: Connection, reader: Reader, patients: Sequence[uuid.UUID]) -> bool:
    """Whether a person sees these patients: then he may add to their records."""
    arguments: list[Any] = [list(patients)]
    found = await connection.fetchval(
        f"SELECT count(*) FROM resource WHERE id = ANY($1) AND type = 'Patient' AND {readable(reader, arguments)}",  # noqa: S608
        *arguments,
    )
    return bool(found == len(set(patients)))


async def hidden(connection: Connection, reader: Reader, numbers: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Of what is there, what a scope with a query does not open: a write would answer with it."""
    arguments: list[Any] = [numbers]
    shown = await connection.fetch(
        f"SELECT id FROM resource WHERE id = ANY($1) AND {readable(reader, arguments)}",  # noqa: S608 - ours
        *arguments,
    )
    return set(numbers) - {row["id"] for row in shown}


def opened(reader: Reader, arguments: list[Any], found: str = "found") -> str:
    """SQL: a table ``opened`` of what is in the rows of ``found`` (id, version), by PostgreSQL's own rule.

    The second lock (migration 0008): where a statement chose more than ``readable`` allows, nothing of it is told.
    """
    arguments.append(reader.organisation_id)
    chosen = f"ARRAY(SELECT id FROM {found}), ARRAY(SELECT version FROM {found}), (SELECT ${len(arguments)}::uuid)"  # noqa: S608
    if reader.account is None and reader.own is None:
        return f"open_contents({chosen}) AS opened"
    arguments += [reader.own, reader.account]
    last = len(arguments)
    return f"open_contents({chosen}, (SELECT ${last - 1}::uuid), (SELECT ${last}::uuid)) AS opened"


def with_contents(found: str, reader: Reader, arguments: list[Any], also: str = "") -> str:
    """SQL: what the statement ``found`` (id, version, type, patient_id) chose, as id, type and content.

    ``also``: further columns of it, each with a comma before it. Each patient of whom something is in it gets an
    audit line.
    """
    arguments += [reader.actor, reader.organisation_id]
    actor, organisation = f"${len(arguments) - 1}::text", f"${len(arguments)}::uuid"
    return f"""
        WITH found AS ({found}), noted AS (
            INSERT INTO audit (actor, organisation_id, action, patient_id, resource_type)
            SELECT {actor}, {organisation}, 'read', patient_id, string_agg(DISTINCT type, ',') FROM found
            WHERE patient_id IS NOT NULL GROUP BY patient_id
        ) SELECT id, type, opened.content{also} FROM found JOIN {opened(reader, arguments)} USING (id, version)
    """  # noqa: S608 - ours


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


# What a SELECT of versions is from, of which each is named by its id and version.
VERSIONS = f"""(
    SELECT id, type, version, last_updated, {_COLUMNS} FROM resource
    UNION ALL
    SELECT id, type, version, valid_from, {_COLUMNS} FROM resource_history WHERE content IS NOT NULL
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
