"""The practices of an agreement: who shares, who is new or gone, and their places and people in the record."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

from carefolio.cloud.database import Connection
from carefolio.emis.batches import Sharing, alerts
from carefolio.emis.chunks import NOBODY, NUMBERS
from carefolio.emis.tables import tables
from carefolio.extracts.agreements import Agreement
from carefolio.extracts.rows import values_of
from carefolio.mapping.emis import ColumnError, Context, Line, Made, location, organisation, people, schedule
from carefolio.mapping.emis.model import guid as as_guid
from carefolio.record.ids import derived_text
from carefolio.record.many import Feed, there, write_many
from carefolio.record.rows import deletion, make_row

_NOBODY = uuid.UUID(NOBODY)
# Tables whose rows are no patient's, and what they become.
SHARED = {
    "Admin_Organisation": ("Organization",),
    "Admin_Location": ("Location",),
    "Admin_UserInRole": ("Practitioner", "PractitionerRole"),
    "Appointment_Session": ("Schedule",),
}
_NAMES = {number: name for name, number in NUMBERS.items()}


async def know(
    connection: Connection, agreement: Agreement, sharing: dict[str, list[bool]], organisations: dict[str, list[str]]
) -> list[str]:
    """Write down what a batch says of its practices; returns what an operator must know (rules B7, 5 and 6)."""
    await connection.execute(
        "INSERT INTO extract_practice (agreement_id, guid) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        agreement.id,
        _NOBODY,
    )
    rows = await connection.fetch(
        "SELECT * FROM extract_practice WHERE agreement_id = $1 AND guid <> $2", agreement.id, _NOBODY
    )
    before = {str(row["guid"]): Sharing(row["activated"], row["disabled"], row["deleted"]) for row in rows}
    now = {guid: Sharing(*flags) for guid, flags in sharing.items()}
    ods_before = {str(row["guid"]): row["ods_code"] for row in rows if row["ods_code"]}
    told = alerts(before, now, ods_before, {guid: ods for guid, (ods, _) in organisations.items() if ods})
    if not before:
        # The first batch: everybody is new, which is no news.
        told = [line for line in told if "has appeared" not in line]
    for guid, flags in now.items():
        ods, name = organisations.get(guid, ["", ""])
        # A code that has flipped is not taken over by itself.
        code = ods_before.get(guid) or ods
        owner = await _organisation(connection, agreement, code, name) if flags.is_loaded else None
        await connection.execute(
            """
            INSERT INTO extract_practice AS p (agreement_id, guid, organisation_id, ods_code, name, activated,
                                               disabled, deleted)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
            ON CONFLICT (agreement_id, guid) DO UPDATE SET
                organisation_id = coalesce(p.organisation_id, excluded.organisation_id), ods_code = excluded.ods_code,
                name = CASE WHEN excluded.name = '' THEN p.name ELSE excluded.name END,
                activated = excluded.activated, disabled = excluded.disabled, deleted = excluded.deleted
            """,
            agreement.id, uuid.UUID(guid), owner, code, name, flags.activated, flags.disabled, flags.deleted,
        )  # fmt: skip
        if flags.is_loaded and not code:
            told.append(f"practice {guid} has no ODS code: its rows wait")
        elif flags.is_loaded and owner is None and _is_allowed(agreement, code):
            told.append(f"practice {guid} has the ODS code of {code}, an organisation that no extract has loaded: "
                        "its rows wait until the agreement names it (--practice)")  # fmt: skip
    # A practice that has vanished is frozen as it stands.
    await connection.execute(
        """
        UPDATE extract_practice SET activated = false
        WHERE agreement_id = $1 AND guid <> $2 AND NOT guid = ANY($3)
        """,
        agreement.id,
        _NOBODY,
        [uuid.UUID(guid) for guid in now],
    )
    return told


async def _organisation(connection: Connection, agreement: Agreement, code: str, name: str) -> uuid.UUID | None:
    """The organisation of a practice whose rows may be loaded; None where the agreement does not allow it.

    A file must not write as a hospital by claiming its code: whoever was here before is loaded where an operator has
    named him.
    """
    if not code or not _is_allowed(agreement, code):
        return None
    await connection.execute(
        "INSERT INTO organisation (ods_code, name) VALUES ($1, $2) ON CONFLICT DO NOTHING", code, name or code
    )
    found: uuid.UUID | None = await connection.fetchval(
        """
        SELECT id FROM organisation o WHERE ods_code = $1
        AND ($2 OR created_at = now() OR EXISTS (SELECT FROM extract_practice p WHERE p.organisation_id = o.id))
        """,
        code,
        code in agreement.practices,
    )
    return found


def _is_allowed(agreement: Agreement, code: str) -> bool:
    return not agreement.practices or code in agreement.practices


async def loaded(connection: Connection, agreement: Agreement) -> dict[str, Any]:
    """The practices whose rows are loaded, by GUID: activated, not disabled, allowed. Nobody's is among them."""
    rows = await connection.fetch(
        """
        SELECT * FROM extract_practice WHERE agreement_id = $1
        AND (guid = $2 OR activated AND NOT disabled AND NOT deleted AND organisation_id IS NOT NULL)
        """,
        agreement.id,
        _NOBODY,
    )
    allowed = set(agreement.practices)
    return {
        str(row["guid"]): row for row in rows if row["guid"] == _NOBODY or not allowed or row["ods_code"] in allowed
    }


