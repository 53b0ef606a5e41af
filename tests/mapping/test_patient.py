"""Whose message it is: identifiers, and what may be believed of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carefolio.hl7 import read
from carefolio.mapping import Source, map_message
from carefolio.mapping.model import PatientIdentifier
from carefolio.mapping.patient import nhs_number

NHS = "https://fhir.nhs.uk/Id/nhs-number"


def identifiers(pid: str) -> list[PatientIdentifier]:
    raw = f"MSH|^~\\&|PAS|T|||20261101||ADT^A31|1|P|2.4\r{pid}\r"
    return map_message(read(raw.encode()), Source("RTEST")).identifiers


@pytest.mark.parametrize("text", ["9990001103", "999 000 1103", "999-000-1103"])
def test_a_well_formed_nhs_number(text: str) -> None:
    assert nhs_number(text) == "9990001103"


@pytest.mark.parametrize(
    "text", ["9990001104", "", "999000110", "99900011033", "0000000000", "1111111111", "٩٩٩٠٠٠١١٠٣"]
)
def test_what_is_no_nhs_number(text: str) -> None:
    assert nhs_number(text) is None


@given(st.text(max_size=15))
def test_any_text_is_judged_without_harm(text: str) -> None:
    assert nhs_number(text) in (None, text.replace(" ", "").replace("-", ""))


@given(st.integers(0, 999_999_999))
def test_one_wrong_digit_is_always_noticed(stem: int) -> None:
    for check in "0123456789":
        if number := nhs_number(f"{stem:09d}{check}"):
            for at in range(10):
                wrong = number[:at] + str((int(number[at]) + 1) % 10) + number[at + 1 :]
                assert nhs_number(wrong) is None


@pytest.mark.parametrize(
    ("pid", "verified"),
    [
        ("PID|1||9990001103^^^NHS^NH||A^B", None),
        ("PID|1||9990001103^^^NHS^NH{status:01}||A^B", True),
        ("PID|1||9990001103^^^NHS^NH{status:02}||A^B", False),
        ("PID|1||9990001103^^^NHS^NH||A^B|||||||||||||||||||||||||||NSTS01", True),
        ("PID|1||9990001103^^^NHS^NH||A^B|||||||||||||||||||||||||||03", False),
    ],
)
def test_the_status_of_an_nhs_number(pid: str, verified: bool | None) -> None:
    found = identifiers(pid)
    assert [(i.system, i.value, i.verified) for i in found] == [(NHS, "9990001103", verified)]


def test_a_number_that_fails_its_check_finds_nobody() -> None:
    assert identifiers("PID|1||9990001104^^^NHS^NH||A^B") == []


def test_local_numbers_are_kept_apart_by_their_authority() -> None:
    found = identifiers("PID|1||A1^^^ONE^MR~A1^^^TWO^MR||A^B")
    assert len({i.system for i in found}) == 2
    assert not any(i.national for i in found)


def test_account_and_visit_numbers_name_no_person() -> None:
    assert identifiers("PID|1||V1^^^T^VN~AC1^^^T^AN||A^B") == []
