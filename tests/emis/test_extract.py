"""Names, headers, rows, values and batches of EMIS extracts."""

from __future__ import annotations

import csv
import io
import json
import uuid
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import SHARED

from carefolio.emis import values
from carefolio.emis.batches import Sharing, alerts, batches, next_batch
from carefolio.emis.errors import ExtractError
from carefolio.emis.names import Kind, read_name
from carefolio.emis.rows import Rows, text_of
from carefolio.emis.tables import tables

AGREEMENT = uuid.UUID("11111111-2222-3333-4444-555555555555")
OBSERVATION = tables()["CareRecord_Observation"]


@pytest.fixture(scope="module")
def facts() -> tuple[dict[str, Any], dict[str, Any]]:
    """The collected headers and types, which do not lie in this repository."""
    folder = SHARED / "emis"
    if not folder.is_dir():
        pytest.skip("the collected EMIS headers are not on this machine")
    return json.loads((folder / "columns.json").read_text()), json.loads((folder / "details.json").read_text())


def test_every_table_and_column_is_known(facts: tuple[dict[str, Any], dict[str, Any]]) -> None:
    columns, details = facts
    assert set(tables()) == set(columns) - {"_meta"}
    for name, table in tables().items():
        assert list(table.columns)[: len(columns[name])] == columns[name]
        assert list(table.key) == (details["primary_keys"][name] or [])
        assert table.has_deleted == details["deleted_column"][name]


def test_headers_of_every_generation_are_bound(facts: tuple[dict[str, Any], dict[str, Any]]) -> None:
    columns, details = facts
    for name, table in tables().items():
        old = details["headers_v5_4"].get(name, columns[name])
        for header in (columns[name], old, list(reversed(columns[name])), [*columns[name], "NewIn9"]):
            bound = Rows(table, [",".join(f'"{column}"' for column in header)]).header
            assert set(bound.columns) >= table.required
    for name, change in details["headers_v5_0_differences"].items():
        kept = [column for column in details["headers_v5_4"][name] if column not in change["missing"]]
        header = [*kept, *change["extra_or_misspelt"]]
        Rows(tables()[name], [",".join(header)])


@pytest.mark.parametrize(
    ("name", "table", "kind", "processing"),
    [
        (f"delta_291_CareRecord_Observation_20260211164536_{AGREEMENT}.csv.gpg", "CareRecord_Observation", Kind.DELTA,
         (291, 291)),
        (f"bulk_1_Admin_Patient_20260211164536_{{{str(AGREEMENT).upper()}}}.csv", "Admin_Patient", Kind.BULK, (1, 1)),
        (f"291_Agreements_SharingOrganisation_20150211164536_{AGREEMENT}.csv.gpg", "Agreements_SharingOrganisation",
         Kind.UNSAID, (291, 291)),
        (f"IM1/sftp/x/20150211164536/12-15_Coding_DrugCode_20150211164536_{AGREEMENT}.csv.gpg", "Coding_DrugCode",
         Kind.UNSAID, (12, 15)),
    ],
)  # fmt: skip
def test_names_of_both_generations(name: str, table: str, kind: Kind, processing: tuple[int, int]) -> None:
    read = read_name(name)
    assert read is not None
    assert (read.table, read.kind, read.processing, read.agreement) == (table, kind, processing, AGREEMENT)
    assert read.encrypted == name.endswith(".gpg")


@pytest.mark.parametrize(
    "name",
    ["", "readme.txt", f"delta_1_Made_Up_20260211164536_{AGREEMENT}.csv",
     f"x_1_Admin_Patient_20260211164536_{AGREEMENT}.csv",
     f"delta_1_Admin_Patient_20261311164536_{AGREEMENT}.csv", f"delta_9-1_Admin_Patient_20260211164536_{AGREEMENT}.csv",
     f"delta_1_Admin_Patient_20260211164536_{AGREEMENT}.csv.gpg.part", "delta_1_Admin_Patient_20260211164536_x.csv"],
)  # fmt: skip
def test_what_is_no_part_of_an_extract(name: str) -> None:
    assert read_name(name) is None


def written(header: list[str], rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerows([header, *rows])
    return text.getvalue().encode("utf-8")


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40),
                         min_size=30, max_size=30), max_size=8))  # fmt: skip
def test_what_is_written_is_read(data: list[list[str]]) -> None:
    """Line breaks, quotes and commas inside values, with and without a byte order mark."""
    header = list(OBSERVATION.columns)
    rows = [(row + [""] * len(header))[: len(header)] for row in data]
    for mark in (b"", b"\xef\xbb\xbf"):
        read = list(Rows(OBSERVATION, text_of(io.BytesIO(mark + written(header, rows)))))
        assert [list(row) for row in read] == rows


