"""How large and how dear it has to be, for how many patients: scripts/capacity [--check]

A model of measured costs (``scripts/bench capacity``), of what people are assumed to do, and of list prices; each is
stated here and written into docs/capacity.md, between its marks. Change one, run it again, and the page says what
follows.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "capacity.md"
BEGIN, END = "<!-- made by scripts/capacity: begin -->", "<!-- end -->"
PATIENTS = (100_000, 1_000_000, 10_000_000, 60_000_000)
_YEAR = 365 * 24 * 3600


@dataclass(frozen=True)
class Operation:
    """``functions``, ``database``: processor's milliseconds; ``disk``: kB that stay; ``yearly``: of one patient."""

    name: str
    functions: float
    database: float
    disk: float
    yearly: float
    why: str


# Measured on 2026-11-27; 23 kB of a GP's history are 10 of its rows.
OPERATIONS = (
    Operation("result message of a hospital (ORU, 4 results)", 3.00, 2.61, 17.0, 6, "24 results a year"),
    Operation("other message (ADT, SIU, MDM)", 1.41, 1.38, 1.4, 15, "visits, appointments, letters"),
    Operation("row of an EMIS extract", 0.10, 0.13, 2.3, 60, "after the first load"),
    Operation("page of the portal, or a search", 3.0, 1.5, 0.3, 60, "a quarter come once a month, 20 pages"),
    Operation("FHIR read or search by an app", 0.39, 0.51, 0.4, 200, "a tenth have an app that looks twice a day"),
)
# At first: a life's record of a practice, 500 rows.
FIRST_ROWS, ROW_KB = 500, 2.3
# The busiest minute, of the average of a year: most of it in 50 working hours a week, and a peak in each.
PEAK = 10
# Of a measured core, what a vCPU of the cloud does (half a core; a newer one).
VCPU = 0.7
# How busy a database may be in its busiest minute, and a function.
BUSY_DATABASE, BUSY_FUNCTION = 0.5, 0.6
# Of the disk so much is asked for again and again and wants to be in memory; gigabytes that come with a vCPU.
HOT, MEMORY = 0.005, 8
# Beside the tables: free space, temporary files, log on the disk.
SPARE = 1.4
YEARS = 3

# US dollars a month unless said. List prices of May 2026 for Iowa and a quarter more for London; Enterprise Plus is
# reckoned a third above Enterprise. They change: put your own.
LONDON, PLUS = 1.25, 1.33
DATABASE_VCPU = 0.0413 * 730 * LONDON * PLUS
DATABASE_GB = 0.0070 * 730 * LONDON * PLUS
DISK_GB = 0.17 * LONDON
RUN_VCPU = 0.0000180 * 730 * 3600 * LONDON
RUN_GB = 0.0000020 * 730 * 3600 * LONDON
BUCKET_GB = 0.026 * LONDON
# The load balancer, Cloud Armor, keys, logs, what does not grow much.
FIXED = 900.0
LARGEST_DATABASE, LARGEST_DISK_TB = 128, 64


@dataclass(frozen=True)
class Size:
    """What so many patients need."""

    patients: int
    operations: float
    functions: float
    instances: int
    database: float
    vcpus: int
    disk_gb: float
    cost: float


def size(patients: int) -> Size:
    each = [(operation, patients * operation.yearly / _YEAR * PEAK) for operation in OPERATIONS]
    functions = sum(rate * operation.functions / 1000 for operation, rate in each) / VCPU
    database = sum(rate * operation.database / 1000 for operation, rate in each) / VCPU
    kept = patients * (FIRST_ROWS * ROW_KB + YEARS * sum(one.yearly * one.disk for one in OPERATIONS))
    disk = kept / 1e6 * SPARE
    vcpus = _machine(max(database / BUSY_DATABASE, disk * HOT / MEMORY))
    instances = max(14, math.ceil(functions / BUSY_FUNCTION))
    # Two machines in the region and two in the other; disk likewise.
    machines = 4 * (vcpus * DATABASE_VCPU + vcpus * MEMORY * DATABASE_GB + disk * DISK_GB)
    # On average a third of the peak, and the least that stays up in both regions.
    run = (max(instances / 3, 14) + 14) * (RUN_VCPU + RUN_GB)
    buckets = disk * 3 * BUCKET_GB
    return Size(patients, sum(rate for _, rate in each), functions, instances, database, vcpus, disk,
                machines + run + buckets + FIXED)  # fmt: skip


def _machine(wanted: float) -> int:
    """The smallest machine that has so many vCPUs; more than the largest is said as it is."""
    for vcpus in (2, 4, 8, 16, 32, 48, 64, 80, 96, 128):
        if vcpus >= wanted:
            return vcpus
    return math.ceil(wanted)


def tables() -> str:
    lines = [
        "| Operation | functions, ms | database, ms | stays, kB | a patient, a year | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in OPERATIONS:
        costs = f"{each.functions:.2f} | {each.database:.2f} | {each.disk:.1f} | {each.yearly:g}"
        lines.append(f"| {each.name} | {costs} | {each.why} |")
    lines += [
        "",
        f"At first {FIRST_ROWS} rows of a practice, {ROW_KB} kB each. Peak: {PEAK} times the average.",
        f"A vCPU: {VCPU} of the measured core. Busy at the peak: {BUSY_DATABASE:.0%} of the database,",
        f"{BUSY_FUNCTION:.0%} of the functions.",
        f"Disk after {YEARS} years, {SPARE - 1:.0%} spare; {HOT:.1%} of it is to be in memory, {MEMORY} GB to a vCPU.",
        "",
        "| Patients | operations/s at peak | instances, 1 vCPU | database, busy vCPUs | machine | disk | a month |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for made in map(size, PATIENTS):
        machine = f"{made.vcpus} vCPUs" + ("" if made.vcpus <= LARGEST_DATABASE else ": more than there is")
        terabytes = made.disk_gb / 1000
        disk = f"{terabytes:.1f} TB" + ("" if terabytes <= LARGEST_DISK_TB else ": more than there is")
        load = f"{made.operations:,.0f} | {made.instances} | {made.database:.1f}"
        lines.append(f"| {made.patients:,} | {load} | {machine} | {disk} | ${_round(made.cost):,} |")
    lines += ["", f"One Cloud SQL instance is full at about {_full():,} patients: {_what_is_full()}."]
    return "\n".join(lines)


def _round(cost: float) -> int:
    return int(float(f"{cost:.2g}"))


def _full() -> int:
    """For how many patients the largest machine with the largest disk is enough."""
    one = size(1_000_000)
    by_disk = LARGEST_DISK_TB * 1000 / one.disk_gb
    by_machine = LARGEST_DATABASE * BUSY_DATABASE / one.database
    return int(float(f"{min(by_disk, by_machine) * 1_000_000:.2g}"))


def _what_is_full() -> str:
    one = size(1_000_000)
    by_disk = LARGEST_DISK_TB * 1000 / one.disk_gb < LARGEST_DATABASE * BUSY_DATABASE / one.database
    return f"its disk of {LARGEST_DISK_TB} TB first" if by_disk else f"its {LARGEST_DATABASE} vCPUs first"


def page(now: str) -> str:
    before, _, rest = now.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    wanted = page(PAGE.read_text())
    if arguments == ["--check"]:
        if PAGE.read_text() == wanted:
            return 0
        print("made anew by scripts/capacity: docs/capacity.md", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
