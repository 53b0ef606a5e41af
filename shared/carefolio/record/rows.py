"""A resource as a row: what is there of it, and its next version."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from carefolio.mapping.model import Resource
from carefolio.mapping.serialise import dumps
from carefolio.record import labels
from carefolio.record.labels import GENERAL
from carefolio.record.search_index import index

_HEAD = frozenset({"resourceType", "id", "meta"})
BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Known:
    """What is there of a resource; ``live`` is False after its deletion. ``content`` only where it was asked for.

    ``label_is_his``: the patient chose the privacy label; ``frozen``: the record is closed to everybody.
    """

    id: uuid.UUID
    version: int
    live: bool
    patient_id: uuid.UUID | None
    digest: bytes
    seq: int
    source_time: datetime
    organisations: list[uuid.UUID]
    label: str
    available_from: datetime | None
    content: str | None
    label_is_his: bool = False
    frozen: bool = False


@dataclass(slots=True)
class Row:
    """A version as it will be written; ``content`` None deletes."""

    id: uuid.UUID
    type: str
    patient_id: uuid.UUID | None
    version: int
    content: str | None
    digest: bytes
    organisations: list[uuid.UUID]
    label: str
    place: str | None = None
    keys: str = "{}"
    date_from: datetime | None = None
    date_to: datetime | None = None
    texts: str = "[]"
    ranges: str = "{}"
    available_from: datetime | None = None
    confidential: bool = False
    seq: int | None = None
    source_time: datetime | None = None


def digest_of(body: bytes) -> bytes:
    """What tells whether a resource changed: a hash of its JSON without id and meta."""
    return hashlib.blake2b(body, digest_size=16).digest()


def make_row(
    number: uuid.UUID,
    resource: Resource,
    current: Known | None,
    *,
    patient_id: uuid.UUID | None,
    organisations: list[uuid.UUID],
    source: uuid.UUID,
    now: datetime,
    label: str = GENERAL,
    place: str | None = None,
    available_from: datetime | None = None,
    logical_id: str | None = None,
) -> Row | None:
    """The next version of a resource (without id); None where it says what is there already.

    Of its meta the profiles, tags, security labels and source stay. ``logical_id`` where the id is not the UUID.
    """
    kind = resource["resourceType"]
    elements = {n: dumps(value) for n, value in resource.items() if n not in _HEAD}
    body = b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in elements.items()) + b"}"
    digest = digest_of(body + dumps(_lasting(resource.get("meta") or {})))
    if current is not None and current.live and (current.digest, current.organisations, current.label) == (
        digest, organisations, label,
    ):  # fmt: skip
        return None
    version = current.version + 1 if current is not None else 1
    indexed = index(resource, elements)
    return Row(
        id=number,
        type=kind,
        patient_id=patient_id,
        version=version,
        content=_content(resource, logical_id or str(number), version, now, source, label, body),
        digest=digest,
        organisations=organisations,
        label=label,
        place=place,
        keys=indexed.keys,
        date_from=indexed.date_from,
        date_to=indexed.date_to,
        texts=indexed.texts,
        ranges=indexed.ranges,
        available_from=available_from,
        confidential="meta" in resource and labels.is_confidential(resource),
    )


def _lasting(meta: dict[str, Any]) -> dict[str, Any]:
    """What of a meta is the resource's own, not the version's."""
    return {name: value for name, value in meta.items() if name not in ("versionId", "lastUpdated", "source")}


def deletion(number: uuid.UUID, kind: str, current: Known) -> Row:
    """The version that says a resource is gone."""
    return Row(
        id=number,
        type=kind,
        patient_id=current.patient_id,
        version=current.version + 1,
        content=None,
        digest=b"",
        organisations=current.organisations,
        label=current.label,
    )


@lru_cache(maxsize=16)
def instant(moment: datetime) -> str:
    """A FHIR instant, to the millisecond."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _content(
    resource: Resource, number: str, version: int, now: datetime, source: uuid.UUID, label: str, body: bytes
) -> str:
    sent = resource.get("meta") or {}
    said = dumps(sent["source"]).decode() if "source" in sent else f'"urn:uuid:{source}"'
    meta = f'{{"versionId":"{version}","lastUpdated":"{instant(now)}","source":{said}'
    lasting = _lasting(sent)
    if "security" in sent or label != GENERAL:
        # The label is the record's to say, whatever came.
        said_of = [coding for coding in sent.get("security", []) if coding.get("system") != labels.SYSTEM]
        said_of += [{"system": labels.SYSTEM, "code": label}] if label != GENERAL else []
        lasting.pop("security", None)
        if said_of:
            lasting["security"] = said_of
    if lasting:
        meta += "," + dumps(lasting).decode()[1:-1]
    head = f'{{"resourceType":"{resource["resourceType"]}","id":"{number}","meta":{meta}}}'
    rest = body.decode()
    return head + ("}" if rest == "{}" else "," + rest[1:])


def without_head(content: str) -> dict[str, Any]:
    """A stored resource as it was before it got its id; of its meta what is its own, and not the version's or ours."""
    resource: dict[str, Any] = orjson.loads(content)
    resource.pop("id", None)
    lasting = _lasting(resource.pop("meta", None) or {})
    if security := [each for each in lasting.pop("security", []) if each.get("system") != labels.SYSTEM]:
        lasting["security"] = security
    if lasting:
        resource["meta"] = lasting
    return resource