def test_columns_are_found_by_name() -> None:
    header = ["Extra", *reversed([name for name in OBSERVATION.columns if name in OBSERVATION.required])]
    rows = Rows(OBSERVATION, text_of(io.BytesIO(written(header, [[f"v{at}" for at in range(len(header))]]))))
    assert rows.header.extra == ("Extra",)
    assert "AssociatedText" in rows.header.absent
    (row,) = list(rows)
    named = dict(zip(OBSERVATION.columns, row, strict=True))
    assert named["AssociatedText"] == ""
    assert named["ObservationGuid"] == f"v{header.index('ObservationGuid')}"
    assert "v0" not in row


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        (b"", "CareRecord_Observation", "empty"),
        (b'"A","B"\r\n', "CareRecord_Observation", "lacks"),
        (b",".join([b'"X"'] * 300) + b"\r\n", "CareRecord_Observation", "more than 200"),
        (b'HEADER\r\n"too","few"\r\n', "row 2", "2 values for"),
        (b'HEADER\r\n"no end', "row 2", "unexpected end"),
        (b"HEADER\r\n\xff\xfe\r\n", "row 1", "not UTF-8"),
        (b'HEADER\r\n"' + b"x" * 200_000 + b'"\r\n', "row 2", "longer than any"),
    ],
)
def test_rubbish_is_named_by_its_place_and_never_quoted(content: bytes, place: str, reason: str) -> None:
    header = ",".join(OBSERVATION.columns).encode()
    with pytest.raises(ExtractError) as error:
        list(Rows(OBSERVATION, text_of(io.BytesIO(content.replace(b"HEADER", header)))))
    assert place in error.value.place
    assert reason in error.value.reason
    assert "xxx" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("2026-03-01", "U"), ""),
        (("", "YMD"), ""),
        (("2026-03-01", "Y"), "2026"),
        (("2026-03-01", "YM"), "2026-03"),
        (("2026-03-01", "YMD"), "2026-03-01"),
        (("2026-03-01", "YMD", "10:00:00"), "2026-03-01"),
        (("2026-03-01", "YMDT", "10:00:00"), "2026-03-01T10:00:00+00:00"),
        (("2026-07-01", "YMDT", "10:00:00"), "2026-07-01T10:00:00+01:00"),
        (("2026-10-25", "YMDT", "01:30:00"), "2026-10-25T01:30:00+01:00"),
        (("2026-03-01 00:00:00", ""), "2026-03-01"),
    ],
)
def test_dates_are_as_exact_as_they_are_known(arguments: tuple[str, ...], found: str) -> None:
    assert values.effective(*arguments) == found


def test_values() -> None:
    assert values.guid("{11111111-2222-3333-4444-55555555555a}") == "11111111-2222-3333-4444-55555555555A"
    assert [values.boolean(text) for text in ("TRUE", "true", "1", "", "False", "0")] == [True] * 3 + [False] * 3
    assert str(values.number("0.50")) == "0.50"
    assert values.number("") is None
    for wrong in (lambda: values.guid("x"), lambda: values.boolean("maybe"), lambda: values.number("NaN"),
                  lambda: values.number("1,5"), lambda: values.day("yesterday"),
                  lambda: values.effective("2026-13-01", "YMD"),
                  lambda: values.effective("2026-01-01", "X")):  # fmt: skip
        with pytest.raises(ValueError):
            wrong()


def files(stamp: str, kind: str = "delta", but: str = "") -> list[tuple[str, Any]]:
    names = [f"{kind}_7_{table}_{stamp}_{AGREEMENT}.csv.gpg" for table in tables() if table != but]
    return [(name, read_name(name)) for name in names]


def test_batches_are_taken_in_order_and_never_skipped() -> None:
    whole, half, last = "20260101020000", "20260102020000", "20260103020000"
    found = batches(files(last) + files(half, but="Admin_Patient") + files(whole, "bulk"), AGREEMENT)
    assert [(batch.id, batch.is_whole) for batch in found] == [(whole, True), (half, False), (last, True)]
    assert found[0].kind is Kind.BULK
    first = next_batch(found, None)
    assert first is not None
    assert first.id == whole
    # Half a batch holds up what comes after it.
    assert next_batch(found, first.extracted_at) is None
    assert next_batch(found, datetime(2026, 1, 2, 2)) is found[2]  # noqa: DTZ001


def test_a_batch_that_contradicts_itself_is_refused() -> None:
    good = files("20260101020000")
    for wrong in ([*good, good[3]], [*good[1:], files("20260101020000", "bulk")[0]]):
        with pytest.raises(ExtractError):
            batches(wrong, AGREEMENT)
    with pytest.raises(ExtractError):
        batches(good, uuid.uuid4())


def test_an_operator_is_told_what_changed() -> None:
    on, off = Sharing(True, False, False), Sharing(True, True, False)
    told = alerts(
        {"A": on, "B": on, "C": on}, {"A": on, "B": off, "D": on}, {"A": "A1", "B": "B1"}, {"A": "A2", "B": "B1"}
    )
    assert told == ["practice B: disabled is true now", "practice C has vanished", "practice D has appeared",
                    "practice A: its ODS code was A1 and is A2 now"]  # fmt: skip
    assert on.is_loaded
    assert not off.is_loaded
