"""Batches and files (FHS, BHS, BTS, FTS; HL7 v2.8.2 chapter 2.10.3): taken apart, and answered as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

_START = re.compile(rb"(?:\A|(?<=[\r\n]))[\xef\xbb\xbf\x0b \t]*(MSH|FHS|BHS|BTS|FTS)(?=[^A-Za-z0-9\r\n])")


def is_batch(raw: bytes) -> bool:
    """Whether the bytes begin with a file or batch header, or hold more than one message."""
    starts = [match.group(1) for match in _START.finditer(raw)]
    return bool(starts) and (starts[0] in (b"FHS", b"BHS") or starts.count(b"MSH") > 1)


def split_batch(raw: bytes) -> list[bytes]:
    """The messages of a batch, each from its MSH up to the next header or trailer, bytes unchanged."""
    marks = [(match.start(1), match.group(1)) for match in _START.finditer(raw)]
    ends = [start for start, _ in marks[1:]] + [len(raw)]
    return [raw[start:end] for (start, name), end in zip(marks, ends, strict=True) if name == b"MSH"]


def batch_answer(answers: Sequence[bytes], now: datetime, control_id: str) -> bytes:
    """One batch of acknowledgements, in the order of the messages. ``now`` is aware."""
    stamp = now.strftime("%Y%m%d%H%M%S+0000")
    head = f"BHS|^~\\&|CAREFOLIO|CAREFOLIO|||{stamp}||||{control_id}\r".encode()
    return head + b"".join(answers) + f"BTS|{len(answers)}\r".encode()
