"""Fixtures that several packages share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_messages() -> list[Path]:
    """The collected real messages, which do not lie in this repository."""
    folder = SHARED / "hl7" / "messages"
    if not folder.is_dir():
        pytest.skip("the collected HL7 messages are not on this machine")
    return sorted(folder.glob("*/*.hl7"))
