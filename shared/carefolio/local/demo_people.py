"""The demonstration's people: three who sign in, what they share, wrote and looked at; all of them fictional."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from carefolio.cloud.database import Pool
from carefolio.identity import accounts, teams
from carefolio.identity.accounts import Account
from carefolio.record import conversations, directory, entries, items, sharing
from carefolio.record.access import Reader
from carefolio.record.labels import GENERAL
from carefolio.view.sections import KINDS

_RENAL, _ACUTE = "Renal clinic", "Acute medicine"
# Days ago, and what Gwen measured at home.
_PRESSURES = ((41, "148", "92"), (34, "144", "90"), (27, "146", "88"), (20, "139", "86"), (13, "136", "84"),
              (6, "133", "83"), (1, "131", "82"))  # fmt: skip
_LETTER = """Whitcombe Demonstration Hospital
Renal clinic

Dear Gwen,

thank you for coming to the clinic. Your kidneys work a little less well than a year ago, which is
common at your age and with your blood pressure. Please go on measuring it at home, and take your
tablets in the morning. We check your blood again in three months.

Dr Asha Verity
"""


async def play(pool: Pool, organisation: uuid.UUID, patient: uuid.UUID) -> None:
    """Make the accounts, the teams, and what there is between them."""
    renal = await teams.add(pool, organisation, "demonstration", _RENAL, GENERAL, [GENERAL])
    acute = await teams.add(pool, organisation, "demonstration", _ACUTE, GENERAL, [GENERAL])
    async with pool.acquire() as connection, connection.transaction():
        gwen = await accounts.add(connection, kind="patient", name="Gwen Aldersley", email="gwen@patient.example",
                                  record=patient, verified=True)  # fmt: skip
        asha = await accounts.add(connection, kind="professional", name="Dr Asha Verity",
                                  email="asha.verity@whitcombe.example", organisation=organisation, teams=[renal.id],
                                  verified=True)  # fmt: skip
        morgan = await accounts.add(connection, kind="professional", name="Morgan Reyes",
                                    email="morgan.reyes@whitcombe.example", organisation=organisation,
                                    teams=[acute.id], verified=True)  # fmt: skip
    await teams.set_roles(pool, organisation, "demonstration", morgan.id,
                          ["administrator", "privacy-officer", teams.OPERATOR], by_operator=True)  # fmt: skip
    for team in (renal, acute):
        await directory.publish(pool, team.id, "demonstration")
    owner, doctor = _reader(gwen), _reader(asha)
    await sharing.share(pool, owner, patient, renal.id, sharing.TEAM, [GENERAL])
    now = datetime.now(UTC)
    for days, systolic, diastolic in _PRESSURES:
        await entries.measure(pool, owner, patient, "blood-pressure", [systolic, diastolic],
                              at=now - timedelta(days=days, hours=2))  # fmt: skip
    await entries.symptom(pool, owner, patient, "Tired in the afternoon", severity=4, at=now - timedelta(days=9))
    await entries.note_down(pool, owner, patient, "Walked to the shop and back without a rest.",
                            at=now - timedelta(days=3))  # fmt: skip
    await entries.add_file(pool, doctor, patient, "Letter from the renal clinic", _LETTER.encode(),
                           at=now - timedelta(days=12))  # fmt: skip
    await entries.plan(pool, doctor, patient, "Blood pressure and kidneys", "To keep the blood pressure below 135/85.",
                       ["Measure blood pressure once a week", "Blood test in three months"])  # fmt: skip
    asked = await conversations.begin(pool, owner, patient, renal.id, "My tablets",
                                      "May I take the new tablet in the evening instead?")  # fmt: skip
    await conversations.reply(pool, doctor, asked.id, "In the morning is better: in the evening it may wake you.")
    await items.of_kinds(pool, doctor, patient, KINDS, count=20)


def _reader(account: Account) -> Reader:
    return Reader.of_person(account.id, account.organisation_id, account.record_id, patient=account.record_id)