async def shared_context(
    connection: Connection, agreement: Agreement, practice: str, number: int, own: Callable[[str, str], str],
    people_named: set[str],
) -> Context:  # fmt: skip
    """What rows need for the rows of a practice, which name these people (UserInRoleGuids)."""
    users = await connection.fetch(
        """
        SELECT r.id::text, CASE WHEN r.practice = $1 THEN '' ELSE p.guid::text END AS practice FROM extract_row r
        JOIN extract_practice p ON p.number = r.practice
        WHERE r.practice IN (SELECT q.number FROM extract_practice q WHERE q.agreement_id = $2) AND r.patient = $3
          AND r.kind = $4 AND r.id = ANY($5::text[]::uuid[]) ORDER BY practice DESC
        """,
        number,
        agreement.id,
        _NOBODY,
        NUMBERS["Admin_UserInRole"],
        sorted(people_named),
    )
    # A GUID is one user within a practice; whom the practice does not know is another's.
    scopes = {row["id"]: row["practice"] or practice for row in users}
    about = str(agreement.guid)

    def shared(kind: str, key: str) -> str:
        if kind == "Schedule":
            scope = practice
        elif kind in ("Practitioner", "PractitionerRole"):
            scope = scopes.get(key, practice)
        else:
            scope = ""
        return derived_text(kind, about, "emis", scope, key)

    return Context(practice, own, shared, {}, {})


def people_in(lines: Iterable[Line]) -> set[str]:
    """The UserInRoleGuids that rows name, as far as they are GUIDs."""
    found: set[str] = set()
    for line in lines:
        for at in _people_columns(line.table):
            found.add(line.values[at])
    return {text[1:37].lower() if text[:1] == "{" else text.lower() for text in found if len(text) in (36, 38)}


@lru_cache(maxsize=50)
def _people_columns(table: str) -> tuple[int, ...]:
    return tuple(at for at, name in enumerate(tables()[table].columns) if name.endswith("UserInRoleGuid"))


async def write_shared(
    connection: Connection, batch: Any, subject: dict[str, Any], agreement: Agreement
) -> dict[str, Any]:
    """A set of rows that are no patient's: (practice's number, table's number, ids)."""
    number, kind, ids = subject["practice"], subject["kind"], [uuid.UUID(each) for each in subject["ids"]]
    practice = await connection.fetchrow("SELECT guid, organisation_id FROM extract_practice WHERE number = $1", number)
    owners = sorted(
        row["organisation_id"] for row in (await loaded(connection, agreement)).values() if row["organisation_id"]
    )
    if not owners:
        return {}
    if practice["organisation_id"]:
        owners = [practice["organisation_id"]]
    table = _NAMES[kind]
    rows = await connection.fetch(
        """
        SELECT id::text AS key, file, number, state, row FROM extract_row
        WHERE practice = $1 AND patient = $2 AND kind = $3 AND id = ANY($4)
        """,
        number, _NOBODY, kind, ids,
    )  # fmt: skip
    links = await _links(connection, agreement, kind, ids)
    named = {row["key"] for row in rows} if table == "Admin_UserInRole" else set()
    named |= {as_guid(user) for users in links.values() for user in users} if table == "Appointment_Session" else set()
    context = await shared_context(connection, agreement, str(practice["guid"]), number, _no_patient, named)
    made: list[Made] = []
    gone: list[tuple[str, str]] = []
    parked = 0
    for row in rows:
        if row["state"]:
            gone += [(of, row["key"]) for of in SHARED[table]]
            continue
        line = Line(table, row["key"], values_of(row["row"]), row["file"], row["number"])
        try:
            made += _made(context, table, line, links.get(row["key"], []))
        except (ColumnError, ValueError):
            parked += 1
    counts = await _written(connection, agreement, batch, context, made, gone, owners)
    return counts | {"practice": str(practice["guid"]), "table": table, "parked": parked}


