"""benchmarks/gpu.py: ten minutes on a card, of which none may be lost to an import."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

KIT = Path(__file__).parents[3] / "benchmarks" / "gpu.py"
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
OPTIONAL = ("accelerate", "bitsandbytes", "peft", "psutil", "pyarrow", "datasets", "mlflow", "dvc", "PIL", "scipy")


def needs(names):
    """The distributions of these names and all that they require, without extras."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        requirements = map(Requirement, found[name].requires or ())
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found.values()


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder of links to what a CUDA image commonly has."""
    folder = tmp_path_factory.mktemp("bare")
    for distribution in needs(NEEDED):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(distribution.locate_file(top)).resolve())
    return folder


def run(*arguments, only=None):
    """What the kit prints at toy size; `only`: the folder that packages come from, instead of this environment's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHONPATH": str(only)} if only else {}
    command = [sys.executable, *(["-S"] if only else []), str(KIT), "--tiny", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_kit_measures_every_row_with_what_an_image_commonly_has(bare):
    """Nothing else can be imported; rows that need more say so, and no row fails."""
    probe = f"import importlib.util as u; print([n for n in {OPTIONAL} if u.find_spec(n)])"
    environment = {**os.environ, "PYTHONPATH": str(bare)}
    found = subprocess.run([sys.executable, "-S", "-c", probe], env=environment, capture_output=True, check=True)
    assert found.stdout == b"[]\n"
    printed = run(only=bare)
    assert "failed" not in printed, printed
    assert printed.count("skipped: needs peft") == 4
    for row in ("pretraining 1.3B", "pretraining 350M", "pretraining 125M", "masked LM", "generation 1.3B"):
        assert f"\n{row}" in printed
    assert "plain loop: no accelerate" in printed
    assert "done in" in printed


@pytest.mark.slow
def test_rows_of_finetuning_run_where_peft_is():
    """LoRA, packed and padded, and a base in 4 bits, beside the Trainer."""
    printed = run("--only", "SFT")
    assert "failed" not in printed, printed
    assert "skipped" not in printed
    assert "Trainer" in printed
    assert "LoRA, padded (peer, compiled):" in printed  # the ratio


@pytest.mark.slow
def test_the_kit_ends_by_itself():
    """However much is left to be measured."""
    assert run("--seconds", "0.01").endswith("stopped after 0.01 seconds\n")
