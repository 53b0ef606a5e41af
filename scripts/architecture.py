"""Draw the data flow and who may do what, of what Terraform, the URL map and the wiring say: scripts/architecture
[--check]

Writes docs/pictures/architecture.svg and the tables of docs/architecture.md between its marks, so that neither can
drift: a test compares them with what is there. Only local files are read.
"""

from __future__ import annotations

import json
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

import hcl2

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "architecture.md"
PICTURE = REPOSITORY / "docs" / "pictures" / "architecture.svg"
BEGIN, END = "<!-- made by scripts/architecture: begin -->", "<!-- end -->"
_MODULES = REPOSITORY / "terraform" / "modules"


def terraform(module: str) -> dict[str, Any]:
    """The blocks of a module, all its files together: by kind a list."""
    whole: dict[str, Any] = {}
    for file in sorted((_MODULES / module).glob("*.tf")):
        for kind, blocks in hcl2.loads(file.read_text()).items():
            if isinstance(blocks, list):
                whole.setdefault(kind, []).extend(blocks)
    return whole


def bare(value: Any) -> Any:
    """What hcl2 reads, without its quotes and its marks of expressions."""
    if isinstance(value, dict):
        return {bare(name): bare(each) for name, each in value.items() if name != "__is_block__"}
    if isinstance(value, list):
        return [bare(each) for each in value]
    if isinstance(value, str):
        text = value.strip('"')
        return text[2:-1] if text.startswith("${") and text.endswith("}") else text
    return value


def local(module: str, name: str) -> Any:
    """A local value of a module, as it is written."""
    for block in terraform(module).get("locals", []):
        for key, value in block.items():
            if key == name:
                return bare(value)
    raise KeyError(f"{module}: local.{name}")


def needs() -> dict[str, dict[str, Any]]:
    """By function what it reads and may do (modules/platform)."""
    return {name: read(value) for name, value in local("platform", "needs").items()}


def read(value: Any) -> dict[str, Any]:
    """An object that hcl2 gives as text, such as {secrets = ["a"], files = True}."""
    if isinstance(value, dict):
        return value
    text = re.sub(r"(\w+)\s*[=:]", r'"\1":', str(value)).replace("True", "true").replace("False", "false")
    made: dict[str, Any] = json.loads(text)
    return made


def url_map() -> dict[str, list[str]]:
    loaded: dict[str, list[str]] = json.loads((REPOSITORY / "functions" / "url_map.json").read_text())
    return loaded


def wiring() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((REPOSITORY / "shared/carefolio/cloud/wiring.json").read_text())
    return loaded


def host_of(function: str) -> str:
    """At which of the three hosts a function is reached (modules/edge)."""
    return "hl7" if function == "hl7" else "web and api"


_WHO = {
    "hl7": "hospitals", "fhir": "apps", "api": "apps, organisations", "login": "everybody who signs in",
    "portal": "patients, professionals", "ingest": "Pub/Sub", "notify": "Pub/Sub, the clock",
    "jobs": "Pub/Sub, the clock",
    "emis_fetch": "the clock", "emis_load": "Pub/Sub, the clock", "operations": "the clock",
}  # fmt: skip


def tables() -> str:
    """The two tables: what calls what, and who may do what."""
    subscriptions, jobs = wiring()["subscriptions"], wiring()["jobs"]
    flow = ["| Function | Called by | At | Reads and writes |", "| --- | --- | --- | --- |"]
    for name, need in needs().items():
        at = [f"`{path}`" for path in url_map().get(name, [])]
        at += [f"topic `{each['topic']}`" for each in subscriptions if each["function"] == name]
        at += [f"`{each['path']}` every {each['minutes']} min" for each in jobs if each["path"].split("/")[1] == name]
        uses = ["database", *(["files"] if need["files"] else []), *(["topics"] if need["publishes"] else [])]
        flow.append(f"| {name} | {_WHO[name]} | {', '.join(at) or 'jobs of the agreements'} | {', '.join(uses)} |")
    access = ["| Account | Secrets | Buckets | Agreements' keys and jobs | From outside reached by |",
              "| --- | --- | --- | --- | --- |"]  # fmt: skip
    roles = copying()
    for name, need in {**needs(), "command": read(local("platform", "command"))}.items():
        buckets = (["files: read, write"] if need["files"] else ["profiles: add"]) + roles.get(name, [])
        reached = host_of(name) if name in url_map() else ("operators" if name == "command" else "nobody")
        secrets = ", ".join(f"`{each}`" for each in need["secrets"]) or "none"
        access.append(f"| {name} | {secrets} | {', '.join(buckets) or 'none'} | {need['agreements']} | {reached} |")
    access.append("| migrate | none | none | none | the pipeline; alone owns tables |")
    access.append("| caller | none | none | none | Pub/Sub and the clock, in its name |")
    return "\n".join([*flow, "", *access])


def copying() -> dict[str, list[str]]:
    """By account what it may do with the copies and with the exports (modules/identity)."""
    text = (_MODULES / "identity" / "main.tf").read_text()
    found: dict[str, list[str]] = {}
    block = text[text.index("  copying = ") : text.index("  publishes = ")]
    for name, role in re.findall(r'(\w+) = "roles/storage\.(\w+)"', block):
        found.setdefault(name, []).append("copies: " + {"objectCreator": "add", "objectViewer": "read"}[role])
    block = text[text.index('resource "google_storage_bucket_iam_member" "offsite"') :][:400]
    words = [
        {"objectCreator": "add", "objectViewer": "read"}[role] for role in re.findall(r"roles/storage\.(\w+)", block)
    ]
    member = re.search(r'account\["(\w+)"\]', block)
    assert member
    found.setdefault(member[1], []).append("exports: " + ", ".join(words))
    return found


