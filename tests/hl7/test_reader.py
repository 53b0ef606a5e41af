"""Reading HL7 v2: delimiters, line ends, escapes, character sets, batches, and what is refused."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import hl7apy.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carefolio.hl7 import HL7Error, Repetition, TimeFormatError, is_batch, read, read_moment, split_batch

HEADER = "MSH|^~\\&|LAB|RRV|CAREFOLIO||20260301120000||ORU^R01|id-1|P|2.4"


def message(*lines: str, end: str = "\r", header: str = HEADER) -> bytes:
    return end.join([header, *lines, ""]).encode()


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_every_line_end_separates_segments(end: str) -> None:
    read_back = read(message("PID|1||9434765919^^^NHS^NH", "PV1|1|I", end=end))
    assert [segment.name for segment in read_back.segments] == ["MSH", "PID", "PV1"]


def test_mixed_line_ends_and_a_broken_line_inside_a_field() -> None:
    raw = (HEADER + "\r\nOBX|1|FT|C^Comment||first line\nsecond line|\rNTE|1||kept\n\x1c\r").encode()
    read_back = read(raw)
    assert [segment.name for segment in read_back.segments] == ["MSH", "OBX", "NTE"]
    assert read_back.segments[1].field(5) == "first line\nsecond line"
    assert read_back.encode() == raw


def test_delimiters_are_taken_from_the_header() -> None:
    raw = b"MSH!@#$%!LAB!RRV!!!20260301!!ORU@R01!7!P!2.4\rPID!1!!123@@@RRV%1.2@MR#456@@@OTHER@PI"
    pid = read(raw).first("PID")
    assert pid is not None
    assert [r.get(1) for r in pid.repetitions(3)] == ["123", "456"]
    assert pid.get(3, 4) == "RRV"
    assert pid.get(3, 4, 2) == "1.2"


def test_a_header_without_escape_character_leaves_backslashes_alone() -> None:
    pid = read(b"MSH|^~&|A|B|||20260301||ADT^A08|1|P|2.4\rPID|||1^^^X&Y\rNTE|1||C:\\F\\temp").first("NTE")
    assert pid is not None
    assert pid.get(3) == "C:\\F\\temp"


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", "a|b^c&d~e\\f"),
        (r"one\.br\two", "one\ntwo"),
        (r"caf\XC3A9\ and \X80\5", "café and €5"),
        (r"\H\bold\N\ text", "bold text"),
        ("a lone \\ backslash", "a lone \\ backslash"),
        (r"\Zunknown\ stays", r"\Zunknown\ stays"),
        (r"ends in \E" + "\\", "ends in \\"),
    ],
)
def test_escape_sequences(escaped: str, plain: str) -> None:
    note = read(message(f"NTE|1||{escaped}")).first("NTE")
    assert note is not None
    assert note.get(3) == plain


def test_character_sets_declared_guessed_and_marked() -> None:
    declared = (HEADER + "||||||8859/15\rPID|||1||Zoë €").encode("iso8859-15")
    assert read(declared).first("PID").get(5) == "Zoë €"  # type: ignore[union-attr]
    windows = (HEADER + "\rPID|||1||O’Brien").encode("cp1252")
    assert read(windows).first("PID").get(5) == "O’Brien"  # type: ignore[union-attr]
    marked = b"\xef\xbb\xbf" + message("PID|||1||Żak")
    assert read(marked).first("PID").get(5) == "Żak"  # type: ignore[union-attr]
    assert read(marked).encode() == marked


def test_null_erases_and_is_no_repetition() -> None:
    pid = read(message('PID|||1||""|""^x')).first("PID")
    assert pid is not None
    assert pid.is_null(5)
    assert pid.repetitions(5) == []
    assert not pid.is_null(6)


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"", "MSH"),
        (b"hello", "MSH"),
        (b"PID|1", "MSH"),
        (b"MSH|", "MSH-2"),
        (b"MSH||||", "MSH-2"),
        (b"MSH|^^^^|A", "MSH-2"),
        (b"MSHA^~B&", "MSH-2"),
        (b"MSH|^~\\&|A\x00B", "MSH"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(raw: bytes, place: str) -> None:
    with pytest.raises(HL7Error) as caught:
        read(raw)
    assert str(caught.value.place) == place


def test_a_batch_is_taken_apart_and_single_messages_are_not() -> None:
    one = message("PID|||1")
    raw = b"FHS|^~\\&|A\rBHS|^~\\&|A\r" + one + one.replace(b"id-1", b"id-2") + b"BTS|2\rFTS|1\r"
    assert is_batch(raw)
    assert [read(m).control_id for m in split_batch(raw)] == ["id-1", "id-2"]
    assert b"".join(split_batch(raw)) == one + one.replace(b"id-1", b"id-2")
    assert not is_batch(one)


def test_hostile_delimiters_take_linear_time() -> None:
    raw = HEADER.encode() + b"\rPID|" + b"|^~\\&" * 200_000
    started = time.perf_counter()
    pid = read(raw).segments[1]
    assert all(not r.get(1) for number in range(len(pid.fields)) for r in pid.repetitions(number)) is not None
    assert time.perf_counter() - started < 5


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(tail: bytes) -> None:
    raw = b"MSH|^~\\&" + tail
    try:
        read_back = read(raw)
    except HL7Error:
        return
    assert read_back.encode() == raw
    for segment in read_back.segments:
        for number in range(len(segment.fields)):
            for repetition in segment.repetitions(number):
                repetition.get(1)
                repetition.whole()


def test_collected_messages_come_back_byte_for_byte(shared_messages: list[Path]) -> None:
    read_count = 0
    for path in shared_messages:
        raw = path.read_bytes()
        for single in split_batch(raw) if is_batch(raw) else [raw]:
            if single.strip():
                assert read(single).encode() == single, path.name
                read_count += 1
    assert read_count > 700


def test_values_agree_with_hl7apy(shared_messages: list[Path]) -> None:
    """hl7apy's own parser is the oracle for plain fields, on the messages that it takes."""
    compared = 0
    for path in [p for p in shared_messages if p.parent.name in ("itk-adt", "hl7apy", "google-hdh")][:25]:
        raw = path.read_bytes()
        if is_batch(raw) or raw[:9].find(b"#") > 0:
            continue
        ours = read(raw)
        try:
            theirs = hl7apy.parser.parse_message(
                "\r".join(segment.text for segment in ours.segments), find_groups=False
            )
        except Exception:
            continue
        for mine, other in zip(ours.all("PID"), theirs.children.get("PID") or [], strict=False):
            assert mine.field(5).split("~")[0].split("^")[0] == other.pid_5.pid_5_1.to_er7().split("^")[0]
            compared += 1
    assert compared >= 5


