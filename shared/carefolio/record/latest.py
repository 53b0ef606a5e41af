"""The latest observations of each kind of a patient (R4 Observation $lastn).

(http://hl7.org/fhir/R4/observation-operation-lastn.html) What is one kind is told by the code: its first coding that
has a system, else its text. Which observations count is a search like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from carefolio.cloud.database import Pool
from carefolio.record import parameters
from carefolio.record.access import Reader, readable, resources, with_contents
from carefolio.record.arguments import SearchError
from carefolio.record.conditions import Conditions
from carefolio.record.includes import Found
from carefolio.record.search import Page, masked_page

# Of a kind, and altogether.
MOST = 100
_MOST_FOUND = 2000
_PATIENT = ("patient", "subject")
_KIND = """
    coalesce((
        SELECT concat_ws('|', coding ->> 'system', coding ->> 'code')
        FROM jsonb_array_elements(content::jsonb #> '{code,coding}') WITH ORDINALITY AS t (coding, place)
        WHERE coding ? 'system' AND coding ? 'code' ORDER BY place LIMIT 1
    ), content::jsonb #>> '{code,text}', '')
"""


async def latest(pool: Pool, reader: Reader, query: Sequence[tuple[str, str]], count: int) -> Page:
    """The ``count`` latest of each kind, by kind, the latest first; those without a time come last.

    Raises SearchError for a query that names no patient, or neither category nor code, or has what no search has.
    """
    names = {name.partition(":")[0] for name, _ in query}
    # Of several the latest would be one person's, and hide the others'.
    of_one = [value for name, value in query if name in _PATIENT and value and "," not in value]
    if len(of_one) != 1:
        raise SearchError("patient", "$lastn is of one patient: patient or subject is needed, once and plain")
    if not names & {"category", "code"}:
        raise SearchError("category", "$lastn needs a category or a code")
    await parameters.refresh(pool)
    made = Conditions(pool, reader)
    arguments = made.arguments()
    arguments.of_one_record = made.is_of_patients(["Observation"], list(query))
    source = resources(reader, arguments.values)
    conditions = [readable(reader, arguments.values)]
    for name, value in query:
        conditions.append(await made.of(["Observation"], name, value, arguments))
    conditions.append(arguments.of_types(["Observation"]))
    most, several = arguments.add(count), arguments.add(_MOST_FOUND + 1)
    ordered = "ORDER BY date_from DESC NULLS LAST, id"
    found = f"""
        SELECT id, version, type, patient_id, kind, place FROM (
            SELECT id, version, type, patient_id, kind, row_number() OVER (PARTITION BY kind {ordered}) AS place
            FROM (SELECT id, version, type, patient_id, date_from, {_KIND} AS kind
                  FROM {source} WHERE {" AND ".join(conditions)}) AS of_kind
        ) AS placed WHERE place <= {most}::bigint ORDER BY kind, place LIMIT {several}::bigint
    """  # noqa: S608 - the predicates are ours, their values are arguments
    opened = with_contents(found, reader, arguments.values, ", kind, place")
    rows = await pool.fetch(f"{opened} ORDER BY kind, place", *arguments.values)
    page = Page([Found(row["type"], row["id"], row["content"]) for row in rows[:_MOST_FOUND]])
    page.cut = len(rows) > _MOST_FOUND
    page.total = len(page.found)
    page.found = await masked_page(pool, reader, page.found)
    return page
