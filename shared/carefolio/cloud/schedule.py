"""What the clock calls. Terraform makes Cloud Scheduler's jobs of the same facts; locally the dispatcher keeps time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """``path`` is on the operations function, called every ``minutes``."""

    path: str
    minutes: int


JOBS = (Job("/operations/outbox", 1), Job("/operations/search-parameters", 1), Job("/operations/forget", 60))
