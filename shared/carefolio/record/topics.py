"""The topics that apps subscribe to (Subscriptions R5 Backport IG 1.1.0): what each of them tells of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_BASE = "https://fhir.carefolio.uk/SubscriptionTopic"
CREATE, UPDATE, DELETE = "create", "update", "delete"


@dataclass(frozen=True, slots=True)
class Topic:
    """``criteria`` by type what a resource has to be (a search's query, of a deletion before it); none: any type."""

    url: str
    title: str
    changes: frozenset[str] = frozenset({CREATE, UPDATE, DELETE})
    criteria: Mapping[str, str] = field(default_factory=dict)


_FINAL = "status=final,amended,corrected"
_ALL = (
    Topic(f"{_BASE}/record-change", "whatever is written to a record, or deleted"),
    Topic(
        f"{_BASE}/new-result",
        "reports and laboratory results that are final, and their corrections",
        frozenset({CREATE, UPDATE}),
        {"DiagnosticReport": f"{_FINAL},appended", "Observation": f"category=laboratory&{_FINAL}"},
    ),
    Topic(f"{_BASE}/appointment", "appointments made, moved or cancelled", criteria={"Appointment": ""}),
    Topic(f"{_BASE}/document", "documents that arrive, change or go", criteria={"DocumentReference": ""}),
)
TOPICS = {topic.url: topic for topic in _ALL}
# What an R4 Subscription's criteria tell of: a resource that is written and meets them.
BY_CRITERIA = frozenset({CREATE, UPDATE})
