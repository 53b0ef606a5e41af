"""Random requests against a simple model of a FHIR server: both answer the same (R4 3.1.0)."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.conftest import Hospital, unique

NAMES = st.sampled_from(["Ash", "Birch", "Cedar"])
GENDERS = st.sampled_from(["male", "female", "other", None])
WHICH = st.integers(0, 3)


class Server:
    """The real one, over one connection."""

    def __init__(self, app: Hospital, token: str) -> None:
        url = urllib.parse.urlsplit(app.installation.url)
        self._connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        self._token = token

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, http.client.HTTPMessage]:
        media = "application/json-patch+json" if method == "PATCH" else "application/fhir+json"
        sent = {"Authorization": f"Bearer {self._token}", "Content-Type": media}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, f"/fhir/R4/{path}", json.dumps(body) if body is not None else None, sent)
        answer = self._connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None, answer.headers


def machine(server: Server) -> type[RuleBasedStateMachine]:
    """The model and what may be asked, against one server."""

    class Model(RuleBasedStateMachine):
        """``versions``: id -> what each version said, None for a deletion."""

        @initialize()
        def begin(self) -> None:
            self.run = unique("run")
            self.versions: dict[str, list[dict[str, Any] | None]] = {}
            self.ids = [f"{self.run}-{number}" for number in range(4)]

        def said(self, which: int, name: str, gender: str | None) -> dict[str, Any]:
            made = {
                "resourceType": "Patient",
                "id": self.ids[which],
                "identifier": [{"system": f"urn:{self.run}", "value": str(which)}],
                "name": [{"family": name}],
            }
            return made | ({"gender": gender} if gender else {})

        def current(self, which: int) -> dict[str, Any] | None:
            versions = self.versions.get(self.ids[which])
            return versions[-1] if versions else None

        def count(self, which: int) -> int:
            return len(self.versions.get(self.ids[which], []))

        @staticmethod
        def plain(resource: Any) -> Any:
            return {name: value for name, value in resource.items() if name != "meta"}

        @rule(which=WHICH, name=NAMES, gender=GENDERS, stale=st.sampled_from([None, 0, 1]))
        def update(self, which: int, name: str, gender: str | None, stale: int | None) -> None:
            said, there = self.said(which, name, gender), self.current(which)
            headers = {} if stale is None else {"If_Match": f'W/"{max(1, self.count(which) - stale)}"'}
            status, body, answered = server.ask("PUT", f"Patient/{said['id']}", said, **headers)
            if stale is not None and (there is None or max(1, self.count(which) - stale) != self.count(which)):
                assert status == 412
                return
            assert status == (200 if there else 201)
            assert self.plain(body) == said
            if there != said:
                self.versions.setdefault(said["id"], []).append(said)
            assert answered["ETag"] == f'W/"{self.count(which)}"'

        @rule(which=WHICH, gender=st.sampled_from(["male", "female"]))
        def patch(self, which: int, gender: str) -> None:
            there = self.current(which)
            operation = [{"op": "add", "path": "/gender", "value": gender}]
            status, body, _ = server.ask("PATCH", f"Patient/{self.ids[which]}", operation)
            if there is None:
                assert status in (404, 410)
                return
            assert (status, body["gender"]) == (200, gender)
            changed = there | {"gender": gender}
            if changed != there:
                self.versions[self.ids[which]].append(changed)

        @rule(which=WHICH)
        def delete(self, which: int) -> None:
            there = self.current(which)
            status, _, _ = server.ask("DELETE", f"Patient/{self.ids[which]}")
            assert status == 204
            if there is not None:
                self.versions[self.ids[which]].append(None)

        @rule(which=WHICH)
        def read(self, which: int) -> None:
            there = self.current(which)
            status, body, headers = server.ask("GET", f"Patient/{self.ids[which]}")
            if there is None:
                assert status == (410 if self.count(which) else 404)
                return
            assert (status, self.plain(body)) == (200, there)
            assert headers["ETag"] == f'W/"{self.count(which)}"'

        @rule(which=WHICH, version=st.integers(1, 6))
        def vread(self, which: int, version: int) -> None:
            status, body, _ = server.ask("GET", f"Patient/{self.ids[which]}/_history/{version}")
            versions = self.versions.get(self.ids[which], [])
            if version > len(versions):
                assert status == 404
            elif versions[version - 1] is None:
                assert status == 410
            else:
                assert self.plain(body) == versions[version - 1]

        @rule(which=WHICH)
        def history(self, which: int) -> None:
            status, body, _ = server.ask("GET", f"Patient/{self.ids[which]}/_history")
            versions = self.versions.get(self.ids[which], [])
            if not versions:
                assert status == 404
                return
            told = [self.plain(e["resource"]) if "resource" in e else None for e in body["entry"]]
            assert told == versions[::-1]

        @rule(name=NAMES, gender=GENDERS, count=st.integers(1, 3))
        def search(self, name: str, gender: str | None, count: int) -> None:
            query = f"_id={','.join(self.ids)}&family={name}" + (f"&gender={gender}" if gender else "")
            path: str | None = f"Patient?{query}&_sort=_id&_count={count}"
            found: list[Any] = []
            while path:
                status, body, _ = server.ask("GET", path)
                assert status == 200
                found += [self.plain(entry["resource"]) for entry in body.get("entry", [])]
                path = next(
                    (link["url"].split("/fhir/R4/")[1] for link in body["link"] if link["relation"] == "next"), None
                )
            live = [there for which in range(4) if (there := self.current(which)) is not None]
            wanted = [p for p in live if p["name"][0]["family"] == name and gender in (None, p.get("gender"))]
            assert sorted(found, key=str) == sorted(wanted, key=str)

        @rule(which=WHICH, name=NAMES)
        def create_if_none_exists(self, which: int, name: str) -> None:
            there = self.current(which)
            if there is None:
                return
            condition = f"identifier=urn:{self.run}|{which}"
            status, body, _ = server.ask("POST", "Patient", self.said(which, name, None), If_None_Exist=condition)
            assert (status, self.plain(body)) == (200, there)

        @rule(changes=st.lists(st.tuples(WHICH, NAMES, GENDERS), min_size=1, max_size=3), broken=st.booleans())
        def transaction(self, changes: list[tuple[int, str, str | None]], broken: bool) -> None:
            several = {which: self.said(which, name, gender) for which, name, gender in changes}
            entries: list[Any] = [
                {"resource": said, "request": {"method": "PUT", "url": f"Patient/{said['id']}"}}
                for said in several.values()
            ]
            if broken:
                wrong = {"resourceType": "Patient", "gender": "banana"}
                entries.append({"resource": wrong, "request": {"method": "POST", "url": "Patient"}})
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
            status, body, _ = server.ask("POST", "", bundle)
            if broken:
                assert status == 422
                return
            assert status == 200
            for (which, said), entry in zip(several.items(), body["entry"], strict=True):
                there = self.current(which)
                assert entry["response"]["status"][:3] == ("200" if there else "201")
                if there != said:
                    self.versions.setdefault(said["id"], []).append(said)

    return Model


@pytest.mark.timeout(300)
async def test_it_answers_as_the_model_does(app: Hospital) -> None:
    import anyio.to_thread

    model = machine(Server(app, await app.authorize()))
    asked = settings(
        max_examples=100,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    await anyio.to_thread.run_sync(lambda: run_state_machine_as_test(model, settings=asked))
