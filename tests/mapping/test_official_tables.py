"""HL7's own v2-to-FHIR tables: which of the rows with a target we honour, and where we go another way."""

from __future__ import annotations

import csv
import re
from collections import Counter

import pytest
from tests.conftest import SHARED

from carefolio.hl7 import read
from carefolio.mapping import Source
from carefolio.mapping.explain import explain

TABLE = SHARED / "hl7" / "v2-to-fhir" / "segments.csv"

# A value of each data type, with texts that are found again.
_VALUES = {
    "CX": "12345^^^AUTHX^MR", "XPN": "Famname^Givname", "XAD": "1 Samplestreet^^Sampletown^^ZZ1 1ZZ",
    "XTN": "^PRN^PH^^^^0163296011", "DTM": "20261101120000", "TS": "20261101120000", "DT": "20261101", "NM": "7",
    "SI": "7", "XCN": "DOCX1^Docname^Dora", "CNN": "DOCX1^Docname^Dora", "XON": "Orgname^^ORGX1", "PL": "WARDX^R7^B7",
    "EI": "EIX12^NSX", "EIP": "EIPX1^EIPX2", "HD": "HDNAME", "CQ": "7^mg", "NDL": "NDLX1&Ndlname&Nan", "DR": "20261101",
    "CWE": "CODX1^Codetext^LSYS", "CE": "CODX1^Codetext^LSYS", "CNE": "CODX1^Codetext^LSYS", "FT": "Sampletext",
    "TX": "Sampletext", "FC": "FCX1", "DLN": "DLNX1", "TQ": "1^^^20261101120000^20261101130000", "SPS": "SPSX1",
    "MSG": "ADT^A01^ADT_A01", "PT": "P", "VID": "2.5", "JCC": "JCCX1", "RPT": "RPTX1",
}  # fmt: skip
# Codes that have to be known to mean something.
_CODED = {"PID-8": "F", "NK1-15": "F", "AL1-4": "SV", "IAM-4": "SV", "OBX-11": "F", "OBR-25": "F", "PID-30": "Y",
          "PID-24": "Y", "OBR-5": "S", "TQ1-9": "S", "TXA-17": "AU", "SCH-25": "Booked", "RXA-20": "CP", "RXA-21": "A",
          "AL1-2": "DA", "IAM-2": "DA", "PV1-2": "I", "ORC-5": "CM", "ORC-1": "NW", "OBX-2": "NM", "OBX-5": "7",
          "MSH-9": "ADT^A01^ADT_A01", "MSH-12": "2.5", "MSH-7": "20261101120000", "RXA-3": "20261101",
          "PID-25": "2", "PID-15": "en^English", "NK1-20": "en^English"}  # fmt: skip
_BASES: dict[str, tuple[str, dict[str, dict[int, str]]]] = {
    "RXA": ("VXU^V04", {"ORC": {1: "RE"}, "RXA": {5: "08^HepB^CVX", 6: "1"}}),
    "RXR": ("VXU^V04", {"ORC": {1: "RE"}, "RXA": {5: "08^HepB^CVX"}, "RXR": {}}),
    "RXO": ("OMP^O09", {"ORC": {1: "NW"}, "RXO": {2: "5", 11: "5"}}),
    "RXE": ("RDE^O11", {"ORC": {1: "RE"}, "RXE": {}}),
    "TQ1": ("OMG^O19", {"ORC": {1: "NW"}, "OBR": {4: "T1^Test"}, "TQ1": {}}),
    "ORC": ("OMG^O19", {"ORC": {12: "D1^Doc^Dora", 21: "Orgname"}, "OBR": {4: "T1^Test"}}),
    "OBR": ("ORU^R01", {"OBR": {3: "F1", 15: "Blood"}}),
    "OBX": ("ORU^R01", {"OBR": {3: "F1"}, "OBX": {2: "NM", 3: "T1", 5: "7", 23: "Labname"}}),
    "SPM": ("ORU^R01", {"OBR": {3: "F1"}, "SPM": {}}),
    "NTE": ("ORU^R01", {"OBR": {3: "F1"}, "OBX": {2: "NM", 3: "T1"}, "NTE": {3: "Text"}}),
    "SCH": ("SIU^S12", {"SCH": {1: "A1"}}),
    "TXA": ("MDM^T02", {"TXA": {12: "D1"}, "OBX": {2: "TX", 5: "text"}}),
    "PV1": ("ADT^A01", {"PV1": {19: "V1"}}),
    "PV2": ("ADT^A01", {"PV1": {19: "V1"}, "PV2": {}}),
    "EVN": ("ADT^A01", {"EVN": {5: "OPX1"}, "PV1": {19: "V1"}}),
}
for _name, _main in (("AIS", "S1^Review"), ("AIG", "G1^Scanner"), ("AIL", "WARDZ"), ("AIP", "D1^Doc^Dora")):
    _BASES[_name] = ("SIU^S12", {"SCH": {1: "A1"}, "RGS": {1: "1"}, _name: {3: _main}})
