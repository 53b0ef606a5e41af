"""Places on the line of dates and numbers: what an index may find must hold all that is exactly there."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carefolio.fhir.definitions import resource_types, search_parameters
from carefolio.record import places
from carefolio.record import search_index as ix
from carefolio.record.arguments import Arguments
from carefolio.record.places import Interval
from carefolio.record.search_terms import condition

EXAMPLES = Path(__file__).parents[3] / "shared/fhir/r4-official-examples.ndjson.gz"
_DAY = Decimal(86_400_000_000)
_MOMENTS = st.integers(-80_000, 60_000).map(lambda days: _DAY * days)
_NUMBERS = st.decimals(-(10**9), 10**9, places=3, allow_nan=False, allow_infinity=False)


@given(_MOMENTS, st.integers(0, 40_000), _MOMENTS, st.integers(0, 40_000))
def test_ranges_of_time_that_touch_share_a_place(start: Decimal, length: int, asked: Decimal, span: int) -> None:
    stored, wanted = Interval(start, start + _DAY * length), Interval(asked, asked + _DAY * span)
    if stored.low < wanted.high and wanted.low < stored.high:
        assert set(places.date_places(stored)) & set(places.date_cover(wanted))


@given(_MOMENTS, st.booleans())
def test_an_open_end_is_covered(start: Decimal, before: bool) -> None:
    stored = Interval(start, start + _DAY)
    wanted = Interval(-places.LIMIT, start + _DAY) if before else Interval(start, places.LIMIT)
    cover = list(places.date_cover(wanted))
    assert set(places.date_places(stored)) & set(cover)
    assert len(cover) < 250


@given(_NUMBERS, _NUMBERS, _NUMBERS)
def test_numbers_within_a_range_share_a_place(value: Decimal, one: Decimal, other: Decimal) -> None:
    wanted = Interval(min(one, other), max(one, other))
    if wanted.low <= value <= wanted.high:
        assert set(places.number_places(Interval(value, value))) & set(places.number_cover(wanted))


def test_every_official_example_can_be_indexed() -> None:
    if not EXAMPLES.exists():
        pytest.skip("the official examples are not on this machine")
    with gzip.open(EXAMPLES) as lines:
        for line in lines:
            made = ix.index(json.loads(line, parse_float=Decimal))
            assert all(-(2**63) <= key < 2**63 for key in map(int, filter(None, made.keys[1:-1].split(","))))


_VALUES = {
    "token": "http://x|y", "reference": "Patient/x", "string": "xyzzyplugh", "uri": "http://x", "date": "ge2026-01",
    "number": "gt1.5", "special": "51.5|0.1|10|km",
    "quantity": "le5.4|http://unitsofmeasure.org|mg",
}  # fmt: skip
_MODIFIERS = {"token": ("not", "text", "of-type", "missing"), "reference": ("Patient", "identifier", "missing"),
              "string": ("exact", "contains", "missing"), "uri": ("above", "below", "missing"), "date": ("missing",),
              "number": ("missing",), "quantity": ("missing",), "composite": ("missing",),
              "special": ("missing",)}  # fmt: skip


async def test_every_parameter_of_every_type_is_good_sql(database: asyncpg.Pool) -> None:
    """What the CapabilityStatement claims: each standard parameter, with each modifier of its kind."""
    asked = 0
    async with database.acquire() as connection:
        for kind in sorted(resource_types()):
            for code, parameter in search_parameters(kind).items():
                value = "$".join(_VALUES[of] for _, of, _ in parameter.components) or _VALUES[parameter.kind]
                for modifier in ("", *_MODIFIERS[parameter.kind]):
                    arguments = Arguments()
                    text = {"missing": "true", "of-type": "a|b|c"}.get(modifier, value)
                    sql = condition(kind, f"{code}:{modifier}" if modifier else code, text, arguments)
                    await connection.fetch(f"EXPLAIN SELECT id FROM resource WHERE {sql}", *arguments.values)
                    asked += 1
    assert asked > 4000


_ASKED = [
    ("Patient", "identifier", "http://x|y"),
    ("Patient", "family", "xyz"),
    ("Observation", "encounter", "Encounter/x"),
    ("Observation", "value-quantity", "gt5.4"),
    ("Observation", "code-value-quantity", "http://loinc.org|1$gt5"),
    ("Encounter", "length", "5"),
    ("Appointment", "date", "2026-01-01"),
    ("ValueSet", "url", "http://x"),
]


async def test_a_search_goes_by_an_index(database: asyncpg.Pool) -> None:
    """By that of keys, or of the resource's own date, among 150,000 resources, in a transaction that is taken back."""
    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            """
            INSERT INTO resource (id, type, version, last_updated, organisations, seq, source_time, digest, content,
                                  keys, date_from, date_to)
            SELECT gen_random_uuid(),
                   (ARRAY['Patient', 'Observation', 'Encounter', 'Appointment', 'ValueSet'])[1 + n % 5],
                   1, now(), ARRAY[md5((n % 20)::text)::uuid], 0, now(), '', '{}',
                   ARRAY[n, n * 7, n * 13, n % 100]::bigint[],
                   day, day
            FROM generate_series(1, 150000) AS t (n),
                 LATERAL (SELECT timestamptz '2025-12-01' + n % 100 * interval '1 day' AS day) AS of_it
            """
        )
        await connection.execute("ANALYZE resource")
        for kind, name, value in _ASKED:
            arguments = Arguments()
            sql = condition(kind, name, value, arguments)
            where = f"type = '{kind}' AND organisations @> ARRAY[gen_random_uuid()] AND {sql}"
            rows = await connection.fetch(f"EXPLAIN SELECT id FROM resource WHERE {where}", *arguments.values)
            plan = "\n".join(row[0] for row in rows)
            assert ("resource_date" if name == "date" else "resource_keys") in plan, (name, plan)
            assert "Seq Scan" not in plan, (name, plan)
        await transaction.rollback()
