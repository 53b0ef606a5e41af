"""Acknowledgements in the original mode (HL7 v2.8.2 chapter 2.9.2).

AA: stored for good. AR: the sender must change the message. AE: we failed; the same message may be sent again.
"""

from __future__ import annotations

from datetime import datetime

from carefolio.hl7.errors import INTERNAL, HL7Error
from carefolio.hl7.reader import Message

# Control characters have no place in an answer, and none at all in the XML around it.
_SPECIAL = str.maketrans(
    {chr(code): " " for code in range(32)} | {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "&": "\\T\\"}
)


def acknowledge(
    message: Message | None,
    code: str,
    now: datetime,
    answer_id: str,
    error: HL7Error | None = None,
) -> bytes:
    """The ACK for ``message`` (None where nothing could be read), ending in CR.

    MSA-2 echoes MSH-10; the receiver is the sender of the message; the trigger event is the message's own. ERR
    (v2.5 form) names segment, field and reason, and never a value.
    """
    stamp = now.strftime("%Y%m%d%H%M%S+0000")
    if message:
        header = message.header
        # The header's own delimiters may not be ours: values are taken out and escaped again.
        application, facility = header.get(3), header.get(4)
        control_id, event = header.get(10).strip(), message.event
        processing_id, version = header.get(11) or "P", header.get(12) or "2.4"
    else:
        application = facility = control_id = event = ""
        processing_id, version = "P", "2.4"
    kind = f"ACK^{_text(event)}^ACK" if event else "ACK"
    lines = [
        f"MSH|^~\\&|CAREFOLIO|CAREFOLIO|{_text(application)}|{_text(facility)}|{stamp}||{kind}|{answer_id}"
        f"|{_text(processing_id)}|{_text(version)}|||||GBR|UNICODE UTF-8",
        f"MSA|{code}|{_text(control_id)}" + (f"|{_text(str(error))}" if error else ""),
    ]
    if error:
        condition = f"{error.condition}^{error.condition_text}^HL70357"
        lines.append(f"ERR||{error.place.erl}|{condition}|E||||{_text(str(error))}")
    elif code == "AE":
        lines.append(f"ERR|||{INTERNAL}^Application internal error^HL70357|E")
    return ("\r".join(lines) + "\r").encode()


def _text(value: str) -> str:
    return value.translate(_SPECIAL)
