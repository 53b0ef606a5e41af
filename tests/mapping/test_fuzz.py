"""Any bytes: documented errors only, and time in proportion to size."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carefolio.hl7 import HL7Error
from carefolio.local import load
from carefolio.mapping.files import map_bytes
from carefolio.mapping.serialise import dumps

_SEGMENTS = "PID PV1 PV2 ORC OBR OBX NTE SPM RXA RXE RXO TXA SCH AIP AIL NK1 IN1 GT1 DG1 AL1 IAM PR1 FT1 PRT TQ1 ZZZ"
_TYPES = ("ADT^A01", "ORU^R01", "ORM^O01", "VXU^V04", "SIU^S12", "MDM^T02", "RDE^O11", "BAR^P01", "ZZZ^Z01")
_FIELD = st.text(alphabet='^~&\\|"-+.: ABCXYZabc0123456789é\r', max_size=20)


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(_TYPES),
    lines=st.lists(st.tuples(st.sampled_from(_SEGMENTS.split()), st.lists(_FIELD, max_size=40)), max_size=12),
)
def test_any_fields_are_mapped(kind: str, lines: list[tuple[str, list[str]]]) -> None:
    text = f"MSH|^~\\&|A|B|||20261101||{kind}|1|P|2.5\rPID|1||X1^^^A^MR||A^B\r"
    text += "\r".join("|".join([name, *fields]) for name, fields in lines)
    with contextlib.suppress(HL7Error):
        dumps(map_bytes(text.encode(), "RTEST"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_mapped(raw: bytes) -> None:
    for whole in (raw, b"MSH|^~\\&|" + raw):
        with contextlib.suppress(HL7Error):
            map_bytes(whole, "RTEST")


def test_broken_real_messages_are_refused_or_mapped(shared_messages: list[Path]) -> None:
    chance = random.Random(7)
    for path in shared_messages[::6]:
        raw = bytearray(path.read_bytes()[:20_000])
        for _ in range(4):
            broken = bytearray(raw)
            for _ in range(chance.randrange(1, 30)):
                if broken:
                    broken[chance.randrange(len(broken))] = chance.choice(b'|^~&\\\r\n"0A\xff')
            with contextlib.suppress(HL7Error):
                dumps(map_bytes(bytes(broken), "RTEST"))


@pytest.mark.parametrize("filler", ["|", "^", "~", "&", "\\", "\r", "~x", "^x", "|x", "\\X41\\"])
def test_a_megabyte_of_delimiters_takes_no_longer_than_its_size(filler: str) -> None:
    """Twice the size in about twice the time: a quadratic way would take four times as long, and minutes."""

    def seconds(size: int) -> float:
        raw = load.report("9990001103", "1") + b"OBX|9|ST|1^x||" + (filler * (size // len(filler))).encode()
        started = time.perf_counter()
        with contextlib.suppress(HL7Error):
            map_bytes(raw, "RTEST")
        return time.perf_counter() - started

    assert seconds(1_000_000) < 30  # a bound against the quadratic; scripts/bench has the figure
