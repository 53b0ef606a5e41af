"""What a sender agreed with us about its messages: one document, every change a version of it, with who made it."""

from __future__ import annotations

import re
import uuid
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, lru_cache
from typing import Any
from zoneinfo import available_timezones

import orjson

from carefolio.cloud.database import Pool

_URI = re.compile(r"(https?://[A-Za-z0-9][!#-;=?-~]{2,199}|urn:(oid:[0-2](\.\d+)+|uuid:[0-9a-f-]{36}))\Z", re.ASCII)
# National numbers are recognised by their own rules, and what is ours is nobody's to name.
_NOT_AGREED = (
    "https://fhir.nhs.uk/", "https://fhir.hscni.net/", "urn:oid:2.16.840.1.113883.2.1.3.2.4.16.53",
    "urn:oid:2.16.840.1.113883.2.1.4.1", "https://fhir.carefolio.uk",
)  # fmt: skip
_Z_FIELD = re.compile(r"Z[A-Z0-9]{2}-[1-9][0-9]{0,2}\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.-]{0,63}\Z")
# MSH-18 of HL7 table 0211, as far as the reader knows it.
_CHARACTER_SETS = ("UNICODE UTF-8", "8859/1", "8859/15", "ASCII")
_MOST_ENTRIES = 500


class SettingsError(Exception):
    """A setting that cannot be; the text names it."""


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """What can be agreed with a sender.

    ``auto_create``: any message may make a record. ``accept_merges``: messages that join, link or rename take effect
    where nothing speaks against it, else they wait for a person. ``replace_sets``: the allergies, diagnoses and
    medicines of an A28 or A31 replace those that the organisation sent before. ``r_deletes``: OBR-25 = R deletes a
    report, else it is preliminary (HL7 table 0123). ``enhanced_acks``: MSH-15 and MSH-16 are honoured (many engines
    value them and know AA alone). ``zone``: of times without an offset. ``character_set``: of messages that declare
    none (MSH-18). ``authorities``: assigning authority (CX.4.1) -> FHIR system. ``z_fields``: ``ZPI-2`` -> the name
    of its extension.
    """

    auto_create: bool = False
    accept_merges: bool = False
    replace_sets: bool = True
    r_deletes: bool = True
    enhanced_acks: bool = False
    zone: str = "Europe/London"
    character_set: str = ""
    authorities: dict[str, str] = field(default_factory=dict)
    z_fields: dict[str, str] = field(default_factory=dict)


def read_settings(document: dict[str, Any]) -> SenderSettings:
    """Settings from their JSON document; what it does not name has its default. Raises SettingsError."""
    known = {item.name: item for item in fields(SenderSettings)}
    for name, value in document.items():
        if name not in known:
            raise SettingsError(f"{name}: there is no such setting (there are {', '.join(known)})")
        default = getattr(SenderSettings(), name)
        if type(value) is not type(default):
            raise SettingsError(f"{name}: must be a {_KINDS[type(default)]}")
    made = SenderSettings(**document)
    if made.zone not in _zones():
        raise SettingsError("zone: not a time zone such as Europe/London")
    if made.character_set and made.character_set not in _CHARACTER_SETS:
        raise SettingsError(f"character_set: one of {', '.join(_CHARACTER_SETS)}")
    _check_entries(
        "authorities", made.authorities, lambda key: 0 < len(key) <= 199 and key.isprintable(), _URI, "an absolute URI"
    )
    _check_entries("z_fields", made.z_fields, lambda key: bool(_Z_FIELD.match(key)), _NAME, "a name such as ward-code")
    for name, system in made.authorities.items():
        if system.startswith(_NOT_AGREED):
            raise SettingsError(f"authorities.{name}: a national system, or one of ours, is not agreed upon")
    return made


@cache
def _zones() -> frozenset[str]:
    return frozenset(zone for zone in available_timezones() if "/" in zone or zone == "UTC")


