"""A million concepts: how long they take to load, and how quickly a filter finds some of them."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from carefolio.local import releases

CONCEPTS = 1_000_000
FILTERS = 200


def measure(
    row: Callable[[str, str, str], None], port: int, token: str, environment: dict[str, str], cli: Path
) -> None:
    """Load an RF2 release of made-up names, and ask for what begins with some of their words, as somebody types."""
    folder = Path(tempfile.mkdtemp())
    try:
        releases.snomed(folder / "release", CONCEPTS)
        started = time.perf_counter()
        load = [cli, "terminology", "load", folder / "release"]
        subprocess.run(load, env=environment, check=True, capture_output=True)
        row(f"SNOMED CT release of {CONCEPTS:,} concepts, loaded", f"{time.perf_counter() - started:.0f} s", "120 s")
        [file] = (folder / "release").rglob("sct2_Description_*")
        with file.open(encoding="utf-8") as lines:
            names = [line.split("\t")[7] for number, line in enumerate(lines) if 0 < number < 200_000]
    finally:
        shutil.rmtree(folder)
    chance = random.Random(1)
    taken = []
    for number in range(FILTERS):
        words = chance.choice(names).split()
        chance.shuffle(words)
        some = words[: chance.choice((1, 2, 2, 3))]
        some[-1] = some[-1][: chance.randint(3, 6)]
        below = f"=isa/{releases.code_of(chance.randint(1, 7))}" if number % 2 else ""
        query = {"url": f"http://snomed.info/sct?fhir_vs{below}", "filter": " ".join(some), "count": "20"}
        address = f"http://127.0.0.1:{port}/fhir/R4/ValueSet/$expand?{urllib.parse.urlencode(query)}"
        asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
        started = time.perf_counter()
        with urllib.request.urlopen(asked) as answer:
            assert json.loads(answer.read())["resourceType"] == "ValueSet"
        taken.append(time.perf_counter() - started)
    taken.sort()
    row("   $expand with a filter, median", f"{statistics.median(taken) * 1000:.0f} ms", "50 ms")
    row("   p95", f"{taken[int(0.95 * FILTERS)] * 1000:.0f} ms", "")
