"""An app with all rights."""

from __future__ import annotations

import pytest
from tests.conftest import Hospital, NewHospital


@pytest.fixture(scope="module")
async def app(new_hospital: NewHospital) -> Hospital:
    return await new_hospital(scope="system/*.cruds")