_KINDS = {bool: "boolean", str: "string", dict: "object"}


def _check_entries(name: str, entries: dict[Any, Any], good: Any, value: re.Pattern[str], what: str) -> None:
    if len(entries) > _MOST_ENTRIES:
        raise SettingsError(f"{name}: more than {_MOST_ENTRIES} entries")
    for key, content in entries.items():
        if not good(key):
            raise SettingsError(f"{name}: an entry that cannot be: {key[:40]}")
        if not isinstance(content, str) or not value.match(content):
            raise SettingsError(f"{name}.{key}: must be {what}")


@lru_cache(maxsize=1000)
def parse_settings(text: str) -> SenderSettings:
    """Settings as they are stored."""
    return read_settings(orjson.loads(text))


def with_assignments(settings: SenderSettings, assignments: list[str]) -> SenderSettings:
    """Settings changed by ``name=value`` and ``name.key=value``; an empty value removes a key. Raises SettingsError."""
    document = asdict(settings)
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        name, dot, key = path.partition(".")
        if not equals or name not in document:
            raise SettingsError(f"{assignment[:60]}: not name=value of a setting ({', '.join(document)})")
        before = document[name]
        if isinstance(before, dict):
            if not dot:
                raise SettingsError(f"{name}: give {name}.KEY=VALUE")
            before.pop(key, None)
            if value:
                before[key] = value
        elif isinstance(before, bool):
            if value not in ("true", "false"):
                raise SettingsError(f"{name}: true or false")
            document[name] = value == "true"
        else:
            document[name] = value
    return read_settings(document)


@dataclass(frozen=True, slots=True)
class Stored:
    """A sender's settings with their version (0: never changed)."""

    sender_id: uuid.UUID
    name: str
    version: int
    settings: SenderSettings


async def load(pool: Pool, name: str, organisation_id: uuid.UUID | None = None) -> Stored | None:
    """The settings of the sender called ``name`` (of this organisation, where one is given); None for no such one."""
    row = await pool.fetchrow(
        """
        SELECT id, name, settings, settings_version FROM sender
        WHERE name = $1 AND ($2::uuid IS NULL OR organisation_id = $2)
        """,
        name,
        organisation_id,
    )
    if row is None:
        return None
    return Stored(row["id"], row["name"], row["settings_version"], parse_settings(row["settings"]))


async def store(pool: Pool, known: Stored, settings: SenderSettings, actor: str) -> Stored | None:
    """Keep changed settings as the next version; None where somebody was faster than the version of ``known``."""
    text = orjson.dumps(asdict(settings)).decode()
    version = await pool.fetchval(
        """
        WITH changed AS (
            UPDATE sender SET settings = $3, settings_version = settings_version + 1
            WHERE id = $1 AND settings_version = $2 RETURNING id, settings_version, organisation_id
        ), kept AS (
            INSERT INTO sender_settings (sender_id, version, settings, actor)
            SELECT id, settings_version, $3, $4 FROM changed
        ), noted AS (
            INSERT INTO audit (actor, organisation_id, action, query)
            SELECT $4, organisation_id, 'change-sender', $5 || ' version ' || settings_version FROM changed
        )
        SELECT settings_version FROM changed
        """,
        known.sender_id,
        known.version,
        text,
        actor,
        known.name,
    )
    return None if version is None else replace(known, version=version, settings=settings)


async def history(pool: Pool, name: str) -> list[dict[str, Any]]:
    """Every version of a sender's settings, the newest first."""
    rows = await pool.fetch(
        """
        SELECT sender_settings.version, sender_settings.actor, sender_settings.at, sender_settings.settings
        FROM sender_settings JOIN sender ON sender.id = sender_id WHERE sender.name = $1 ORDER BY version DESC
        """,
        name,
    )
    return [dict(row) | {"settings": orjson.loads(row["settings"])} for row in rows]
