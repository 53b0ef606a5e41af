"""What can be wrong with a message, with the place where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a message: segment, its occurrence (from 1), and as deep as is known; ``PID-3[2].4``."""

    segment: str
    occurrence: int = 1
    field: int = 0
    repetition: int = 0
    component: int = 0

    def __str__(self) -> str:
        text = self.segment if self.occurrence == 1 else f"{self.segment}[{self.occurrence}]"
        if self.field:
            text += f"-{self.field}"
        if self.repetition:
            text += f"[{self.repetition}]"
        if self.component:
            text += f".{self.component}"
        return text

    @property
    def erl(self) -> str:
        """The place as ERR-2 (data type ERL, HL7 v2.5 chapter 2.A.28) wants it."""
        parts = [self.segment, str(self.occurrence)]
        if self.field:
            parts += [str(self.field), str(self.repetition or 1)]
            if self.component:
                parts.append(str(self.component))
        return "^".join(parts)


# HL7 table 0357, message error condition codes.
SEGMENT_SEQUENCE = "100"
REQUIRED_FIELD_MISSING = "101"
DATA_TYPE = "102"
TABLE_VALUE = "103"
UNSUPPORTED_PROCESSING_ID = "202"
UNKNOWN_KEY = "204"
DUPLICATE_KEY = "205"
INTERNAL = "207"

_CONDITIONS = {
    SEGMENT_SEQUENCE: "Segment sequence error",
    REQUIRED_FIELD_MISSING: "Required field missing",
    DATA_TYPE: "Data type error",
    TABLE_VALUE: "Table value not found",
    UNSUPPORTED_PROCESSING_ID: "Unsupported processing id",
    UNKNOWN_KEY: "Unknown key identifier",
    DUPLICATE_KEY: "Duplicate key identifier",
    INTERNAL: "Application internal error",
}


class HL7Error(Exception):
    """A message that the sender must change. ``reason`` never repeats a value of the message."""

    def __init__(self, condition: str, place: Place, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.condition = condition
        self.place = place
        self.reason = reason

    @property
    def condition_text(self) -> str:
        return _CONDITIONS[self.condition]
