"""What is refused before the acknowledgement, and how the acknowledgement says so."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from carefolio.hl7 import HL7Error, acknowledge, batch_answer, check, read

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PID = "PID|1||9434765919^^^NHS^NH||Jones^Ada||19510203|F"


NOW = datetime(2026, 11, 23, tzinfo=UTC)


def header(kind: str, **fields: str) -> str:
    values = {"7": "20260301120000", "10": "id-1", "11": "P"} | fields
    return f"MSH|^~\\&|PAS|RRV|CAREFOLIO||{values['7']}||{kind}|{values['10']}|{values['11']}|2.4"


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([header("ADT^A28", **{"7": ""}), PID], "MSH-7: time of the message is missing"),
        ([header("ADT^A28", **{"7": "2026030"}), PID], "MSH-7: not a time"),
        ([header("ADT^A28", **{"10": ""}), PID], "MSH-10: message control id is missing"),
        ([header(""), PID], "MSH-9: message type is missing"),
        ([header("ADT^A28")], "PID: ADT A28 needs a PID segment"),
        ([header("ADT^A28"), "PID|1||^^^NHS^NH||Jones^Ada"], "PID-3.1: no patient identifier"),
        ([header("ADT^A28"), "PID|1||1^^^X^MR||Jones^Ada||1951020"], "PID-7: not a time"),
        ([header("ADT^A01"), PID, "PV1|1|I|WARD"], "PV1-19.1: no visit number"),
        ([header("ADT^A31"), PID, "AL1|1||^^X"], "AL1-3: neither code nor text"),
        ([header("ADT^A31"), PID, "AL1|1||1^Nuts", "AL1|2||1^Nuts"], "AL1[2]-3: the same allergy"),
        ([header("ORU^R01"), PID], "OBR: a result message has an OBR"),
        ([header("ORU^R01"), PID, "OBR|1|||FBC"], "OBR-3: no filler order number"),
        ([header("ORU^R01"), PID, "ORC|RE||F1", "OBR|1||F2|FBC"], "OBR-3: filler order number differs"),
        ([header("ORU^R01"), PID, "OBR|1||F1|"], "OBR-4.1: no service code"),
        ([header("ORU^R01"), PID, "OBR|1||F1|FBC", "OBX|1|NM|HB||132"], "OBX-14: no observation time"),
        ([header("ORU^R01"), PID, "OBR|1||F1|FBC|||20260301", "OBX|1|NM|A||1", "OBX|2|NM|||2"], "OBX[2]-3.1: no obs"),
        ([header("ORU^R01"), PID, "OBR|1||F1|FBC|||20260301", "OBX|1||A||1"], "OBX-2: a value without its data type"),
    ],
)
def test_refusals_name_the_place(lines: list[str], error: str) -> None:
    with pytest.raises(HL7Error) as caught:
        check(read("\r".join(lines).encode()), NOW, production=True)
    assert str(caught.value).startswith(error)


def test_only_production_messages_in_production() -> None:
    training = read((header("ADT^A28", **{"11": "T"}) + "\r" + PID).encode())
    check(training, NOW, production=False)
    with pytest.raises(HL7Error, match="MSH-11"):
        check(training, NOW, production=True)


def test_types_without_rules_pass_with_a_good_header() -> None:
    check(read(header("ORM^O01").encode()), NOW, production=True)


def test_acceptance_echoes_the_control_id_and_turns_sender_and_receiver_round() -> None:
    answer = read(acknowledge(read((header("ADT^A28") + "\r" + PID).encode()), "AA", NOW, "ack-1"))
    msa = answer.first("MSA")
    assert msa is not None
    assert (msa.get(1), msa.get(2)) == ("AA", "id-1")
    assert (answer.header.get(5), answer.header.get(6)) == ("PAS", "RRV")
    assert answer.type == "ACK^A28"
    assert answer.first("ERR") is None


def test_refusal_names_segment_field_and_reason_without_patient_data() -> None:
    refused = read((header("ADT^A28") + "\rPID|1||1^^^X^MR||Unusualname^Ada||1951020").encode())
    with pytest.raises(HL7Error) as caught:
        check(refused, NOW, production=True)
    text = acknowledge(refused, "AR", NOW, "ack-1", caught.value)
    error = read(text).first("ERR")
    assert error is not None
    assert error.field(2) == "PID^1^7^1"
    assert error.get(3) == "102"
    assert "PID-7" in error.get(8)
    assert b"Unusualname" not in text
    assert b"1951020" not in text


def test_a_hostile_control_id_cannot_forge_segments() -> None:
    forged = read(header("ADT^A28", **{"10": r"x\X0D\MSA\F\AE"}).encode())
    answer = read(acknowledge(forged, "AA", NOW, "ack-1"))
    assert [segment.name for segment in answer.segments] == ["MSH", "MSA"]
    assert acknowledge(None, "AR", NOW, "ack-1").startswith(b"MSH|")


def test_a_batch_answer_holds_one_acknowledgement_per_message() -> None:
    one = acknowledge(None, "AR", NOW, "a")
    answer = read(batch_answer([one, one], NOW, "b").replace(b"BHS", b"MSH", 1))
    assert [segment.name for segment in answer.segments].count("MSA") == 2
    assert answer.segments[-1].text == "BTS|2"