def _no_patient(kind: str, key: str) -> str:
    raise ValueError(f"{kind} is a patient's")


def _made(context: Context, table: str, line: Line, links: list[str]) -> list[Made]:
    if table == "Admin_Organisation":
        return [organisation(context, line)]
    if table == "Admin_Location":
        return [location(context, line, links)]
    if table == "Admin_UserInRole":
        return people(context, line)
    return [schedule(context, line, links)]


async def _links(connection: Connection, agreement: Agreement, kind: int, ids: list[uuid.UUID]) -> dict[str, list[str]]:
    """Of locations their organisations, the main one first; of sessions their users."""
    link = {
        NUMBERS["Admin_Location"]: ("Admin_OrganisationLocation", 0),
        NUMBERS["Appointment_Session"]: ("Appointment_SessionUser", 1),
    }.get(kind)
    if link is None:
        return {}
    return await links_of(connection, agreement, link[0], link[1], ids)


async def links_of(
    connection: Connection, agreement: Agreement, table: str, at: int, ids: list[uuid.UUID]
) -> dict[str, list[str]]:
    """The GUIDs in column ``at`` of a link table's rows, by what they belong to."""
    rows = await connection.fetch(
        """
        SELECT parent::text, row FROM extract_row r JOIN extract_practice p ON p.number = r.practice
        WHERE p.agreement_id = $1 AND p.guid = $2 AND r.patient = $2 AND r.kind = $3 AND r.parent = ANY($4)
          AND r.state = 0
        """,
        agreement.id, _NOBODY, NUMBERS[table], ids,
    )  # fmt: skip
    found: dict[str, list[tuple[bool, str]]] = {}
    for row in rows:
        values = values_of(row["row"])
        # IsMainLocation; users have no such column, and keep the order of their GUIDs.
        is_main = table == "Admin_OrganisationLocation" and values[2].strip().lower() in ("true", "1")
        found.setdefault(row["parent"], []).append((not is_main, values[at]))
    return {parent: [value for _, value in sorted(each)] for parent, each in found.items()}


async def _written(
    connection: Connection,
    agreement: Agreement,
    batch: Any,
    context: Context,
    made: list[Made],
    gone: list[tuple[str, str]],
    owners: list[uuid.UUID],
) -> dict[str, int]:
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    by_id = {context.shared_number(each.type, each.key): each for each in made}
    left = {context.shared_number(kind, key): kind for kind, key in gone}
    known = await there(connection, [*by_id, *left])
    sources = await files_of(connection, {each.line.file for each in made})
    rows = []
    for number, each in by_id.items():
        current = known.get(uuid.UUID(number))
        source = sources[each.line.file]
        row = make_row(
            uuid.UUID(number), each.resource, current, patient_id=None,
            organisations=sorted({*owners, *(current.organisations if current else ())}), source=source, now=now,
            place=f"{each.line.table} row {each.line.number}",
        )  # fmt: skip
        if row is not None:
            rows.append((row, source))
    some = next(iter(sources.values()), uuid.UUID(int=0))
    for number, kind in left.items():
        current = known.get(uuid.UUID(number))
        if current is not None and current.live:
            rows.append((deletion(uuid.UUID(number), kind, current), some))
    feed = Feed(f"agreement/{agreement.name}", owners[0], f"extract {batch['stamp']}")
    await write_many(connection, feed, rows, now)
    return counted([row for row, _ in rows])


async def files_of(connection: Connection, numbers: set[int]) -> dict[int, uuid.UUID]:
    """The ids of files by their numbers."""
    rows = await connection.fetch("SELECT id, number FROM extract_file WHERE number = ANY($1)", list(numbers))
    return {row["number"]: row["id"] for row in rows}


def counted(rows: list[Any]) -> dict[str, int]:
    """How many were created, updated, removed."""
    return {
        "created": sum(1 for row in rows if row.version == 1),
        "updated": sum(1 for row in rows if row.version > 1 and row.content is not None),
        "removed": sum(1 for row in rows if row.content is None),
    }
