"""What runs in Google's control planes alone, by their published interfaces: Secret Manager and Cloud Scheduler."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any

import pytest
from google.api_core.exceptions import NotFound
from google.cloud import scheduler_v1

from carefolio.cloud import edge, files, google, schedule, secrets
from carefolio.cloud.settings import settings


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "GOOGLE_CLOUD_PROJECT": "carefolio-test", "REGION": "europe-west2", "PUSH_SERVICE_ACCOUNT": "clock@x.iam",
        "PUSH_AUDIENCE": "https://internal",
        "SECRET_REPLICAS": "europe-west2=key-2 europe-west1=key-1", "FUNCTION_URL": "https://{function}.example.org",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def manager(project: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[bytes]]]:
    """Secret Manager's REST interface: create, addVersion, access (v1 reference)."""
    kept: dict[str, list[bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, code: int, body: dict[str, Any]) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Authorization"] == "Bearer token"
            path, _, query = self.path.partition("?")
            if query.startswith("secretId="):
                name = query.removeprefix("secretId=")
                assert body["replication"]["userManaged"]["replicas"] == [
                    {"location": f"europe-west{n}", "customerManagedEncryption": {"kmsKeyName": f"key-{n}"}}
                    for n in (2, 1)
                ]
                self.answer(409 if name in kept else 200, {"name": name})
                kept.setdefault(name, [])
            else:
                name = path.removesuffix(":addVersion").rpartition("/")[2]
                kept[name].append(base64.b64decode(body["payload"]["data"]))
                self.answer(200, {})

        def do_GET(self) -> None:
            name = self.path.split("/")[-3]
            if not self.path.endswith("/versions/latest:access") or name not in kept:
                self.answer(404, {})
                return
            self.answer(200, {"payload": {"data": base64.b64encode(kept[name][-1]).decode()}})

        def log_message(self, *_: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(secrets, "_MANAGER", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setattr(google, "token", lambda: "token")
    yield kept
    server.shutdown()
    server.server_close()


def test_an_operators_secret_goes_to_secret_manager(manager: dict[str, list[bytes]]) -> None:
    with pytest.raises(secrets.MissingSecretError):
        secrets.fetch("emis-north-password")
    secrets.store("emis-north-password", b"one")
    secrets.store("emis-north-password", b"two\n")
    assert manager == {"emis-north-password": [b"one", b"two\n"]}
    assert secrets.fetch("emis-north-password") == b"two\n"


def test_each_agreement_has_a_job_with_the_clock(project: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, scheduler_v1.Job] = {}

    class Client:
        """The methods of CloudSchedulerClient that are called, with their published arguments."""

        @staticmethod
        def common_location_path(project: str, location: str) -> str:
            return f"projects/{project}/locations/{location}"

        def update_job(self, *, job: scheduler_v1.Job) -> scheduler_v1.Job:
            if job.name not in kept:
                raise NotFound("no such job")
            kept[job.name] = job
            return job

        def create_job(self, *, parent: str, job: scheduler_v1.Job) -> scheduler_v1.Job:
            assert parent == "projects/carefolio-test/locations/europe-west2"
            kept[job.name] = job
            return job

        def delete_job(self, *, name: str) -> None:
            if kept.pop(name, None) is None:
                raise NotFound("no such job")

    monkeypatch.setattr("google.cloud.scheduler_v1.CloudSchedulerClient", Client)
    for line in ("0 */2 * * *", "30 1 * * *"):
        schedule.keep("emis-fetch-north", line, "emis_fetch", "/emis_fetch", {"agreement": "north"})
    [job] = kept.values()
    assert job.name == "projects/carefolio-test/locations/europe-west2/jobs/emis-fetch-north"
    assert (job.schedule, job.time_zone) == ("30 1 * * *", "Europe/London")
    assert job.http_target.uri == "https://emis-fetch.example.org/emis_fetch"
    assert json.loads(job.http_target.body) == {"agreement": "north"}
    assert job.http_target.oidc_token.service_account_email == "clock@x.iam"
    schedule.drop("emis-fetch-north")
    schedule.drop("emis-fetch-north")
    assert not kept


@pytest.fixture
def policy(project: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, dict[str, Any]]]:
    """Cloud Armor's REST interface: get, addRule, patchRule, removeRule (compute v1 reference)."""
    rules: dict[int, dict[str, Any]] = {
        priority: {"priority": priority, "action": action, "match": {"config": {"srcIpRanges": ["*"]}}}
        for priority, action in ((100, "allow"), (2147483647, "deny(403)"))
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            changed = self.path == "/projects/carefolio-test/global/operations/operation-1"
            said = {"name": "operation-1", "status": "DONE"} if changed else {"rules": list(rules.values())}
            self.wfile.write(json.dumps(said).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path, _, query = self.path.partition("?")
            assert path.startswith("/projects/carefolio-test/global/securityPolicies/carefolio-hl7/")
            how = path.rpartition("/")[2]
            priority = body["priority"] if how == "addRule" else int(query.removeprefix("priority="))
            assert (how == "addRule") == (priority not in rules)
            if how == "removeRule":
                del rules[priority]
            else:
                assert 1 <= len(body["match"]["config"]["srcIpRanges"]) <= 10
                rules[priority] = body
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"name": "operation-1", "status": "RUNNING"}')

        def log_message(self, *_: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(edge, "_POLL", 0)
    monkeypatch.setattr(edge, "_COMPUTE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(google, "token", lambda: "token")
    monkeypatch.setenv("HL7_POLICY", "carefolio-hl7")
    settings.cache_clear()
    yield rules
    server.shutdown()
    server.server_close()


def test_the_load_balancer_lets_the_senders_networks_through(policy: dict[int, dict[str, Any]]) -> None:
    def allowed() -> list[str]:
        return [each for rule in policy.values() if 1000 <= rule["priority"] < 1200
                for each in rule["match"]["config"]["srcIpRanges"]]  # fmt: skip

    # No two of them side by side, which would be one network.
    hospitals = {ip_network(f"10.{number}.0.0/24") for number in range(25)} | {ip_network("2001:db8::/64")}
    assert edge.keep(hospitals) == 3
    assert sorted(allowed()) == sorted(map(str, hospitals))
    assert edge.keep(hospitals) == 0
    left = {network for network in hospitals if network.version == 4 and str(network) < "10.14"}
    edge.keep(left)
    assert sorted(allowed()) == sorted(map(str, left))
    edge.keep({ip_network("192.0.2.0/25"), ip_network("192.0.2.128/25")})
    assert allowed() == ["192.0.2.0/24"]
    edge.keep(set())
    assert sorted(policy) == [100, 2147483647]
    with pytest.raises(edge.EdgeError):
        edge.keep({ip_network(f"10.{a}.{b}.0/32") for a in range(200) for b in range(0, 240, 2)})


def test_files_are_whatever_the_url_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILES_URL", "memory://bucket")
    settings.cache_clear()
    try:
        with files.writer("a/b") as file:
            file.write(b"whole")
        assert files.exists("a/b")
        with files.reader("a/b") as file:
            assert file.read() == b"whole"
        files.remove("a")
        files.remove("a")
        assert not files.exists("a/b")
    finally:
        monkeypatch.undo()
        settings.cache_clear()
