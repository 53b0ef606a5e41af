"""Teams and who is in them as FHIR: a CareTeam for each team, a PractitionerRole for each of its members (R4)."""

from __future__ import annotations

import uuid
from typing import Any

from carefolio.cloud.database import Pool
from carefolio.identity import sealed
from carefolio.record import resources
from carefolio.record.access import Reader
from carefolio.record.consents import GRANTEE
from carefolio.record.resources import Operation

_ODS = "https://fhir.nhs.uk/Id/ods-organization-code"
_COORDINATOR = {"coding": [{"system": "http://snomed.info/sct", "code": "768820003", "display": "Care coordinator"}]}


async def publish(pool: Pool, team: uuid.UUID, actor: str, *, left: uuid.UUID | None = None) -> None:
    """Write a team as it is now; ``left``: an account that is not in it any more.

    Called after each change: what is written follows from the tables alone, and twice the same is no new version.
    """
    row = await pool.fetchrow(
        """
        SELECT team.name, organisation_id, organisation.name AS organisation, ods_code
        FROM team JOIN organisation ON organisation.id = organisation_id WHERE team.id = $1
        """,
        team,
    )
    members = await pool.fetch(
        """
        SELECT account.id, account.name, coordinator, account_team.team_id IS NOT NULL AS there
        FROM account LEFT JOIN account_team ON account_id = account.id AND team_id = $1
        WHERE (team_id IS NOT NULL AND ended_at IS NULL) OR account.id = $2 ORDER BY account.name, account.id
        """,
        team,
        left,
    )
    organisation = {"identifier": {"system": _ODS, "value": row["ods_code"]}, "display": row["organisation"]}
    participants: list[dict[str, Any]] = []
    operations = []
    for each in members:
        who = {"reference": f"Practitioner/{each['id']}", "display": each["name"]}
        role = [_COORDINATOR] if each["coordinator"] else []
        if each["there"]:
            participants.append({"member": who} | ({"role": role} if role else {}))
        number = role_number(team, each["id"])
        made = {
            "resourceType": "PractitionerRole", "id": number, "active": each["there"], "practitioner": who,
            "organization": organisation, "specialty": [{"text": row["name"]}],
        }  # fmt: skip
        operations.append(practitioner(each["id"], each["name"]))
        operations.append(
            Operation(
                "PUT", "PractitionerRole", number, directory=True, resource=made | ({"code": role} if role else {})
            )
        )
    care_team = {
        "resourceType": "CareTeam", "id": str(team), "identifier": [{"system": GRANTEE, "value": str(team)}],
        "status": "active", "name": row["name"], "managingOrganization": [organisation],
    }  # fmt: skip
    if participants:
        care_team["participant"] = participants
    operations.append(Operation("PUT", "CareTeam", str(team), directory=True, resource=care_team))
    await resources.commit(pool, Reader(actor, row["organisation_id"]), operations)


def practitioner(account: uuid.UUID, name: str) -> Operation:
    """A professional's own Practitioner, under the number of his account."""
    given, _, family = name.rpartition(" ")
    called = {"text": name, "family": family} | ({"given": given.split()} if given.strip() else {})
    made = {"resourceType": "Practitioner", "id": str(account), "active": True, "name": [called]}
    return Operation("PUT", "Practitioner", str(account), directory=True, resource=made)


def role_number(team: uuid.UUID, account: uuid.UUID) -> str:
    """The id of a member's PractitionerRole; nobody else can make it up, and take it before."""
    return str(uuid.UUID(bytes=sealed.mac("practitioner-role", f"{team} {account}")[:16], version=4))
