"""What some resources are beyond themselves: a Subscription is served, a SearchParameter searched by, a value set used.

Each such type says how its resource is prepared before it is written, and what else is kept of it, in the same
transaction.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from carefolio.cloud.database import Connection, Pool
from carefolio.fhir.errors import error
from carefolio.record import cohorts, national, parameters, subscribing
from carefolio.record.access import Reader
from carefolio.terminology import store
from carefolio.terminology.concepts import TerminologyError
from carefolio.terminology.resources import KINDS

Resource = dict[str, Any]


async def _as_it_is(
    _connection: Connection, _reader: Reader, resource: Resource, _number: uuid.UUID
) -> tuple[Resource, Any]:
    return resource, None


async def _nothing(_connection: Connection, _number: uuid.UUID) -> None:
    return


@dataclass(frozen=True, slots=True)
class Effect:
    """What writing a type of resource does; all of them raise FhirError, which undoes the write.

    ``prepared``: the resource as it is to be written, and what ``keep`` has to know beyond that; ``keep`` is given the
    number, the content as written, and that. ``gone``: it is deleted, or purged. ``matters``: whether a resource does
    anything at all. ``of_same``: it is kept even where it says the same as before. ``done``: after the transaction.
    """

    keep: Callable[[Connection, Reader, uuid.UUID, str, Any], Awaitable[None]]
    gone: Callable[[Connection, uuid.UUID], Awaitable[None]] = _nothing
    prepared: Callable[[Connection, Reader, Resource, uuid.UUID], Awaitable[tuple[Resource, Any]]] = _as_it_is
    matters: Callable[[Resource], Any] = bool
    of_same: bool = False
    done: Callable[[Pool], Awaitable[None]] | None = None


async def _keep_patient(connection: Connection, _reader: Reader, number: uuid.UUID, content: str, _said: Any) -> None:
    await national.register(connection, number, json.loads(content))


async def _keep_parameter(connection: Connection, reader: Reader, number: uuid.UUID, content: str, _said: Any) -> None:
    await parameters.store(connection, number, reader.organisation_id, json.loads(content))


async def _keep_canonical(connection: Connection, reader: Reader, number: uuid.UUID, content: str, _said: Any) -> None:
    """A code system, value set, concept map or profile is its organisation's from now on."""
    said = await asyncio.to_thread(json.loads, content)
    if "url" not in said or reader.account is not None:
        await store.remove_posted(connection, number)
        return
    kind = said["resourceType"]
    try:
        incoming = await asyncio.to_thread(store.Incoming.of, said)
        await store.add(connection, [incoming], f"{kind}/{said['id']}", reader.organisation_id, number)
    except TerminologyError as failure:
        raise error(422, "business-rule", str(failure), kind) from None


async def _search_by(pool: Pool) -> None:
    await parameters.refresh(pool, now=True)


_CANONICAL = Effect(_keep_canonical, store.remove_posted)
_EFFECTS = {
    # His NHS number finds him.
    "Patient": Effect(_keep_patient, matters=national.nhs_numbers),
    "SearchParameter": Effect(_keep_parameter, parameters.remove, done=_search_by),
    "Subscription": Effect(subscribing.keep, subscribing.remove, subscribing.prepared, of_same=True),
    "Group": Effect(cohorts.keep, cohorts.remove, cohorts.prepared),
    **dict.fromkeys(KINDS, _CANONICAL),
}


def of(kind: str) -> Effect | None:
    """What writing a resource of a type does beyond writing it."""
    return _EFFECTS.get(kind)


def matters(kind: str, resource: Resource | None) -> bool:
    """Whether writing a resource, or deleting one (None), may do anything beyond."""
    effect = _EFFECTS.get(kind)
    if effect is None:
        return False
    return effect.gone is not _nothing if resource is None else bool(effect.matters(resource))


def afterwards(kinds: Iterable[str]) -> set[Callable[[Pool], Awaitable[None]]]:
    """What is to be done when a write of resources of these types has been committed."""
    return {effect.done for kind in kinds if (effect := _EFFECTS.get(kind)) and effect.done}
