"""REST: an organisation's teams, who is in them, and its people's roles.

For the organisation's own client, its administrators and (members only) the coordinators of a team.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, RootModel
from starlette.exceptions import HTTPException

from carefolio.doors.consent import Label, Said
from carefolio.doors.rest import PROFESSIONAL, SYSTEM, Call, Endpoint
from carefolio.identity import teams
from carefolio.identity.teams import Member, Team, TeamError
from carefolio.record import directory
from carefolio.record.sharing import SharingError

T = TypeVar("T")


class TeamLabels(Said):
    """The label of what a team contributes, and those of what it sees of its patients."""

    label: Label = "general"
    labels: list[Label] = Field(default=["general"])


class NewTeam(TeamLabels):
    """A team."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class Place(Said):
    """What somebody is in a team."""

    coordinator: bool = False


class Roles(Said):
    """Somebody's roles in his organisation."""

    roles: list[Literal["administrator", "privacy-officer"]]


class TeamShown(RootModel[Team]):
    """A team."""


class Teams(BaseModel):
    """An organisation's teams, in the order of their names."""

    teams: list[Team]


class Members(BaseModel):
    """Who is in a team."""

    members: list[Member]


async def list_teams(call: Call) -> Any:
    return {"teams": await teams.of_organisation(call.pool, call.reader.organisation_id)}


async def add_team(call: Call) -> Any:
    await administrator(call)
    said: NewTeam = call.body
    made = await _told(teams.add(call.pool, *_who(call), said.name, said.label, said.labels))
    await directory.publish(call.pool, made.id, call.reader.actor)
    return made


async def change_team(call: Call) -> Any:
    await administrator(call)
    said: TeamLabels = call.body
    return await _told(teams.change(call.pool, *_who(call), call.number("team"), said.label, said.labels))


async def show_team(call: Call) -> Any:
    return await _told(teams.find(call.pool, call.reader.organisation_id, call.number("team")))


async def list_members(call: Call) -> Any:
    return {"members": await _told(teams.members(call.pool, call.reader.organisation_id, call.number("team")))}


async def put_member(call: Call) -> None:
    team, account = call.number("team"), call.number("account")
    await administrator(call, team)
    await _told(teams.join(call.pool, *_who(call), team, account, coordinator=call.body.coordinator))
    await directory.publish(call.pool, team, call.reader.actor)


async def delete_member(call: Call) -> None:
    team, account = call.number("team"), call.number("account")
    await administrator(call, team)
    await _told(teams.leave(call.pool, *_who(call), team, account))
    await directory.publish(call.pool, team, call.reader.actor, left=account)


async def put_roles(call: Call) -> None:
    await administrator(call)
    await _told(teams.set_roles(call.pool, *_who(call), call.number("account"), call.body.roles))


def _who(call: Call) -> tuple[uuid.UUID, str]:
    """Whose teams they are, and who changes them."""
    return call.reader.organisation_id, call.reader.actor


async def administrator(call: Call, team: uuid.UUID | None = None) -> None:
    """Raise SharingError where a person is no administrator of his organisation (nor a coordinator of ``team``)."""
    account = call.reader.account
    if account is not None and not await teams.may_administer(call.pool, account, team):
        raise SharingError("this is for an administrator of the organisation", forbidden=True)


async def _told(work: Awaitable[T]) -> T:
    try:
        return await work
    except TeamError as error:
        raise HTTPException(404 if error.missing else 422, str(error)) from None


_WHO = (PROFESSIONAL, SYSTEM)
_ONE = "/teams/{team}"
ENDPOINTS = (
    Endpoint("GET", "/teams", list_teams, "Team", "s", "the organisation's teams", _WHO, answer=Teams),
    Endpoint("POST", "/teams", add_team, "Team", "c", "a new team", _WHO, body=NewTeam, answer=TeamShown, status=201),
    Endpoint("GET", _ONE, show_team, "Team", "r", "a team", _WHO, answer=TeamShown),
    Endpoint("PUT", _ONE, change_team, "Team", "u", "a team's labels", _WHO, body=TeamLabels, answer=TeamShown),
    Endpoint("GET", f"{_ONE}/members", list_members, "Team", "r", "who is in a team", _WHO, answer=Members),
    Endpoint("PUT", f"{_ONE}/members/{{account}}", put_member, "Team", "u", "take somebody in", _WHO, body=Place),
    Endpoint("DELETE", f"{_ONE}/members/{{account}}", delete_member, "Team", "u", "take somebody out", _WHO),
    Endpoint("PUT", "/accounts/{account}/roles", put_roles, "Team", "u", "somebody's roles in the organisation", _WHO,
             body=Roles),
)  # fmt: skip
