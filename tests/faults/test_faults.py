from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("cc"), reason="a C compiler (cc) makes faults.c")]
POINTS = ("rename clone/dvc.lock 1", "write clone/.pretune/stages/ingest.json.*.partial 1")


def test_stage_whose_calls_fail_says_why_and_the_next_run_makes_all_good(root, tmp_path):
    """A few faults of `make test-faults`: killed, disk full or failing, clock set back, where files get names."""
    points = [word for point in POINTS for word in ("--point", point)]
    command = [sys.executable, "-m", "tests.faults", "--only", "ingest", "--keep", str(tmp_path), *points]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {result["point"] for result in results if result["reached"]} == set(POINTS)
    assert {result["kind"]: result["code"] for result in results} == {"kill": -9, "error": 13, "full": 13, "clock": 0}
