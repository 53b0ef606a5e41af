"""Read, check and answer HL7 v2. Pure: bytes in, values out; knows no FHIR and no database."""

from carefolio.hl7.acknowledgement import acknowledge
from carefolio.hl7.batch import batch_answer, is_batch, split_batch
from carefolio.hl7.errors import HL7Error, Place
from carefolio.hl7.reader import Delimiters, Message, Repetition, Segment, read
from carefolio.hl7.rules import check
from carefolio.hl7.time import Moment, TimeFormatError, read_moment

__all__ = [
    "Delimiters",
    "HL7Error",
    "Message",
    "Moment",
    "Place",
    "Repetition",
    "Segment",
    "TimeFormatError",
    "acknowledge",
    "batch_answer",
    "check",
    "is_batch",
    "read",
    "read_moment",
    "split_batch",
]
