"""What the clock calls: fixed jobs, of which Terraform makes Cloud Scheduler's, and one for each sharing agreement.

Locally the dispatcher keeps time; in the cloud the agreements' jobs are Cloud Scheduler's own (google-cloud-scheduler).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from carefolio.cloud.settings import settings
from carefolio.cloud.topics import wiring

ZONE = "Europe/London"


@dataclass(frozen=True, slots=True)
class Job:
    """``path`` is on the function that it begins with, called every ``minutes``."""

    path: str
    minutes: float


JOBS = tuple(Job(**each) for each in wiring()["jobs"])
# On one machine, instead of a job of Cloud Scheduler's for each agreement.
LOCAL_JOBS = (Job("/emis_fetch/due", 0.05),)


class ScheduleError(ValueError):
    """A schedule that is none."""


def check(schedule: str) -> None:
    """Raise ScheduleError for what is no unix-cron line of five fields."""
    from cronsim import CronSim, CronSimError

    try:
        CronSim(schedule, _now())
    except CronSimError as error:
        raise ScheduleError(f"not a cron line: {error}") from None
    if len(schedule.split()) != 5:
        raise ScheduleError("a cron line has five fields")


def is_due(schedule: str, since: Any) -> bool:
    """Whether a cron line (by London's clock) has come up after ``since``, an aware time."""
    from zoneinfo import ZoneInfo

    from cronsim import CronSim

    return bool(next(CronSim(schedule, since.astimezone(ZoneInfo(ZONE)))) <= _now())


def _now() -> Any:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    return datetime.now(ZoneInfo(ZONE))


def keep(name: str, schedule: str, function: str, path: str, body: dict[str, str]) -> None:
    """Have the clock post ``body`` to a function by a cron line, from now on. Blocks.

    Nothing to do on one machine, where the dispatcher asks every minute what is due.
    """
    wanted = settings()
    if not wanted.project:
        return
    from google.api_core.exceptions import NotFound
    from google.cloud import scheduler_v1

    client = scheduler_v1.CloudSchedulerClient()
    parent = client.common_location_path(wanted.project, wanted.region)
    job = scheduler_v1.Job(
        name=f"{parent}/jobs/{name}",
        schedule=schedule,
        time_zone=ZONE,
        attempt_deadline={"seconds": 1800},
        retry_config={"retry_count": 3, "min_backoff_duration": {"seconds": 60}},
        http_target=scheduler_v1.HttpTarget(
            uri=wanted.function_url.replace("{function}", function.replace("_", "-")) + path,
            http_method=scheduler_v1.HttpMethod.POST,
            headers={"Content-Type": "application/json"},
            body=json.dumps(body).encode(),
            oidc_token={"service_account_email": wanted.push_account, "audience": wanted.push_audience},
        ),
    )
    try:
        client.update_job(job=job)
    except NotFound:
        client.create_job(parent=parent, job=job)


def drop(name: str) -> None:
    """Have the clock forget a job; one that is not there is no error. Blocks."""
    wanted = settings()
    if not wanted.project:
        return
    from google.api_core.exceptions import NotFound
    from google.cloud import scheduler_v1

    client = scheduler_v1.CloudSchedulerClient()
    try:
        client.delete_job(name=f"{client.common_location_path(wanted.project, wanted.region)}/jobs/{name}")
    except NotFound:
        return
