"""The report that a sender gets while it is set up."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from carefolio.hl7 import HL7Error, is_batch, read, split_batch
from carefolio.hl7.conformance import Finding, conformance

NOW = datetime(2026, 11, 23, tzinfo=UTC)
HEAD = "MSH|^~\\&|A|B|||20261101||ADT^A31|1|P|2.4\rEVN||20261101\r"


def report(text: str) -> list[Finding]:
    return conformance(read(text.encode()), NOW, production=False)


@pytest.mark.parametrize(
    ("text", "severity", "place"),
    [
        (HEAD + "PID|1||A1||X^Y||19700230", "error", "PID-7"),
        (HEAD + "PID|1||A1||X^Y\rPID|2||A2||X^Y", "error", "PID[2]"),
        (HEAD.replace("|2.4", "|9.9") + "PID|1||A1||X^Y", "warning", "MSH-12"),
        (HEAD + "PID|1||A1||X^Y||||||||||||||||||||||||||||||||||||||beyond", "warning", "PID-43"),
        (HEAD + "PID|1||A1^^^A^MR^F^20200101^20300101^X^Y^Z^1^2||X^Y", "warning", "PID-3"),
        (HEAD + "PID|1||A1||X^Y||19700101~19700102", "warning", "PID-7"),
        (HEAD + "PID|1||A1\rXXX|1", "warning", "XXX"),
        (HEAD + "PID|1||A1||X^Y\rZPI|1", "information", "ZPI"),
    ],
)
def test_findings(text: str, severity: str, place: str) -> None:
    assert (severity, place) in [(finding.severity, finding.place) for finding in report(text)]


def test_errors_come_first_and_all_of_them() -> None:
    found = report("MSH|^~\\&|A|B|||x||ORU^R01||P|2.4\rPID|1\rOBR|1\rOBX|1|NM|||5")
    errors = [finding for finding in found if finding.severity == "error"]
    assert found[: len(errors)] == errors
    assert {"MSH-7", "MSH-10", "PID-3.1", "OBR-3", "OBR-4.1", "OBX-3.1", "OBX-14"} <= {e.place for e in errors}


def test_no_finding_repeats_a_value() -> None:
    found = report(HEAD + "PID|1||SECRETNUMBER^^^^^^^^^^^^^^||Secretname||notadate")
    assert found
    assert not any("ecret" in finding.text or "notadate" in finding.text for finding in found)


def test_any_shared_message_gets_a_report(shared_messages: list[Path]) -> None:
    for path in shared_messages[::4]:
        raw = path.read_bytes()
        for single in split_batch(raw) if is_batch(raw) else [raw]:
            try:
                message = read(single)
            except HL7Error:
                continue
            assert len(conformance(message, NOW, production=False)) <= 1000