def picture() -> str:
    """Who comes from outside, through which edge, to which function, and what that leads to."""
    public, inner = list(url_map()), [name for name in needs() if name not in url_map()]
    parts: list[str] = []

    def box(x: float, y: float, wide: float, high: float, title: str, lines: list[str], colour: str) -> None:
        parts.append(f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="6" fill="{colour}" stroke="#425563"/>')
        parts.append(f'<text x="{x + 10}" y="{y + 18}" font-weight="bold">{escape(title)}</text>')
        for number, line in enumerate(lines):
            parts.append(f'<text x="{x + 10}" y="{y + 36 + 15 * number}" font-size="11">{escape(line)}</text>')

    def arrow(x1: float, y1: float, x2: float, y2: float, text: str = "") -> None:
        parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#425563" marker-end="url(#head)"/>')
        if text:
            middle = (x1 + x2) / 2
            parts.append(
                f'<text x="{middle}" y="{(y1 + y2) / 2 - 4}" text-anchor="middle" font-size="10">{escape(text)}</text>'
            )

    policies = {
        each
        for block in terraform("edge")["resource"]
        for kind, made in block.items()
        if bare(kind) == "google_compute_security_policy"
        for each in bare(made)
    }
    hscn = any(
        bare(kind) == "google_compute_interconnect_attachment"
        for block in terraform("edge")["resource"]
        for kind in block
    )
    outside = (
        ("Hospitals", "HL7 v2, Basic, their networks" + (", HSCN" if hscn else "")),
        ("Apps, organisations", "OAuth2, FHIR R4, REST"),
        ("Patients, professionals", "browser, NHS login, SSO"),
    )
    box(10, 10, 220, 30 + 70 * len(public), "Internet" + (" and HSCN" if hscn else ""), [], "#f0f4f5")
    for number, (who, how) in enumerate(outside):
        box(20, 45 + number * 115, 200, 60, who, [how], "#fff")
    box(
        270,
        10,
        190,
        30 + 70 * len(public),
        "Edge",
        [
            "3 hosts, each its TLS policy",
            f"Cloud Armor: {', '.join(sorted(policies))}",
            "URL map: functions/url_map.json",
        ],
        "#d2e2f1",
    )
    arrow(230, 190, 270, 190, "HTTPS")
    box(500, 10, 260, 30 + 70 * len(public), "Public functions, behind the edge alone", [], "#e8edee")
    for number, name in enumerate(public):
        box(
            510, 40 + number * 70, 240, 60, name, [_short(" ".join(url_map()[name])), f"called by {_WHO[name]}"], "#fff"
        )
        arrow(460, 70 + number * 70, 510, 70 + number * 70)
    low = 60 + 70 * len(public)
    box(500, low, 260, 30 + 56 * len(inner), "Internal functions (no public path)", [], "#e8edee")
    for number, name in enumerate(inner):
        box(510, low + 28 + number * 56, 240, 48, name, [f"called by {_WHO[name]}"], "#fff")
    box(
        820,
        10,
        250,
        120,
        "PostgreSQL (Cloud SQL)",
        [
            "two zones, private address only",
            "each function its own user, no tables",
            "replica in the second region",
            "log kept 7 to 35 days; our own keys",
        ],
        "#fff",
    )
    topics = [each["topic"] for each in wiring()["subscriptions"]]
    box(820, 150, 250, 45 + 15 * len(topics), "Pub/Sub, pushes with a signed token", topics, "#fff")
    below = 215 + 15 * len(topics)
    box(
        820,
        below,
        250,
        100,
        "Buckets",
        ["files: two regions", "copies of messages: the other region", "exports, proofs: another project, locked"],
        "#fff",
    )
    box(
        820,
        below + 120,
        250,
        50 + 15 * len(wiring()["jobs"]),
        "Cloud Scheduler; paused in the other region",
        [f"{each['path']}, {each['minutes']} min" for each in wiring()["jobs"]],
        "#fff",
    )
    arrow(760, 70, 820, 70, "SQL")
    arrow(760, 200, 820, 200, "outbox")
    arrow(830, below - 20, 760, low + 60, "push")
    arrow(760, below - 30, 820, below + 40, "copies, files")
    arrow(820, below + 150, 760, low + 30 + 50 * len(inner), "clock")
    box(
        20,
        low,
        440,
        150,
        "Called by us",
        [
            "EMIS: SFTP by emis_fetch, from two fixed addresses",
            "NHS login, organisations' providers: login",
            "the national register (PDS): api, portal",
            "letters (SMTP), allowed receivers (HTTPS): notify",
            "from inside the perimeter, by names that are checked",
        ],
        "#f0f4f5",
    )
    arrow(500, low + 90, 460, low + 90)
    high = max(low + 60 + 56 * len(inner), below + 190 + 15 * len(wiring()["jobs"]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1080 {high}" width="1080" height="{high}" '
        'font-family="sans-serif" font-size="13">'
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#425563"/></marker></defs>'
        f'<rect width="1080" height="{high}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _short(text: str) -> str:
    return text if len(text) < 40 else text[:38] + " …"


def page(now: str) -> str:
    """The page with its tables made anew."""
    before, _, rest = now.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    wanted = {PAGE: page(PAGE.read_text()), PICTURE: picture()}
    if arguments == ["--check"]:
        stale = [str(path.relative_to(REPOSITORY)) for path, text in wanted.items()
                 if not path.exists() or path.read_text() != text]  # fmt: skip
        if stale:
            print("made anew by scripts/architecture: " + ", ".join(stale), file=sys.stderr)
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