@pytest.mark.parametrize(
    ("text", "instant", "fhir"),
    [
        ("2026", datetime(2026, 1, 1, tzinfo=UTC), "2026"),
        ("202603", datetime(2026, 3, 1, tzinfo=UTC), "2026-03"),
        ("20260701", datetime(2026, 6, 30, 23, tzinfo=UTC), "2026-07-01"),
        ("202607011230", datetime(2026, 7, 1, 11, 30, tzinfo=UTC), "2026-07-01T12:30:00+01:00"),
        ("20260101123015.5", datetime(2026, 1, 1, 12, 30, 15, 500000, tzinfo=UTC), "2026-01-01T12:30:15.500+00:00"),
        ("20260701123000+0530", datetime(2026, 7, 1, 7, tzinfo=UTC), "2026-07-01T12:30:00+05:30"),
        ("20260329013000", datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "2026-03-29T02:30:00+01:00"),
    ],
)
def test_times(text: str, instant: datetime, fhir: str) -> None:
    moment = read_moment(text)
    assert (moment.instant, moment.fhir) == (instant, fhir)


@pytest.mark.parametrize("text", ["", "20", "20261", "20261301", "20260230", "2026030112:00", "abcd", "202601012400"])
def test_half_written_times_are_errors(text: str) -> None:
    with pytest.raises(TimeFormatError):
        read_moment(text)


def test_the_short_way_to_a_value_is_the_long_way(shared_messages: list[Path]) -> None:
    for path in shared_messages[::7]:
        try:
            message = read(path.read_bytes())
        except HL7Error:
            continue
        for segment in message.segments:
            for number in range(1, len(segment.fields)):
                first = segment.field(number).split(segment.delimiters.repetition, 1)[0]
                whole = Repetition(first, segment.delimiters, segment.place(number))
                for component, subcomponent in ((1, 1), (2, 1), (1, 2), (2, 2), (9, 1)):
                    assert segment.get(number, component, subcomponent) == whole.get(component, subcomponent)
