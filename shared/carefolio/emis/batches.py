"""Batches: which files belong together, when one is whole, and what an operator must be told before it is loaded.

The rules are those of EMIS's consumers (domain notes B7): identity from names, all tables exactly once, in order, never
skipping.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from carefolio.emis.errors import ExtractError
from carefolio.emis.names import FileName, Kind
from carefolio.emis.tables import tables

# Came with 8.0, or is not in every agreement: a batch is whole without them.
_MAY_LACK = frozenset({"Admin_PatientHistory", "Audit_PatientAudit", "Audit_RegistrationAudit"})


@dataclass(frozen=True, slots=True)
class Batch:
    """Files of one timestamp: table -> (name as it lies there, what it says)."""

    id: str
    extracted_at: datetime
    kind: Kind
    files: dict[str, str]
    missing: frozenset[str]

    @property
    def is_whole(self) -> bool:
        return not self.missing


def batches(names: Iterable[tuple[str, FileName]], agreement: uuid.UUID) -> list[Batch]:
    """The batches of an agreement, the oldest first. Raises ExtractError where files contradict each other."""
    found: dict[str, list[tuple[str, FileName]]] = {}
    for path, name in names:
        if name.agreement != agreement:
            raise ExtractError(name.table, "the file is of another agreement")
        found.setdefault(name.batch, []).append((path, name))
    return [_batch(files) for _, files in sorted(found.items())]


def _batch(files: list[tuple[str, FileName]]) -> Batch:
    first = files[0][1]
    by_table: dict[str, str] = {}
    for path, name in files:
        if name.table in by_table:
            raise ExtractError(name.table, f"batch {name.batch} has the file twice")
        if (name.kind, name.processing) != (first.kind, first.processing):
            raise ExtractError(name.table, f"batch {name.batch} is partly of another kind or processing id")
        by_table[name.table] = path
    missing = frozenset(tables()) - set(by_table) - _MAY_LACK
    return Batch(first.batch, first.extracted_at, first.kind, by_table, missing)


def next_batch(found: list[Batch], done: datetime | None) -> Batch | None:
    """The batch to load after the last one that was: the oldest later one, where it is whole.

    None while there is none, or while it is not whole: what is later waits, since nothing is ever skipped.
    """
    later = [batch for batch in found if done is None or batch.extracted_at > done]
    return later[0] if later and later[0].is_whole else None


@dataclass(frozen=True, slots=True)
class Sharing:
    """One practice in Agreements_SharingOrganisation. ``disabled`` freezes, and never deletes."""

    activated: bool
    disabled: bool
    deleted: bool

    @property
    def is_loaded(self) -> bool:
        return self.activated and not self.disabled and not self.deleted


def alerts(
    before: Mapping[str, Sharing], now: Mapping[str, Sharing], ods_before: Mapping[str, str], ods_now: Mapping[str, str]
) -> list[str]:
    """What has changed since the last batch and wants a person's eye, by the practices' GUIDs."""
    told = []
    for practice in sorted({*before, *now}):
        was, is_now = before.get(practice), now.get(practice)
        if was is None:
            told.append(f"practice {practice} has appeared")
        elif is_now is None:
            told.append(f"practice {practice} has vanished")
        else:
            told += [
                f"practice {practice}: {flag} is {str(getattr(is_now, flag)).lower()} now"
                for flag in ("activated", "disabled", "deleted")
                if getattr(was, flag) != getattr(is_now, flag)
            ]
    told += [
        f"practice {practice}: its ODS code was {ods_before[practice]} and is {code} now"
        for practice, code in sorted(ods_now.items())
        if practice in ods_before and ods_before[practice] != code
    ]
    return told