for _name, _fields in {
    "DG1": {3: "D1^Cold"}, "AL1": {3: "D1^Nuts"}, "IAM": {3: "D1^Nuts"}, "PR1": {3: "D1^Scan"}, "IN1": {4: "Insurer"},
    "PRT": {5: "D1^Doc^Dora"}, "ROL": {4: "D1^Doc^Dora"}, "MSA": {1: "AA", 2: "X1"}, "NK1": {2: "Kin^Kim"},
}.items():  # fmt: skip
    _BASES[_name] = ("ADT^A01", {_name: _fields})
_TESTED = {*_BASES, "PID", "PD1", "NK1", "IN1", "PR1", "DG1", "AL1", "IAM", "MSH", "SFT", "MSA", "ROL", "PRT"}


def message(segment: str, field: int, value: str) -> bytes:
    kind, base = _BASES.get(segment, ("ADT^A01", {}))
    contents = {"MSH": {7: "20261101", 9: kind, 10: "1", 11: "P", 12: "2.5"}, "PID": {3: "X1^^^A^MR", 5: "A^B"}}
    contents |= {name: dict(fields) for name, fields in base.items()}
    contents.setdefault(segment, {})[field] = value
    lines = []
    for name, fields in contents.items():
        row = [name] + [fields.get(number, "") for number in range(1, max(fields, default=0) + 1)]
        if name == "MSH":
            row[1:3] = ["^~\\&"]
        lines.append("|".join(row))
    return ("\r".join(lines) + "\r").encode()


def test_the_official_rows_with_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    if not TABLE.is_file():
        pytest.skip("the official tables are not on this machine")
    targets: dict[tuple[str, int], set[tuple[str, str]]] = {}
    types: dict[tuple[str, int], str] = {}
    with TABLE.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found = re.fullmatch(r"([A-Z0-9]{3})-(\d+)", row["v2_id"].strip())
            if not found or not row["fhir_path"] or found.group(1) not in _TESTED:
                continue
            at = (found.group(1), int(found.group(2)))
            resource = re.sub(r"[-(].*", "", row["target"])
            targets.setdefault(at, set()).add((resource, row["fhir_path"]))
            types[at] = row["v2_type"].strip() or types.get(at, "ST")
    ends: Counter[str] = Counter()
    elsewhere, kept = [], []
    for (segment, field), wanted in sorted(targets.items()):
        name = f"{segment}-{field}"
        value = _CODED.get(name) or _VALUES.get(types[segment, field], "Sample7")
        lines = explain(read(message(segment, field, value)), Source("RTEST"))
        mine = [line for line in lines if re.match(rf"{name}(\(|\.|$)", line.position)]
        paths = [line.path for line in mine if line.path and "/v2/" not in line.path]
        paths += [line.rule.rpartition(" ")[2] for line in mine if "and read for" in line.rule]
        if any(_honoured(path, target, element) for path in paths for target, element in wanted):
            ends["as the tables say"] += 1
        elif paths:
            ends["in another element"] += 1
            elsewhere.append(f"{name} {paths[0]}")
        else:
            ends["kept in an extension"] += 1
            kept.append(name)
    with capsys.disabled():
        print(f"\n  official rows with a target: {sum(ends.values())} fields; {dict(ends)}")
        print("  another element:", "; ".join(elsewhere))
        print("  kept:", " ".join(kept))
    assert ends["as the tables say"] >= 240, "a row that was honoured no longer is"
    assert ends["kept in an extension"] <= 122, "a value that had an element no longer has"


def _honoured(path: str, target: str, element: str) -> bool:
    """Same resource and element; or the resource that the table reaches through a reference."""
    kind, _, rest = path.partition(".")
    mine = re.split(r"[\[.(]", rest)[0]
    first = re.split(r"[\[.(]", element)[0]
    through = set(re.findall(r"\(\[?\d?\]?([A-Z][A-Za-z]+)", element))
    return (kind == target and (mine == first or mine.startswith(first))) or kind in through
