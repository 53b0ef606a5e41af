"""The pipeline's files, read by Google's own message types: a word that the service does not know is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.devtools import cloudbuild_v1
from google.protobuf import json_format

from carefolio.local.installation import REPOSITORY

_BUILDS = ("cloudbuild.yaml", "scripts/deploy.yaml", "scripts/rehearsal.yaml")
# What the triggers give: terraform has no build without them.
_GIVEN = {"PROJECT_ID", "COMMIT_SHA", "BUILD_ID"}
_OF_TRIGGERS = {"_IMAGE", "_TAG", "_PROJECT", "_REGION", "_STANDBY", "_NEXT", "_WHAT", "_OFFSITE", "_OFFSITE_PROJECT",
                "_FOLDER", "_BILLING", "_POLICY"}  # fmt: skip


def build(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text())
    return loaded


@pytest.mark.parametrize("name", _BUILDS)
def test_cloud_build_knows_every_word(name: str) -> None:
    json_format.ParseDict(build(name), cloudbuild_v1.Build.pb()())


@pytest.mark.parametrize("name", _BUILDS)
def test_steps_wait_for_steps_and_use_what_is_given(name: str) -> None:
    whole = build(name)
    before = {"-"}
    for step in whole["steps"]:
        assert set(step.get("waitFor", [])) <= before, step["id"]
        before.add(step["id"])
        assert "script" not in step or not {"args", "entrypoint"} & set(step), "the service refuses both"
    used = set(re.findall(r"\$\{?(_?[A-Z][A-Z_]+)", (REPOSITORY / name).read_text()))
    assert used <= _GIVEN | set(whole.get("substitutions", {})) | _OF_TRIGGERS


def test_the_image_has_what_it_starts() -> None:
    """Every file that the Dockerfile copies is let through to it, and there."""
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    copied = {words[1] for words in map(str.split, lines) if words[:1] == ["COPY"] and not words[1].startswith("--")}
    let = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let - {"Dockerfile"}
    assert all((REPOSITORY / path).exists() for path in copied)


def test_the_image_has_nothing_of_one_machine() -> None:
    locked = Path(REPOSITORY / "requirements-image.lock").read_text()
    assert "pgserver" not in locked
    assert "://" not in locked
    assert "--hash=sha256:" in locked
