"""People as messages say them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg
from tests.conftest import Hospital, unique


@dataclass
class Person:
    """What a PID says."""

    number: str = ""
    local: str = ""
    family: str = "Fictional"
    given: str = "Robin"
    born: str = "19700101"
    status: str = ""

    @property
    def pid(self) -> str:
        status = f"{{status:{self.status}}}" if self.status else ""
        numbers = [f"{self.number}^^^NHS^NH{status}"] if self.number else []
        numbers += [f"{self.local}^^^T^MR"] if self.local else []
        return f"PID|1||{'~'.join(numbers)}||{self.family}^{self.given}||{self.born}|F|||1 Road^^Town^^AB1 2CD"

    def message(self, event: str = "A31", time: str = "20261101090000", rest: str = "") -> str:
        visit = rest or f"PV1|1|I|W^1^1||||||||||||||||V{unique()}"
        return f"{header(f'ADT^{event}', time)}EVN|{event}|{time}\n{self.pid}\n{visit}"

    def result(self, filler: str, value: str, status: str = "F", rest: str = "") -> str:
        return (
            f"{header('ORU^R01')}{self.pid}\n"
            f"OBR|1||{filler}|B^Blood|||20261101080000{'|' * 18}{status}{rest}\n"
            f"OBX|1|NM|HB^Haemoglobin^LOCAL||{value}|g/L|||||{status if status != 'R' else 'F'}"
        )


def header(kind: str, time: str = "20261101090000") -> str:
    return f"MSH|^~\\&|PAS|T|||{time}||{kind}|{unique()}|P|2.4\n"


async def end(hospital: Hospital, message: str) -> tuple[str, str | None]:
    """Post a message and wait for its end: status and reason."""
    row = await hospital.accepted(message)
    return row["status"], row["reason"]


async def becomes(hospital: Hospital, message_id: object, status: str) -> asyncpg.Record:
    """Wait until a message that was queued again has this status."""
    for _ in range(200):
        row = await hospital.database.fetchrow("SELECT * FROM message WHERE id = $1", message_id)
        if row["status"] == status:
            return row
        await asyncio.sleep(0.05)
    raise AssertionError(f"{row['status']}: {row['reason']}")
