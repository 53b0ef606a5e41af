"""Teams of an organisation: what they see of their patients, how what they contribute is labelled, who is in them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from carefolio.cloud.database import Connection, Pool

ROLES = ("administrator", "privacy-officer")
# Of the whole installation, not of an organisation: given by the command alone.
OPERATOR = "operator"
_LONGEST_NAME = 200


class TeamError(Exception):
    """What was asked for cannot be; the text is for an administrator. ``missing``: there is no such thing."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Team:
    """``label`` of what it contributes where nothing says another; ``labels`` of what it sees of its patients."""

    id: uuid.UUID
    name: str
    label: str
    labels: tuple[str, ...]
    members: int


@dataclass(frozen=True, slots=True)
class Member:
    """A professional in a team; a ``coordinator`` says who else is."""

    account: uuid.UUID
    name: str
    coordinator: bool


_SELECT = """
    SELECT team.*, (SELECT count(*) FROM account_team JOIN account ON account.id = account_id
                    WHERE team_id = team.id AND ended_at IS NULL) AS members FROM team
"""


def _team(row: asyncpg.Record) -> Team:
    return Team(row["id"], row["name"], row["label"], tuple(row["labels"]), row["members"])


async def of_organisation(pool: Pool, organisation: uuid.UUID) -> list[Team]:
    """Its teams, in the order of their names."""
    return [_team(row) for row in await pool.fetch(f"{_SELECT} WHERE organisation_id = $1 ORDER BY name", organisation)]


async def find(pool: Pool | Connection, organisation: uuid.UUID, team: uuid.UUID) -> Team:
    """One of its teams. Raises TeamError."""
    row = await pool.fetchrow(f"{_SELECT} WHERE organisation_id = $1 AND id = $2", organisation, team)
    if row is None:
        raise TeamError("the organisation has no such team", missing=True)
    return _team(row)


