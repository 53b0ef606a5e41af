"""Code systems, value sets, concept maps and profiles of the installation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from carefolio.cloud.database import Pool
from carefolio.commands.terminal import Json, UsageError, run, show
from carefolio.terminology import dmd, packages, rf2, store
from carefolio.terminology.concepts import TerminologyError

terminology_app = typer.Typer(
    no_args_is_help=True, help="Code systems, value sets, concept maps and profiles: packages, SNOMED CT, dm+d."
)


@terminology_app.command("load")
def terminology_load(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A FHIR package (.tgz), an RF2 or dm+d release (zip, folder).")
    ],
    as_json: Json = False,
) -> None:
    """Load a package or release; it takes the place of what it has the URL and version of, when all of it is there."""
    started = time.monotonic()
    try:
        name, incoming = _read(path)

        async def work(pool: Pool) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await store.add(connection, incoming, name)

        run(work)
    except TerminologyError as error:
        raise UsageError(f"{path.name}: {error}") from None
    concepts = sum(len(each.concepts) for each in incoming)
    show({"source": name, "resources": len(incoming), "concepts": concepts,
          "seconds": round(time.monotonic() - started, 1)}, as_json)  # fmt: skip


def _read(path: Path) -> tuple[str, list[store.Incoming]]:
    if path.name.endswith((".tgz", ".tar.gz", ".tar")):
        return packages.read(path)
    names = [file.name for file in path.rglob("f_vmp2_*")] if path.is_dir() else [path.name]
    is_dmd = bool(names) and ("f_vmp2" in names[0] or "dmd" in names[0].lower())
    return dmd.read(path) if is_dmd else rf2.read(path)


@terminology_app.command("list")
def terminology_list(as_json: Json = False) -> None:
    """What is loaded: by source how many of which kind, and its code systems with more than a thousand concepts."""
    found = run(store.listed)
    sources: dict[str, dict[str, int]] = {}
    for each in found:
        kinds = sources.setdefault(each.source, {})
        kinds[each.kind] = kinds.get(each.kind, 0) + 1
    large = [
        {"url": each.url, "version": each.version, "concepts": each.concepts} for each in found if each.concepts > 1000
    ]
    if as_json:
        show({"sources": sources, "systems": large}, True)
        return
    for source, kinds in sources.items():
        typer.echo(f"{source:<40} {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}")
    for one in large:
        typer.echo(f"  {one['url']:<60} {one['version']:<40} {one['concepts']:,} concepts")


@terminology_app.command("remove")
def terminology_remove(source: str, as_json: Json = False) -> None:
    """Remove all that came with a package or release, by the name that ``list`` tells."""
    if not (removed := run(lambda pool: store.remove_source(pool, source))):
        raise UsageError(f"nothing is here that came with {source}")
    show({"source": source, "removed": removed}, as_json)
