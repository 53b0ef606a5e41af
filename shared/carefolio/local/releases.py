"""Made-up SNOMED CT and dm+d releases in the real formats: small ones to try loaders with, large ones to measure."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

_ROOT, _FSN, _SYNONYM, _IS_A = "138875005", "900000000000003001", "900000000000013009", "116680003"
_MODULE, _CASE, _GB, _PREFERRED = "900000000000207008", "900000000000448009", "999001261000000100", "900000000000548007"
_DATE = "20261125"
_SYLLABLES = ["".join(pair) for pair in itertools.product("bcdfghjklmnprstvxz", "aeiouy")]
_VOCABULARY = 30_000


def _words(chance: random.Random) -> tuple[list[str], list[float]]:
    """A vocabulary, and how often each of its words is used: as in every language the n-th about 1/n as the first."""
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY:
        words["".join(chance.choices(_SYLLABLES, k=chance.randint(2, 5)))] = None
    weights = [1 / (n + 2) for n in range(_VOCABULARY)]
    return list(words), list(itertools.accumulate(weights))


def snomed(folder: Path, concepts: int, seed: int = 1) -> Path:
    """An RF2 Snapshot of so many concepts in a tree with some of two parents; each with a full name and a synonym.

    Concept n (from 1) has the code ``n`` with seven zeros and 5 behind it, and is a kind of n // 8.
    """
    chance = random.Random(seed)  # noqa: S311 - made-up names
    words, weights = _words(chance)
    terminology = folder / "Snapshot" / "Terminology"
    language = folder / "Snapshot" / "Refset" / "Language"
    terminology.mkdir(parents=True)
    language.mkdir(parents=True)
    at = f"{_DATE}.txt"
    head = "id\teffectiveTime\tactive\tmoduleId"
    with (
        (terminology / f"sct2_Concept_Snapshot_GB1000000_{at}").open("w", encoding="utf-8") as concept,
        (terminology / f"sct2_Description_Snapshot-en_GB1000000_{at}").open("w", encoding="utf-8") as description,
        (terminology / f"sct2_Relationship_Snapshot_GB1000000_{at}").open("w", encoding="utf-8") as relationship,
        (language / f"der2_cRefset_LanguageSnapshot-en_GB1000000_{at}").open("w", encoding="utf-8") as preferred,
    ):
        concept.write(f"{head}\tdefinitionStatusId\n")
        description.write(f"{head}\tconceptId\tlanguageCode\ttypeId\tterm\tcaseSignificanceId\n")
        relationship.write(
            f"{head}\tsourceId\tdestinationId\trelationshipGroup\ttypeId\tcharacteristicTypeId\tmodifierId\n"
        )
        preferred.write(f"{head}\trefsetId\treferencedComponentId\tacceptabilityId\n")
        for n in range(concepts):
            code = code_of(n)
            name = " ".join(chance.choices(words, cum_weights=weights, k=4)) if n else "SNOMED CT Concept"
            concept.write(f"{code}\t{_DATE}\t1\t{_MODULE}\t900000000000074008\n")
            for kind, text in ((_FSN, f"{name} (disorder)"), (_SYNONYM, name)):
                number = f"{n + 1}{kind[-4:]}"
                description.write(f"{number}\t{_DATE}\t1\t{_MODULE}\t{code}\ten\t{kind}\t{text}\t{_CASE}\n")
            preferred.write(f"p{n}\t{_DATE}\t1\t{_MODULE}\t{_GB}\t{n + 1}{_SYNONYM[-4:]}\t{_PREFERRED}\n")
            if n:
                above = {n // 8} | ({chance.randrange(n)} if n % 5 == 0 else set())
                for each in sorted(above):
                    relationship.write(
                        f"{n}{each}028\t{_DATE}\t1\t{_MODULE}\t{code}\t{code_of(each)}\t0\t{_IS_A}\t900000000000011006"
                        "\t900000000000451002\n"
                    )
    return folder


def code_of(number: int) -> str:
    """The code of a made-up concept."""
    return f"{number}00000005" if number else _ROOT


def dmd(folder: Path) -> Path:
    """A dm+d release of one moiety, two virtual products, an actual product and their packs."""
    folder.mkdir(parents=True)
    date = "2261126"
    files = {
        "vtm2": "<VTM><VTMID>90332006</VTMID><VTMIDPREV>777013007</VTMIDPREV><NM>Paracetamol</NM></VTM>",
        "vmp2": "<VMPS><VMP><VPID>42109611000001109</VPID><VTMID>90332006</VTMID><NM>Paracetamol 500mg tablets</NM>"
                "<ABBREVNM>Paracet 500mg tabs</ABBREVNM></VMP>"
                "<VMP><VPID>322280009</VPID><INVALID>1</INVALID><VTMID>90332006</VTMID><NM>Paracetamol capsules</NM>"
                "</VMP></VMPS><VIRTUAL_PRODUCT_INGREDIENT><VPI><VPID>322280009</VPID></VPI></VIRTUAL_PRODUCT_INGREDIENT>",
        "amp2": "<AMPS><AMP><APID>10000001</APID><VPID>42109611000001109</VPID><NM>Panadol</NM>"
                "<DESC>Panadol 500mg tablets (Made-up Ltd)</DESC></AMP></AMPS>",
        "vmpp2": "<VMPPS><VMPP><VPPID>20000001</VPPID><NM>Paracetamol 500mg tablets 32 tablet</NM>"
                 "<VPID>42109611000001109</VPID></VMPP></VMPPS>",
        "ampp2": "<AMPPS><AMPP><APPID>30000001</APPID><NM>Panadol 500mg tablets (Made-up Ltd) 32 tablet</NM>"
                 "<VPPID>20000001</VPPID><APID>10000001</APID></AMPP></AMPPS>",
    }  # fmt: skip
    for name, inner in files.items():
        text = f'<?xml version="1.0" encoding="utf-8"?>\n<R xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">{inner}</R>'
        (folder / f"f_{name}_3{date[1:]}.xml").write_text(text, encoding="utf-8")
    return folder
