"""The rollout against a stand-in that answers as Cloud Run's Admin API v2 and Cloud Monitoring's API v3 are published.

It refuses what they refuse: an old etag, shares that do not come to 100, a revision that is not there.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from carefolio.local.installation import REPOSITORY

_PREFIX = "projects/p/locations/r/services"
_NAMES = ("carefolio-fhir", "carefolio-hl7")
_GOOD, _BAD = f"image@sha256:{'1' * 64}", f"image@sha256:{'bad' * 21}0"
_A_SECOND = 2000


class StandIn:
    """Two services, asked ``_A_SECOND`` times a second; a revision of the bad image answers 500, or slowly."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.services: dict[str, dict[str, Any]] = {}
        self.images: dict[str, str] = {}
        self.asked: dict[str, dict[str, float]] = {}
        self.at = time.monotonic()
        self.fault = "5xx"
        self.not_ready = False
        self.ran: list[list[str]] = []
        self.unavailable = 0
        self.url = ""
        for name in _NAMES:
            self.services[name] = {
                "name": f"{_PREFIX}/{name}", "etag": "1", "annotations": {"kept": "yes"},
                "template": {"containers": [{"image": "image@sha256:first", "env": [{"name": "A", "value": "1"}]}]},
                "traffic": [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}],
                "latestReadyRevision": f"{_PREFIX}/{name}/revisions/{name}-00001",
                "latestCreatedRevision": f"{_PREFIX}/{name}/revisions/{name}-00001",
            }  # fmt: skip
            self.images[f"{name}-00001"] = "image@sha256:first"

    def shares(self, service: dict[str, Any]) -> dict[str, float]:
        latest = service["latestReadyRevision"].rpartition("/")[2]
        return {each.get("revision", latest): each.get("percent", 0) / 100 for each in service["traffic"]}

    def serve(self) -> None:
        """Count the requests since the last time."""
        now = time.monotonic()
        for service in self.services.values():
            for revision, share in self.shares(service).items():
                counted = self.asked.setdefault(revision, {"all": 0, "bad": 0})
                counted["all"] += _A_SECOND * (now - self.at) * share
                if self.images[revision] == _BAD:
                    counted["bad"] += _A_SECOND * (now - self.at) * share
        self.at = now

    def patch(self, name: str, mask: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        service = self.services[name]
        if body["etag"] != service["etag"]:
            return 409, {"error": {"status": "ABORTED"}}
        assert set(mask.split(",")) == set(body) - {"name", "etag"}
        if "template" in body:
            number = int(service["latestCreatedRevision"][-5:]) + 1
            made = f"{name}-{number:05}"
            self.images[made] = body["template"]["containers"][0]["image"]
            service["latestReadyRevision"] = service["latestCreatedRevision"] = f"{_PREFIX}/{name}/revisions/{made}"
        if sum(each.get("percent", 0) for each in body["traffic"]) != 100 or any(
            each.get("revision", f"{name}-00001") not in self.images for each in body["traffic"]
        ):
            return 400, {"error": {"status": "INVALID_ARGUMENT"}}
        service.update({key: value for key, value in body.items() if key != "name"})
        service["etag"] = str(int(service["etag"]) + 1)
        service["trafficStatuses"] = [
            each | {"uri": f"{self.url}/tagged/{name}"} for each in body["traffic"] if each.get("tag")
        ]
        return 200, {"name": "projects/p/locations/r/operations/1", "done": False}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, dict[str, Any]]:
        self.serve()
        if self.unavailable:
            self.unavailable -= 1
            return 503, {}
        if path.startswith("/tagged/"):
            assert path.endswith("/health/ready")
            return (503 if self.not_ready else 200), {}
        if path.endswith("/operations/1"):
            return 200, {"name": path, "done": True, "response": {}}
        if path == "/projects/p/timeSeries":
            return 200, self.series(query["filter"][0])
        if path.endswith("/jobs/smoke:run"):
            [overridden] = body["overrides"]["containerOverrides"]
            self.ran.append(overridden["args"])
            return 200, {"name": "projects/p/locations/r/operations/2", "done": False}
        execution = {"name": "projects/p/locations/r/jobs/smoke/executions/smoke-1"}
        if path.endswith("/operations/2"):
            return 200, {"name": path, "done": True, "response": execution}
        if path.endswith("/executions/smoke-1"):
            counted = "failedCount" if self.not_ready else "succeededCount"
            return 200, execution | {"completionTime": "2026-11-27T12:00:00Z", counted: 1}
        name = path.rpartition("/")[2]
        if method == "PATCH":
            return self.patch(name, query["updateMask"][0], body)
        return 200, json.loads(json.dumps(self.services[name]))

    def series(self, wanted: str) -> dict[str, Any]:
        found = re.search(r'revision_name="([^"]+)"', wanted)
        assert found
        counted = self.asked.get(found[1])
        if counted is None:
            return {}
        slow = self.images[found[1]] == _BAD and self.fault == "slow"
        if "request_latencies" in wanted:
            return {"timeSeries": [{"points": [{"value": {"doubleValue": 2400.0 if slow else 180.0}}]}]}
        bad = counted["bad"] if self.fault == "5xx" else 0
        return {"timeSeries": [
            {"metric": {"labels": {"response_code_class": kind}},
             "points": [{"value": {"int64Value": str(int(count))}}]}
            for kind, count in (("2xx", counted["all"] - bad), ("5xx", bad))
        ]}  # fmt: skip

    def serving(self) -> list[dict[str, float]]:
        return [{name: part for name, part in self.shares(each).items() if part} for each in self.services.values()]


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    made = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            with made.lock:
                status, said = made.answer(self.command, parts.path, parse_qs(parts.query), body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        do_PATCH = do_POST = do_GET  # noqa: N815 - the base class asks for these names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def begin(stand_in: StandIn, *arguments: str, watch: float = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts/rollout.py"), *arguments, "--project", "p", "--region", "r",
         "--services", ",".join(_NAMES), "--watch", str(watch), "--run", stand_in.url, "--monitoring", stand_in.url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rollout(stand_in: StandIn, *arguments: str) -> tuple[int, str]:
    process = begin(stand_in, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def test_a_good_release_reaches_everybody_step_by_step(stand_in: StandIn) -> None:
    stand_in.unavailable = 2
    status, said = rollout(stand_in, "to", _GOOD)
    assert status == 0, said
    assert re.findall(r"(\d+)% of requests", said) == ["5", "25", "100"]
    assert stand_in.serving() == [{f"{name}-00002": 1.0} for name in _NAMES]
    for service in stand_in.services.values():
        assert service["template"]["containers"][0] == {"image": _GOOD, "env": [{"name": "A", "value": "1"}]}
        assert service["annotations"]["kept"] == "yes"
    status, said = rollout(stand_in, "back")
    assert (status, stand_in.serving()) == (0, [{f"{name}-00001": 1.0} for name in _NAMES])


@pytest.mark.parametrize("fault", ["5xx", "slow"])
def test_a_bad_release_comes_back_by_itself_and_touches_few(stand_in: StandIn, fault: str) -> None:
    stand_in.fault = fault
    status, said = rollout(stand_in, "to", _BAD)
    assert status == 1
    assert ("answers are 5xx" if fault == "5xx" else "take up to 2400 ms") in said
    assert "25%" not in said
    assert stand_in.serving() == [{f"{name}-00001": 1.0} for name in _NAMES]
    touched = sum(counted["all"] for name, counted in stand_in.asked.items() if name.endswith("2"))
    assert 0 < touched <= 0.05 * sum(counted["all"] for counted in stand_in.asked.values())
    # What comes next is not taken back to the bad one.
    assert rollout(stand_in, "to", _GOOD)[0] == 0
    assert rollout(stand_in, "back")[0] == 0
    assert stand_in.serving() == [{f"{name}-00001": 1.0} for name in _NAMES]


def test_one_that_is_not_ready_gets_no_request(stand_in: StandIn) -> None:
    stand_in.not_ready = True
    status, said = rollout(stand_in, "to", _GOOD)
    assert (status, "health/ready" in said) == (1, True)
    assert stand_in.serving() == [{f"{name}-00001": 1.0} for name in _NAMES]
    assert not any(counted["all"] for name, counted in stand_in.asked.items() if name.endswith("2"))


def test_a_job_inside_the_network_asks_where_nobody_else_can(stand_in: StandIn) -> None:
    """With the tagged addresses, by this very script; where it fails, nobody is sent to the new revisions."""
    stand_in.not_ready = True
    status, said = rollout(stand_in, "to", _GOOD, "--ask-by", "smoke")
    assert (status, "smoke-1 failed" in said) == (1, True)
    assert stand_in.serving() == [{f"{name}-00001": 1.0} for name in _NAMES]
    stand_in.not_ready = False
    assert rollout(stand_in, "to", _GOOD, "--ask-by", "smoke")[0] == 0
    asked = stand_in.ran[-1]
    assert rollout(stand_in, *asked)[0] == 0
    stand_in.not_ready = True
    assert rollout(stand_in, *asked)[0] == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_stopped(stand_in: StandIn, how: signal.Signals) -> None:
    """A build that is cancelled takes its release back; a machine that is gone cannot, and the next one says so."""
    process = begin(stand_in, "to", _GOOD, watch=30)
    while not any("00002" in name and part for each in stand_in.serving() for name, part in each.items()):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(how)
    process.communicate(timeout=60)
    if how is signal.SIGKILL:
        for what in (("to", _GOOD), ("alone",)):
            status, said = rollout(stand_in, *what)
            assert (status, "left half way" in said) == (1, True)
        assert rollout(stand_in, "back")[0] == 0
    assert stand_in.serving() == [{f"{name}-00001": 1.0} for name in _NAMES]
    assert rollout(stand_in, "alone")[0] == 0


def test_what_somebody_else_changes_meanwhile_is_not_overwritten(stand_in: StandIn) -> None:
    process = begin(stand_in, "to", _GOOD, watch=3)
    assert process.stdout is not None
    while "5%" not in process.stdout.readline():
        assert process.poll() is None
    with stand_in.lock:
        stand_in.services["carefolio-hl7"]["etag"] = "100"
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "answers 409" in err
    assert stand_in.serving() == [{f"{name}-00001": 1.0} for name in _NAMES]


def test_an_image_is_named_by_its_digest(stand_in: StandIn) -> None:
    status, said = rollout(stand_in, "to", "image:newest")
    assert (status, "by its digest" in said) == (2, True)