async def add(pool: Pool, organisation: uuid.UUID, actor: str, name: str, label: str, labels: Sequence[str]) -> Team:
    """A new team. Raises TeamError."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise TeamError(f"name: 1 to {_LONGEST_NAME} characters")
    try:
        number = await pool.fetchval(
            "INSERT INTO team (organisation_id, name, label, labels) VALUES ($1, $2, $3, $4) RETURNING id",
            organisation, name, label, list(labels),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise TeamError(f"there is a team {name} already") from None
    await _note(pool, organisation, actor, f"team {number} added: {label}, sees {', '.join(labels)}")
    return await find(pool, organisation, number)


async def change(
    pool: Pool, organisation: uuid.UUID, actor: str, team: uuid.UUID, label: str, labels: Sequence[str]
) -> Team:
    """Its labels, from now on: patients whom it sees by what it contributed are seen by the new ones too.

    Raises TeamError.
    """
    async with pool.acquire() as connection, connection.transaction():
        await find(connection, organisation, team)
        await connection.execute("UPDATE team SET label = $2, labels = $3 WHERE id = $1", team, label, list(labels))
        await connection.execute(
            "UPDATE sharing SET labels = $2 WHERE grantee = $1 AND kind = 'implied' AND ended_at IS NULL",
            team,
            list(labels),
        )
        await _note(connection, organisation, actor, f"team {team} changed: {label}, sees {', '.join(labels)}")
    return await find(pool, organisation, team)


async def members(pool: Pool, organisation: uuid.UUID, team: uuid.UUID) -> list[Member]:
    """Who is in a team. Raises TeamError."""
    await find(pool, organisation, team)
    rows = await pool.fetch(
        """
        SELECT account.id, account.name, coordinator FROM account_team JOIN account ON account.id = account_id
        WHERE team_id = $1 AND ended_at IS NULL ORDER BY account.name, account.id
        """,
        team,
    )
    return [Member(row["id"], row["name"], row["coordinator"]) for row in rows]


async def people(pool: Pool, organisation: uuid.UUID, team: uuid.UUID) -> list[tuple[uuid.UUID, str]]:
    """Professionals of the organisation who are not in a team: number and name."""
    rows = await pool.fetch(
        """
        SELECT id, name FROM account WHERE organisation_id = $1 AND ended_at IS NULL AND id NOT IN (
            SELECT account_id FROM account_team WHERE team_id = $2
        ) ORDER BY name LIMIT 500
        """,
        organisation,
        team,
    )
    return [(row["id"], row["name"]) for row in rows]


async def join(
    pool: Pool, organisation: uuid.UUID, actor: str, team: uuid.UUID, account: uuid.UUID, *, coordinator: bool
) -> None:
    """Take a professional of the organisation into a team, or change what he is there. Raises TeamError."""
    await find(pool, organisation, team)
    done = await pool.fetchval(
        """
        INSERT INTO account_team (account_id, team_id, coordinator)
        SELECT id, $2, $3 FROM account WHERE id = $1 AND organisation_id = $4 AND ended_at IS NULL
        ON CONFLICT (account_id, team_id) DO UPDATE SET coordinator = excluded.coordinator RETURNING true
        """,
        account, team, coordinator, organisation,
    )  # fmt: skip
    if not done:
        raise TeamError("the organisation has no such professional", missing=True)
    as_what = " as coordinator" if coordinator else ""
    await _note(pool, organisation, actor, f"account {account} joins team {team}{as_what}")


async def leave(pool: Pool, organisation: uuid.UUID, actor: str, team: uuid.UUID, account: uuid.UUID) -> None:
    """Take somebody out of a team; what it sees he sees no more, from the next request on. Raises TeamError."""
    await find(pool, organisation, team)
    if not await pool.fetchval(
        "DELETE FROM account_team WHERE account_id = $1 AND team_id = $2 RETURNING true", account, team
    ):
        raise TeamError("he is not in this team", missing=True)
    await _note(pool, organisation, actor, f"account {account} leaves team {team}")


async def may_administer(pool: Pool, account: uuid.UUID, team: uuid.UUID | None) -> bool:
    """Whether a professional says who is in a team: as an administrator of its organisation, or its coordinator."""
    return bool(
        await pool.fetchval(
            """
            SELECT 'administrator' = ANY(roles) OR EXISTS (
                SELECT FROM account_team WHERE account_id = account.id AND team_id = $2 AND coordinator
            ) FROM account WHERE id = $1 AND ended_at IS NULL
            """,
            account,
            team,
        )
    )


async def set_roles(
    pool: Pool,
    organisation: uuid.UUID,
    actor: str,
    account: uuid.UUID,
    roles: Sequence[str],
    *,
    by_operator: bool = False,
) -> None:
    """The roles of a professional in his organisation; the operator's is given and taken ``by_operator`` alone.

    Raises TeamError.
    """
    if unknown := [role for role in roles if role not in ROLES and not (by_operator and role == OPERATOR)]:
        raise TeamError(f"roles: {unknown[0][:40]} is none of {', '.join(ROLES)}")
    if not await pool.fetchval(
        """
        UPDATE account SET roles = $3 || CASE WHEN $4 OR NOT $5 = ANY(roles) THEN '{}' ELSE ARRAY[$5] END
        WHERE id = $1 AND organisation_id = $2 AND ended_at IS NULL RETURNING true
        """,
        account,
        organisation,
        sorted(set(roles)),
        by_operator,
        OPERATOR,
    ):
        raise TeamError("the organisation has no such professional", missing=True)
    await _note(pool, organisation, actor, f"account {account} has the roles {', '.join(sorted(set(roles))) or 'none'}")


async def _note(connection: Pool | Connection, organisation: uuid.UUID, actor: str, what: str) -> None:
    """Who may see what changes with it: it is in the trail."""
    await connection.execute(
        "INSERT INTO audit (actor, organisation_id, action, query) VALUES ($1, $2, 'team', $3)",
        actor,
        organisation,
        what,
    )
