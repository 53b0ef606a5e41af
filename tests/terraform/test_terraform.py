"""Terraform itself, against the provider's schema: nothing of Google is called.

The schema and the stand-in for the provider are not ours and lie beside the repository (../shared/tools).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.cloud.monitoring_dashboard_v1 import Dashboard
from google.protobuf import json_format

from carefolio.cloud.telemetry import Event
from carefolio.cloud.topics import wiring
from carefolio.local.installation import REPOSITORY
from carefolio.local.serve import url_map

TERRAFORM = REPOSITORY / "terraform"
_TOOLS = REPOSITORY.parent / "shared" / "tools"
FUNCTIONS = sorted(main.parent.name for main in (REPOSITORY / "functions").glob("*/main.py"))
_ENVIRONMENTS = ("test", "staging", "production", "rehearsal")

needs_terraform = pytest.mark.skipif(
    shutil.which("terraform") is None or not (_TOOLS / "tf_fake_provider.py").exists(),
    reason="needs terraform, and the provider's stand-in in ../shared/tools",
)


def run(folder: Path, *arguments: str) -> str:
    """What terraform says; raises CalledProcessError with all of it."""
    done = subprocess.run(
        [sys.executable, str(_TOOLS / "tf_fake_provider.py"), "terraform", f"-chdir={folder}", *arguments],
        capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"CHECKPOINT_DISABLE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def taken(folder: Path) -> Path:
    """A copy of what Terraform reads, with its state in the folder and not in a bucket."""
    for name in ("terraform", "functions", "shared", "scripts"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".terraform*"))
    for backend in (folder / "terraform").glob("environments/*/backend.tf"):
        backend.unlink()
    return folder / "terraform"


@pytest.mark.skipif(not (_TOOLS / "tf_schema_check.py").exists(), reason="needs ../shared/tools")
def test_the_provider_knows_every_word() -> None:
    done = subprocess.run(
        [sys.executable, str(_TOOLS / "tf_schema_check.py"), str(TERRAFORM)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert " 0 error(s), 0 warning(s)" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("terraform") is None, reason="needs terraform")
def test_it_is_formatted() -> None:
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", str(TERRAFORM)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_it_stays_readable() -> None:
    modules = sorted((TERRAFORM / "modules").iterdir())
    assert len(modules) <= 12
    assert [file.parent.name for file in TERRAFORM.rglob("*.tf") if len(file.read_text().splitlines()) > 300] == []


def test_every_function_is_there() -> None:
    """In the platform, and with a size in each environment."""
    functions = set(FUNCTIONS)
    platform = (TERRAFORM / "modules/platform/main.tf").read_text()
    needs = platform[platform.index("  needs = {") : platform.index("  # EMIS allows")]
    assert set(re.findall(r"^    (\w+) += \{ secrets", needs, re.MULTILINE)) == functions
    for name in _ENVIRONMENTS:
        chosen = (TERRAFORM / "environments" / name / "main.tf").read_text()
        assert set(re.findall(r"^    (\w+) += \{ min_instances", chosen, re.MULTILINE)) == functions


@needs_terraform
@pytest.mark.parametrize("module", ["sizing", "platform"])
def test_what_a_module_says_of_itself(tmp_path: Path, module: str) -> None:
    folder = taken(tmp_path) / "modules" / module
    run(folder, "init", "-backend=false", "-no-color")
    assert "0 failed" in run(folder, "test", "-no-color")


@needs_terraform
@pytest.mark.parametrize("name", _ENVIRONMENTS)
def test_an_environment_from_nothing_and_its_changes(tmp_path: Path, name: str) -> None:
    """It applies, then has nothing more to do, nor has a release; a switch of regions replaces nothing."""
    folder = taken(tmp_path) / "environments" / name
    run(folder, "init", "-backend=false", "-no-color")
    run(folder, "apply", "-auto-approve", "-no-color")
    assert "No changes" in run(folder, "plan", "-no-color", "-var", "image=registry.example/carefolio@sha256:0")
    switched = run(folder, "plan", "-no-color", "-var", "primary_region=second")
    assert re.search(r"Plan: 0 to add, \d+ to change, 0 to destroy", switched), switched
    instances = re.findall(r'sql_database_instance\.instance\["(\w+)"\] will be updated in-place', switched)
    assert instances == ["primary", "second"]


@needs_terraform
def test_releases_go_from_one_environment_to_the_next(tmp_path: Path) -> None:
    """The delivery's own environment: by what is pushed, then by topics; production waits for a person."""
    folder = taken(tmp_path) / "environments" / "delivery"
    run(folder, "init", "-backend=false", "-no-color")
    run(folder, "apply", "-auto-approve", "-no-color")
    assert "No changes" in run(folder, "plan", "-no-color")
    state = json.loads(run(folder, "show", "-json"))
    [module] = state["values"]["root_module"]["child_modules"]
    deployments = {
        each["index"]: each["values"]
        for each in module["resources"]
        if each["type"] == "google_cloudbuild_trigger" and each["name"] == "deploy"
    }
    assert {name: each["approval_config"][0]["approval_required"] for name, each in deployments.items()} == {
        "test": False, "staging": False, "production": True,
    }  # fmt: skip
    assert {name: each["substitutions"]["_NEXT"].rpartition("/")[2] for name, each in deployments.items()} == {
        "test": "deploy-staging", "staging": "deploy-production", "production": "",
    }  # fmt: skip
    steps = [step["id"] for step in deployments["production"]["build"][0]["step"]]
    assert steps == ["alone", "migrate", "rollout", "standby", "promote"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What the test environment would have, by type."""
    folder = taken(tmp_path_factory.mktemp("planned")) / "environments" / "test"
    run(folder, "init", "-backend=false", "-no-color")
    run(folder, "plan", "-no-color", "-out=planned")
    found: dict[str, list[dict[str, Any]]] = {}
    for change in json.loads(run(folder, "show", "-json", "planned"))["resource_changes"]:
        found.setdefault(change["type"], []).append(change | {"after": change["change"]["after"]})
    return found


@needs_terraform
def test_the_load_balancer_has_the_paths_of_one_machine(planned: dict[str, list[dict[str, Any]]]) -> None:
    """The URL maps that are planned are functions/url_map.json: hospitals at a host of their own, the rest at two."""
    maps = {each["index"]: each["after"] for each in planned["google_compute_url_map"] if each["name"] == "door"}
    wanted = {
        name: sorted(path for each in paths for path in ([each] if each == "/" else [each, f"{each}/*"]))
        for name, paths in url_map().items()
    }
    hospitals = wanted.pop("hl7")
    found = {
        door: sorted(sorted(rule["paths"]) for rule in one["path_matcher"][0]["path_rule"])
        for door, one in maps.items()
    }
    assert found == {"hl7": [hospitals], "web": sorted(wanted.values()), "api": sorted(wanted.values())}


@needs_terraform
def test_the_clock_and_the_topics_are_those_of_one_machine(planned: dict[str, list[dict[str, Any]]]) -> None:
    facts = wiring()
    jobs = [each["after"] for each in planned["google_cloud_scheduler_job"]]
    assert len(jobs) == 2 * len(facts["jobs"])
    assert {job["description"] for job in jobs} == {f"POST {job['path']}" for job in facts["jobs"]}
    assert {(job["region"], job["paused"]) for job in jobs} == {("europe-west2", False), ("europe-west1", True)}
    topics = {each["after"]["name"] for each in planned["google_pubsub_topic"]} - {"secret-to-turn"}
    assert topics == {each["topic"] for each in facts["subscriptions"]}


@needs_terraform
def test_nothing_of_it_is_open_to_everybody(planned: dict[str, list[dict[str, Any]]]) -> None:
    """What the load balancer reaches may be invoked by all, through it alone; no database and no bucket is public."""
    services = {each["after"]["name"]: each["after"]["ingress"] for each in planned["google_cloud_run_v2_service"]}
    public = {
        each["index"]
        for each in planned["google_cloud_run_v2_service_iam_member"]
        if each["after"].get("member") == "allUsers"
    }
    assert public == set(url_map())
    assert {name for name, ingress in services.items() if ingress == "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"} == {
        f"carefolio-{name}" for name in public
    }
    assert "INGRESS_TRAFFIC_ALL" not in services.values()
    for database in planned["google_sql_database_instance"]:
        assert database["after"]["settings"][0]["ip_configuration"][0]["ipv4_enabled"] is False
    for bucket in planned["google_storage_bucket"]:
        assert bucket["after"]["public_access_prevention"] == "enforced"
    [hospitals] = [each for each in planned["google_compute_security_policy"] if each["name"] == "hl7"]
    last = max(hospitals["after"]["rule"], key=lambda rule: int(rule["priority"]))
    assert (last["action"], last["match"][0]["config"][0]["src_ip_ranges"]) == ("deny(403)", ["*"])


@needs_terraform
def test_cloud_monitoring_knows_every_word_of_the_dashboard(planned: dict[str, list[dict[str, Any]]]) -> None:
    read = {
        each["name"] + each.get("index", ""): json_format.ParseDict(
            json.loads(each["after"]["dashboard_json"]), Dashboard.pb()()
        )
        for each in planned["google_monitoring_dashboard"]
    }
    assert len(read.pop("whole").mosaic_layout.tiles) == 2 * len(url_map()) + 8
    assert set(read) == {f"function{name}" for name in FUNCTIONS}


@needs_terraform
def test_what_the_log_says_is_said_by_the_functions(planned: dict[str, list[dict[str, Any]]]) -> None:
    """Alerts look for events: each is one that can be logged, and those that a person has to hear of are all there."""
    looked_for = set()
    for policy in planned["google_monitoring_alert_policy"]:
        for condition in policy["after"]["conditions"]:
            for matched in condition["condition_matched_log"]:
                looked_for |= set(re.findall(r'jsonPayload\.event="(\w+)"', matched["filter"]))
    known = {event.name.lower(): event.value[0] for event in Event}
    assert looked_for <= set(known)
    assert {name for name in known if name.endswith(("_alert", "dead_letter"))} <= looked_for
    counted = [each["after"]["filter"] for each in planned["google_logging_metric"]]
    assert all(event in known for each in counted for event in re.findall(r'jsonPayload\.event="(\w+)"', each))


def test_a_runbook_is_there_for_every_alert() -> None:
    named = set()
    for file in (TERRAFORM / "modules/watch").glob("*.tf"):
        text = file.read_text()
        named |= set(re.findall(r"docs/runbooks/([\w-]+)\.md", text))
        named |= set(re.findall(r'runbook = "([\w-]+)"', text))
    assert {name for name in named if not (REPOSITORY / f"docs/runbooks/{name}.md").exists()} == set()
