"""A minute of coverage-guided fuzzing: documented errors only, bounded memory, no input that takes seconds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.timeout(300)
def test_reader_and_mapper_under_guided_fuzzing(tmp_path: Path, shared_messages: list[Path]) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not made for this platform")
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for number, path in enumerate(shared_messages):
        (seeds / str(number)).write_bytes(b"\x00" + path.read_bytes()[:4096])
    ended = subprocess.run(
        [sys.executable, Path(__file__).parent / "fuzz.py", "-max_total_time=90", "-max_len=8192", "-timeout=5",
         "-rss_limit_mb=1024", "-verbosity=0", seeds],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
