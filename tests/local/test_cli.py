"""The command ``carefolio``: what an administrator types, and one sentence where it cannot be."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest
from tests.conftest import CLI, ENVIRONMENT, Hospital, Running, nhs, unique
from tests.sharing_kit import World

from carefolio.local import load


def ods() -> str:
    return unique("Q")


def test_an_organisation_with_team_sender_and_client(installation: Running) -> None:
    code = ods()
    made = json.loads(installation.cli("organisation", "add", code.lower(), "A Hospital", "--json").stdout)
    assert made["ods_code"] == code
    team = json.loads(installation.cli("team", "add", "Renal", "--organisation", code, "--json").stdout)
    assert team["name"] == "Renal"
    sender = json.loads(
        installation.cli(
            "sender", "add", unique("lab"), "--organisation", code, "--team", "Renal",
            "--allow", "192.0.2.0/24", "--allow", "2001:db8::/32", "--json",
        ).stdout
    )  # fmt: skip
    assert set(sender) >= {"username", "password"}
    client = json.loads(
        installation.cli("client", "add", "app", "--organisation", code, "--scope", "system/*.rs", "--json").stdout
    )
    assert set(client) >= {"client_id", "client_secret"}


async def test_secrets_are_stored_as_argon2id_only(hospital: Hospital) -> None:
    stored = await hospital.database.fetchrow(
        "SELECT password_hash, to_jsonb(sender)::text AS whole FROM sender WHERE username = $1",
        hospital.sender["username"],
    )
    assert stored["password_hash"].startswith("$argon2id$")
    assert hospital.sender["password"] not in stored["whole"]
    stored = await hospital.database.fetchval(
        "SELECT to_jsonb(client)::text FROM client WHERE id = $1", hospital.client["client_id"]
    )
    assert hospital.client["client_secret"] not in stored


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["organisation", "add", "!!", "X"], "an ODS code has"),
        (["organisation", "add", "RX1", " "], "a name has"),
        (["team", "add", "T", "--organisation", "NOSUCH"], "there is no organisation NOSUCH"),
        (["sender", "add", "s", "--organisation", "NOSUCH", "--allow", "10.0.0.0/8"], "there is no organisation"),
        (["sender", "add", "s", "--organisation", "X", "--allow", "10.0.0.1/8"], "not a network"),
        (["sender", "add", "s", "--organisation", "X", "--allow", "10.0.0.0/8", "--partner"], "needs --permit"),
        (["sender", "add", "s", "--organisation", "X", "--allow", "10.0.0.0/8", "--permit", "A=B"], "--partner"),
        (["client", "add", "c", "--organisation", "X", "--scope", "everything"], "not a scope: everything"),
        (["client", "add", "c", "--organisation", "X", "--scope", ""], "at least one scope"),
        (["message", "show", "nonsense"], "not the id of a message"),
        (["message", "show", "00000000-0000-0000-0000-000000000000"], "there is no such message"),
        (["message", "list", "--status", "nonsense"], "--status is one of"),
        (["message", "replay"], "name messages"),
        (["hl7", "map"], "name a file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(installation: Running, arguments: list[str], says: str) -> None:
    done = installation.cli(*arguments, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.startswith("carefolio: ")
    assert done.stderr.count("\n") == 1


def test_the_same_organisation_twice(installation: Running) -> None:
    code = ods()
    installation.cli("organisation", "add", code, "One")
    again = installation.cli("organisation", "add", code, "Two", check=False)
    assert "there is an organisation" in again.stderr


def test_private_keys_are_not_taken(installation: Running, hospital: Hospital, tmp_path: Path) -> None:
    from joserfc.jwk import ECKey

    keys = tmp_path / "keys.json"
    for held in ({"keys": [ECKey.generate_key("P-256").as_dict(private=True)]}, {"keys": []}, [], {"keys": [{}]}):
        keys.write_text(json.dumps(held))
        done = installation.cli(
            "client", "add", "c", "--organisation", hospital.ods_code, "--scope", "system/*.rs", "--jwks", str(keys),
            check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "JWK" in done.stderr


async def test_messages_are_listed_shown_and_replayed(hospital: Hospital, installation: Running) -> None:
    number = nhs()
    held = await hospital.accepted(load.report(number, control_id := unique()))
    assert held["status"] == "held"
    listed = json.loads(installation.cli("message", "list", "--control-id", control_id, "--json").stdout)
    assert [row["id"] for row in listed] == [str(held["id"])]
    assert listed[0]["reason"] == "the patient is not known here"
    assert control_id in installation.cli("message", "list", "--status", "held").stdout
    shown = json.loads(installation.cli("message", "show", str(held["id"]), "--json").stdout)
    assert number in shown["raw"]
    assert await hospital.database.fetchval(
        "SELECT count(*) FROM audit WHERE action = 'read-message' AND message_id = $1", held["id"]
    )
    tried = json.loads(installation.cli("message", "replay", str(held["id"]), "--json").stdout)
    assert tried["applied"] is False
    assert tried["messages"][0]["reason"] == "the patient is not known here"
    replayed = json.loads(installation.cli("message", "replay", str(held["id"]), "--apply", "--json").stdout)
    assert replayed["messages"] == [{"message_id": str(held["id"]), "status": "queued"}]
    assert (await hospital.settled(control_id))["status"] == "held"


async def test_an_unsupported_message_can_be_replayed(hospital: Hospital, installation: Running) -> None:
    row = await hospital.accepted(f"MSH|^~\\&|LAB|T|||20261101||ZZZ^Z99|{unique()}|P|2.4")
    assert row["status"] == "unsupported"
    listed = json.loads(installation.cli("message", "list", "--status", "unsupported", "--json").stdout)
    assert str(row["id"]) in [message["id"] for message in listed]
    replayed = json.loads(installation.cli("message", "replay", str(row["id"]), "--apply", "--json").stdout)
    assert replayed["messages"] == [{"message_id": str(row["id"]), "status": "queued"}]


async def test_the_replay_of_an_applied_message_rebuilds_its_record(hospital: Hospital, installation: Running) -> None:
    row = await hospital.accepted(load.registration(nhs(), unique()))
    made = json.loads(installation.cli("message", "replay", str(row["id"]), "--json").stdout)
    (record,) = made["records"]
    assert (record["patient_id"], record["messages"], record["changed"]) == (str(row["patient_id"]), 1, [])


def test_map_needs_no_installation(tmp_path: Path) -> None:
    file = tmp_path / "m.hl7"
    file.write_bytes(load.report("9990001103", "1"))
    bad = tmp_path / "bad.hl7"
    bad.write_text("rubbish")
    batch = tmp_path / "batch.hl7"
    batch.write_bytes(b"BHS|^~\\&|A\r" + load.registration("9990001103", "1") + b"BTS|1\r")
    environment = {**ENVIRONMENT, "CAREFOLIO_HOME": str(tmp_path / "nothing")}

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([CLI, "hl7", "map", *arguments], capture_output=True, text=True, input=stdin,
                              env=environment, check=False)  # fmt: skip

    assert json.loads(run(str(file)).stdout)["resourceType"] == "Bundle"
    lines = run("--jsonl", stdin=f"{file}\n{bad}\n{tmp_path}/missing\n{batch}\n").stdout.splitlines()
    kinds = [type(made).__name__ + ("!" if "error" in made else "") for made in map(json.loads, lines)]
    assert kinds == ["dict", "dict!", "dict!", "list"]
    refused = run(str(bad))
    assert refused.returncode == 1
    assert "MSH" in refused.stderr


def test_without_an_installation_it_says_so(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "CAREFOLIO_HOME": str(tmp_path / "nothing")}
    done = subprocess.run([CLI, "message", "list"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "run scripts/up" in done.stderr
    (tmp_path / "nothing").mkdir()
    done = subprocess.run([CLI, "message", "list"], capture_output=True, text=True, env=environment, check=False)
    assert "is scripts/up running?" in done.stderr


def test_migrate_is_idempotent(installation: Running) -> None:
    assert installation.cli("migrate").stdout.startswith("schema 0")


def test_check_and_explain_need_no_installation(tmp_path: Path) -> None:
    file = tmp_path / "m.hl7"
    file.write_bytes(load.report("9990001103", "1"))
    environment = {**ENVIRONMENT, "CAREFOLIO_HOME": str(tmp_path / "nothing")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([CLI, "hl7", *arguments], capture_output=True, text=True, env=environment, check=False)

    explained = run("explain", str(file))
    assert "Observation.valueQuantity.value" in explained.stdout
    assert "Fictional" not in explained.stdout
    assert "Fictional1103" in run("explain", str(file), "--values").stdout
    assert run("check", str(file)).returncode == 0
    file.write_bytes(file.read_bytes().replace(b"|19700101|", b"|x|"))
    refused = run("check", str(file), "--json")
    assert refused.returncode == 1
    assert {"severity": "error", "place": "PID-7"}.items() <= json.loads(refused.stdout)[0].items()


async def test_teams_roles_and_closed_records(hospital: Hospital, installation: Running, world: World) -> None:
    """What an operator sets up before anybody else can."""
    number = await hospital.registered()
    team = json.loads(installation.cli("team", "add", "Psychiatry", "--organisation", hospital.ods_code, "--label",
                                       "mental-health", "--sees", "general", "--sees", "mental-health",
                                       "--json").stdout)  # fmt: skip
    assert (team["label"], team["labels"]) == ("mental-health", ["general", "mental-health"])
    odd = installation.cli("team", "add", "Odd", "--organisation", hospital.ods_code, "--label", "secret", check=False)
    assert (odd.returncode, "secret is none of" in odd.stderr) == (1, True)
    twice = installation.cli("team", "add", "Psychiatry", "--organisation", hospital.ods_code, check=False)
    assert (twice.returncode, "already" in twice.stderr) == (1, True)
    officer = str(world.people["outsider"].account)
    installation.cli("account", "role", officer, "privacy-officer")
    assert await world.pool.fetchval("SELECT roles FROM account WHERE id = $1::uuid", officer) == ["privacy-officer"]
    for who, role in ((officer, "king"), (str(world.people["patient"].account), "administrator"), ("nobody@x.org", "")):
        refused = installation.cli("account", "role", who, role, check=False)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1), refused.stderr
    patient = (await hospital.patient(number))["id"]
    installation.cli("record", "freeze", patient, "--reason", "court order 17/2026")
    assert (await hospital.get(f"Patient/{patient}")).status == 404
    installation.cli("record", "unfreeze", patient)
    assert (await hospital.get(f"Patient/{patient}")).status == 200
    nobody = installation.cli("record", "freeze", str(uuid.uuid4()), "--reason", "x", check=False)
    assert (nobody.returncode, "no such record" in nobody.stderr) == (1, True)
