"""Acknowledgements in the original and the enhanced mode (HL7 v2.8.2 chapters 2.9.2 and 2.9.3).

AA: stored for good. AR: the sender must change the message. AE: we failed; the same message may be sent again. In the
enhanced mode a message that values MSH-15 or MSH-16 gets CA, CR or CE, unless MSH-16 alone wants an answer.
Where neither wants one it is CA, CR or CE too: HTTP carries an answer anyway, and no refusal may pass unseen.
"""

from __future__ import annotations

from datetime import datetime

from carefolio.hl7.errors import INTERNAL, HL7Error
from carefolio.hl7.reader import Message

# Control characters have no place in an answer, and none at all in the XML around it.
_SPECIAL = str.maketrans(
    {chr(code): " " for code in range(32)} | {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "&": "\\T\\"}
)
_COMMIT = {"AA": "CA", "AE": "CE", "AR": "CR"}


def acknowledge(
    message: Message | None,
    code: str,
    now: datetime,
    answer_id: str,
    error: HL7Error | None = None,
    *,
    enhanced: bool = False,
) -> bytes:
    """The ACK for ``message`` (None where nothing could be read), ending in CR.

    ``code`` is AA, AE or AR. MSA-2 echoes MSH-10; the receiver is the sender of the message; the trigger event is the
    message's own. ERR (v2.5 form) names segment, field and reason, and never a value. ``enhanced``: MSH-15 and -16
    are honoured.
    """
    if message and enhanced:
        accept, application = (message.header.get(field).strip().upper() for field in (15, 16))
        if (accept or application) and (_wanted(accept, code) or not _wanted(application, code)):
            code = _COMMIT[code]
    event = message.event if message else ""
    kind = f"ACK^{_text(event)}^ACK" if event else "ACK"
    control_id = message.control_id if message else ""
    lines = [
        answer_header(message, kind, now, answer_id),
        f"MSA|{code}|{_text(control_id)}" + (f"|{_text(str(error))}" if error else ""),
    ]
    if error:
        condition = f"{error.condition}^{error.condition_text}^HL70357"
        lines.append(f"ERR||{error.place.erl}|{condition}|E||||{_text(str(error))}")
    elif code in ("AE", "CE"):
        lines.append(f"ERR|||{INTERNAL}^Application internal error^HL70357|E")
    return ("\r".join(lines) + "\r").encode()


def answer_header(message: Message | None, kind: str, now: datetime, answer_id: str, profile: str = "") -> str:
    """MSH of an answer to ``message``; ``kind`` is its MSH-9, ``profile`` its MSH-21."""
    application = facility = ""
    processing_id, version = "P", "2.4"
    if message:
        header = message.header
        # The header's own delimiters may not be ours: values are taken out and escaped again.
        application, facility = header.get(3), header.get(4)
        processing_id, version = header.get(11) or "P", header.get(12) or "2.4"
    return (
        f"MSH|^~\\&|CAREFOLIO|CAREFOLIO|{_text(application)}|{_text(facility)}|{now:%Y%m%d%H%M%S}+0000||{kind}"
        f"|{answer_id}|{_text(processing_id)}|{_text(version)}|||||GBR|UNICODE UTF-8"
        + (f"|||{profile}" if profile else "")
    )


def _wanted(condition: str, code: str) -> bool:
    """HL7 table 0155: always, never, on error or reject, on success."""
    return condition == "AL" or (condition == "SU" and code == "AA") or (condition == "ER" and code != "AA")


def _text(value: str) -> str:
    return value.translate(_SPECIAL)
