"""HL7 v2 without an installation: map, explain, check."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from carefolio.commands.terminal import Json, UsageError, read_file

hl7_app = typer.Typer(no_args_is_help=True, help="HL7 v2 without an installation.")


@hl7_app.command("map")
def hl7_map(
    file: Annotated[Path | None, typer.Argument(help="A file, or - for standard input.")] = None,
    organisation: Annotated[str, typer.Option(metavar="ODS-CODE", help="Whose message it is taken for.")] = "XXX",
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Read paths on standard input, print one line each.")] = False,
) -> None:
    """Map a message to a FHIR Bundle on standard output; it needs no installation."""
    from carefolio.hl7 import HL7Error
    from carefolio.mapping import UnsupportedTypeError
    from carefolio.mapping.files import map_bytes
    from carefolio.mapping.serialise import dumps

    if jsonl:
        for line in sys.stdin:
            path = line.rstrip("\n")
            if path:
                sys.stdout.buffer.write(dumps(_mapped_or_error(path, organisation)) + b"\n")
        return
    if file is None:
        raise UsageError("name a file, or give --jsonl and paths on standard input")
    raw = read_file(file)
    try:
        typer.echo(dumps(map_bytes(raw, organisation), indent=True))
    except (HL7Error, UnsupportedTypeError, ValueError) as error:
        raise UsageError(str(error)) from None


@hl7_app.command("explain")
def hl7_explain(
    file: Annotated[Path, typer.Argument(help="A file, or - for standard input.")],
    organisation: Annotated[str, typer.Option(metavar="ODS-CODE", help="Whose message it is taken for.")] = "XXX",
    values: Annotated[bool, typer.Option("--values", help="Show the values too: they are a patient's.")] = False,
    as_json: Json = False,
) -> None:
    """For every value of a message: the FHIR element that it went to, and by which rule."""
    from carefolio.hl7 import HL7Error, is_batch, read, split_batch
    from carefolio.mapping import Source
    from carefolio.mapping.explain import explain

    raw = read_file(file)
    try:
        messages = split_batch(raw) if is_batch(raw) else [raw]
        lines = [line for single in messages for line in explain(read(single), Source(organisation))]
    except HL7Error as error:
        raise UsageError(str(error)) from None
    if as_json:
        shown = [asdict(line) | ({} if values else {"value": None}) for line in lines]
        typer.echo(json.dumps(shown, ensure_ascii=False))
        return
    for line in lines:
        value = f"{line.value[:40]:<42}" if values else ""
        typer.echo(f"{line.position:<16} {value}{line.path or '-':<60} {line.rule}")


@hl7_app.command("check")
def hl7_check(
    file: Annotated[Path, typer.Argument(help="A file, or - for standard input.")],
    as_json: Json = False,
) -> None:
    """What would be refused, and where a message strays from its version of HL7. Exit status 1 where it is refused."""
    from carefolio.hl7 import HL7Error, is_batch, read, split_batch
    from carefolio.hl7.conformance import Finding, conformance

    raw = read_file(file)
    findings: list[Finding] = []
    for single in split_batch(raw) if is_batch(raw) else [raw]:
        try:
            findings += conformance(read(single), datetime.now(UTC), production=False)
        except HL7Error as error:
            findings.append(Finding("error", str(error.place), error.reason))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{finding.severity:<12} {finding.place:<16} {finding.text}")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _mapped_or_error(path: str, organisation: str) -> Any:
    from carefolio.mapping.files import map_bytes

    try:
        return map_bytes(Path(path).read_bytes(), organisation)
    except Exception as error:  # one bad file must not end the line of a thousand
        return {"error": str(error)}
