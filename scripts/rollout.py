"""Roll an image out over every function, 5% -> 25% -> 100% of requests, and back by itself when it is bad.

    scripts/rollout to europe-west2-docker.pkg.dev/P/carefolio/carefolio@sha256:... --project P --region europe-west2
    scripts/rollout back --project P --region europe-west2
    scripts/rollout alone --project P --region europe-west2    (fails where another release is under way)

A new revision of every service is made without traffic and asked by its tagged address whether it is ready: from here,
or by a job inside the network, which runs ``ask`` with the addresses. Then all of them get a share at once, and for
each step the revisions' own measures are watched: answers of 5xx, and how long they take beside the revision that
served before. One bad function takes all of them back. What served is written at the services themselves, so that a
rollout that was killed is taken back by whoever comes next.

Sources: Cloud Run Admin API v2 (projects.locations.services, get and patch; jobs.run; operations.get) and Cloud
Monitoring API v3 (projects.timeSeries.list); the measures are run.googleapis.com/request_count and request_latencies.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

STEPS = (5, 25, 100)
FUNCTIONS = (
    "api",
    "emis-fetch",
    "emis-load",
    "fhir",
    "hl7",
    "ingest",
    "jobs",
    "login",
    "notify",
    "operations",
    "portal",
)
# More of its answers than this are 5xx: bad. Below so many answers nothing can be said.
WORST_SHARE = 0.01
FEWEST = 20
# Its 95th percentile is so many times the old one's, and slower than this many ms.
SLOWER = 2.0
SLOW = 500.0
_TAG = "next"
_BY = "TRAFFIC_TARGET_ALLOCATION_TYPE"
# Of a service: what served before the release, for ``back`` (the revision made before may be one that was bad).
_BEFORE = "carefolio-before"
_RUN = "https://run.googleapis.com/v2"
_MONITORING = "https://monitoring.googleapis.com/v3"


class RolloutError(Exception):
    """A release that cannot go on, in one sentence."""


class ConflictError(RolloutError):
    """Somebody else has changed it meanwhile."""


@dataclass(slots=True)
class Cloud:
    """Google's two interfaces, as the account of this process."""

    project: str
    region: str
    run: str
    monitoring: str
    credentials: Any = field(repr=False)
    poll: float = 2.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def call(self, url: str, method: str = "GET", body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call; an answer of 5xx or 429 is asked for again, as both interfaces want it. Raises RolloutError."""
        for pause in (1, 4, 15, None):
            request = urllib.request.Request(
                url, method=method, data=None if body is None else json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"},
            )  # fmt: skip
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    found: dict[str, Any] = json.loads(answer.read())
                return found
            except urllib.error.HTTPError as error:
                wrong = f"{method} {url.partition('?')[0]} answers {error.code}"
                if error.code == 409:
                    raise ConflictError(wrong) from None
                again = error.code >= 500 or error.code == 429
            except OSError as error:
                wrong, again = f"{method} {url.partition('?')[0]}: {error}", True
            if pause is None or not again:
                raise RolloutError(wrong)
            time.sleep(pause * self.poll / 2)
        raise AssertionError

    def _token(self) -> str:
        """One that lives: a rollout takes longer than most."""
        if self.credentials is None:
            return ""
        from google.auth.transport.requests import Request

        with self.lock:
            if not self.credentials.valid:
                self.credentials.refresh(Request())
            return str(self.credentials.token)

    def service(self, name: str) -> dict[str, Any]:
        return self.call(f"{self.run}/projects/{self.project}/locations/{self.region}/services/{name}")

    def change(self, service: dict[str, Any], **what: Any) -> dict[str, Any]:
        """Change these fields, and wait until it is so; refused (by the etag) where somebody else has changed it."""
        mask = ",".join(what)
        body = {"name": service["name"], "etag": service["etag"], **what}
        self._wait(service["name"], self.call(f"{self.run}/{service['name']}?updateMask={mask}", "PATCH", body))
        return self.call(f"{self.run}/{service['name']}")

    def run_job(self, name: str, arguments: list[str]) -> None:
        """Run a job with these arguments to its end. Raises RolloutError where it fails."""
        job = f"projects/{self.project}/locations/{self.region}/jobs/{name}"
        given = {"overrides": {"containerOverrides": [{"args": arguments}]}}
        execution = self._wait(job, self.call(f"{self.run}/{job}:run", "POST", given))["response"]
        until = time.monotonic() + 900
        while not execution.get("completionTime"):
            if time.monotonic() > until:
                raise RolloutError(f"{job} does not end")
            time.sleep(self.poll)
            execution = self.call(f"{self.run}/{execution['name']}")
        if not execution.get("succeededCount"):
            raise RolloutError(f"{short(execution['name'])} failed: its log says which revision is not ready")

    def _wait(self, name: str, operation: dict[str, Any]) -> dict[str, Any]:
        until = time.monotonic() + 600
        while not operation.get("done"):
            if time.monotonic() > until:
                raise RolloutError(f"{name} is not ready after ten minutes")
            time.sleep(self.poll)
            operation = self.call(f"{self.run}/{operation['name']}")
        if "error" in operation:
            raise RolloutError(f"{name}: {operation['error'].get('message', 'refused')}")
        return operation

    def points(self, measure: str, revision: str, aligner: str, since: datetime) -> list[dict[str, Any]]:
        """A measure of one revision since then: its series, each with one value over the whole time."""
        now = datetime.now(UTC)
        query = urllib.parse.urlencode({
            "filter": f'metric.type="run.googleapis.com/{measure}" AND resource.type="cloud_run_revision"'
                      f' AND resource.labels.revision_name="{revision}"',
            "interval.startTime": since.isoformat(), "interval.endTime": now.isoformat(),
            "aggregation.alignmentPeriod": f"{max(60, int((now - since).total_seconds()))}s",
            "aggregation.perSeriesAligner": aligner,
        })  # fmt: skip
        found: list[dict[str, Any]] = self.call(f"{self.monitoring}/projects/{self.project}/timeSeries?{query}").get(
            "timeSeries", []
        )
        return found


def share(old: str, new: str, percent: int) -> list[dict[str, Any]]:
    """The traffic of a service while ``percent`` of its requests go to the new revision.

    In the end to whatever is newest, so that what Terraform changes afterwards is served.
    """
    if percent == 100:
        return [{"type": f"{_BY}_LATEST", "percent": 100, "tag": _TAG}]
    return [
        {"type": f"{_BY}_REVISION", "revision": new, "percent": percent, "tag": _TAG},
        {"type": f"{_BY}_REVISION", "revision": old, "percent": 100 - percent},
    ]


def serving(service: dict[str, Any]) -> str:
    """The revision that all requests go to. Raises RolloutError where they are divided."""
    targets = [each for each in service.get("traffic", []) if each.get("percent")]
    if len(targets) != 1:
        raise RolloutError(f"{service['name']}: a release was left half way; take it back first (scripts/rollout back)")
    # Where it is "whatever is newest", it is that until we make one.
    return str(targets[0].get("revision") or short(service["latestReadyRevision"]))


def short(name: str) -> str:
    return name.rpartition("/")[2]


def bad(cloud: Cloud, old: str, new: str, since: datetime) -> str | None:
    """What is wrong with the new revision, by its measures since then; None where nothing is known to be."""
    answers = {"all": 0, "5xx": 0}
    for series in cloud.points("request_count", new, "ALIGN_DELTA", since):
        count = sum(int(point["value"]["int64Value"]) for point in series["points"])
        answers["all"] += count
        if series["metric"]["labels"].get("response_code_class") == "5xx":
            answers["5xx"] += count
    if answers["all"] >= FEWEST and answers["5xx"] > WORST_SHARE * answers["all"]:
        return f"{answers['5xx']} of {answers['all']} answers are 5xx"
    took = {}
    # The old one as it was before, too: at the last step nobody asks it any more.
    for revision, begun in ((old, since - timedelta(hours=1)), (new, since)):
        values = [
            float(point["value"]["doubleValue"])
            for series in cloud.points("request_latencies", revision, "ALIGN_PERCENTILE_95", begun)
            for point in series["points"]
        ]
        took[revision] = max(values, default=0.0)
    if answers["all"] >= FEWEST and took[new] > SLOW and took[old] and took[new] > SLOWER * took[old]:
        return f"95% of its answers take up to {took[new]:.0f} ms, the old one's {took[old]:.0f} ms"
    return None


def tagged(service: dict[str, Any]) -> str:
    """The address of the new revision, which nobody else asks yet. Raises RolloutError."""
    address = next((each["uri"] for each in service.get("trafficStatuses", []) if each.get("tag") == _TAG), None)
    if address is None:
        raise RolloutError(f"{service['name']} has no address for its new revision")
    return str(address)


def ask(addresses: list[str]) -> None:
    """Ask each whether it is ready. Raises RolloutError.

    They answer within the environment's network alone, and where a function has no public path to who may invoke it.
    """
    # Their own addresses, or what they are told to expect (PUSH_AUDIENCE): a tagged address is neither.
    audience = os.environ.get("PUSH_AUDIENCE", "")
    for address in addresses:
        token = _identity(audience or address) if address.startswith("https://") else ""
        request = urllib.request.Request(f"{address}/health/ready", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read()
        except OSError as error:
            raise RolloutError(f"{address}/health/ready: {error}") from None


def to(cloud: Cloud, names: list[str], image: str, watch: float, job: str) -> None:
    """Roll ``image`` out over the services; raises RolloutError when everything is back as it was."""
    services = {name: cloud.service(name) for name in names}
    old = {name: serving(service) for name, service in services.items()}
    changed: set[str] = set()

    def everywhere(what: Any) -> None:
        with ThreadPoolExecutor(len(names)) as pool:
            services.update(zip(names, pool.map(what, names), strict=True))

    def make(name: str) -> dict[str, Any]:
        service = services[name]
        template = json.loads(json.dumps(service["template"]))
        template["containers"][0]["image"] = image
        annotations = service.get("annotations", {}) | {_BEFORE: old[name]}
        # First only to be there: its share is 0, and what serves is named.
        traffic = [{"type": f"{_BY}_LATEST", "percent": 0, "tag": _TAG},
                   {"type": f"{_BY}_REVISION", "revision": old[name], "percent": 100}]  # fmt: skip
        changed.add(name)
        try:
            return cloud.change(service, template=template, annotations=annotations, traffic=traffic)
        except ConflictError:
            # It is somebody else's now, and not ours to take back.
            changed.discard(name)
            raise

    try:
        everywhere(make)
        new = {name: short(service["latestCreatedRevision"]) for name, service in services.items()}
        addresses = [tagged(service) for service in services.values()]
        if job:
            cloud.run_job(job, ["ask", *addresses])
        else:
            ask(addresses)
        say(f"{len(names)} new revisions are ready")
        for percent in STEPS:
            since = datetime.now(UTC)
            everywhere(lambda name, p=percent: cloud.change(services[name], traffic=share(old[name], new[name], p)))
            say(f"{percent}% of requests")
            until = time.monotonic() + watch
            while time.monotonic() < until:
                time.sleep(min(30.0, watch / 5))
                for name in names:
                    if wrong := bad(cloud, old[name], new[name], since - timedelta(seconds=1)):
                        raise RolloutError(f"{name}: {wrong}")
    except BaseException:
        say("taking it back")
        restore(cloud, {name: old[name] for name in changed})
        raise
    say("done")


def restore(cloud: Cloud, revisions: dict[str, str]) -> None:
    """All requests of every service to this revision of it; each is tried, whatever becomes of the others."""

    def one(name: str) -> str | None:
        for _ in range(3):
            try:
                all_of_it = {"type": f"{_BY}_REVISION", "revision": revisions[name], "percent": 100}
                cloud.change(cloud.service(name), traffic=[all_of_it])
            except RolloutError as error:
                wrong = str(error)
            else:
                return None
        return wrong

    with ThreadPoolExecutor(len(revisions) or 1) as pool:
        failed = [each for each in pool.map(one, revisions) if each]
    if failed:
        raise RolloutError("not taken back, do it by hand: " + "; ".join(failed))


def back(cloud: Cloud, names: list[str]) -> None:
    """Every service to what served before its last release, also where that was left half way."""
    before = {}
    for name in names:
        before[name] = cloud.service(name).get("annotations", {}).get(_BEFORE, "")
        if not before[name]:
            raise RolloutError(f"{name} has had no release yet")
    restore(cloud, before)
    say("back: " + ", ".join(before.values()))


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/rollout", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["to", "back", "alone", "ask"])
    parser.add_argument("which", nargs="*", help="to: the image, by digest; ask: the addresses of new revisions")
    parser.add_argument("--project", default="")
    parser.add_argument("--region", default="")
    parser.add_argument("--services", default=",".join(f"carefolio-{name}" for name in FUNCTIONS))
    parser.add_argument("--watch", type=float, default=600, help="seconds to watch each step: measures come 3 min late")
    parser.add_argument(
        "--ask-by", default="", metavar="JOB", help="the job that asks, where they cannot be reached from"
    )
    parser.add_argument("--run", default=_RUN, help=argparse.SUPPRESS)
    parser.add_argument("--monitoring", default=_MONITORING, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.what == "to" and (len(given.which) != 1 or "@sha256:" not in given.which[0]):
        parser.error("the image is named by its digest: NAME@sha256:...")
    if given.what != "ask" and not (given.project and given.region):
        parser.error("--project and --region say where")
    names = given.services.split(",")
    # A build that is cancelled takes back what it began.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    local = not given.run.startswith("https://") or given.what == "ask"
    cloud = Cloud(given.project, given.region, given.run, given.monitoring, None if local else _credentials(),
                  0.05 if local else 2.0)  # fmt: skip
    try:
        if given.what == "to":
            to(cloud, names, given.which[0], given.watch, given.ask_by)
        elif given.what == "back":
            back(cloud, names)
        elif given.what == "alone":
            for name in names:
                serving(cloud.service(name))
        else:
            ask(given.which)
    except RolloutError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _identity(audience: str) -> str:
    from google.auth.transport.requests import Request
    from google.oauth2.id_token import fetch_id_token

    return str(fetch_id_token(Request(), audience))


def _credentials() -> Any:
    import google.auth

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    return credentials


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
