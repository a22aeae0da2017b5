"""How long a stage takes to begin: `make bench-start`.

A model so small that training is over at once, in a fresh copy of the project. Times what a pipeline run starts for
its stage `finetune` (dvc, and by it the stage) until ten steps are done, and until it has ended: forked from a server
that has imported everything, and started anew. Then a run of the whole pipeline. Run it on an idle machine.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from overhead import BIN, call, change, copy_project

from flows.forkserver import ForkServer
from pretune.runtime import progress

ROUNDS = 5
STAGE = "finetune"
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", progress.PIPE: "1"}
ENVIRONMENT["PRETUNE_PARENT_RUN"] = "benchmark"  # as in a run, whose own process sends the records
TINY = {
    "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "prepare": {"vocabulary_size": 400, "train_rows": 30, "validation_rows": 10, "test_rows": 40},
    "pretrain": {"steps": 24, "batch_size": 4, "sequence_length": 16, "validation_rows": 4, "evaluate_every": 12},
    "finetune": {"epochs": 2, "batch_size": 4, "sequence_length": 16, "evaluate_every": 8},
}


def main() -> None:
    """Run the pipeline once, then time one stage in both ways, and the training stages of a run."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = copy_project(Path(folder) / "pretune")
        change(workspace, TINY)
        run = [sys.executable, "-m", "cli.app", "run", "--no-prefect"]
        began = time.perf_counter()
        call(run, workspace)
        print(f"the whole pipeline, for the first time: {time.perf_counter() - began:.1f} s")
        for how, stages in {"forked": [STAGE], "started": []}.items():
            server = ForkServer(workspace, ENVIRONMENT, stages, Path(folder) / "log")
            times = [timed(server, workspace) for _ in range(ROUNDS + 1)][
                1:
            ]  # the first waits for the server's imports
            server.close()
            for what, seconds in zip(
                ("until ten steps are done", "until it has ended"), zip(*times, strict=True), strict=True
            ):
                print(f"{STAGE}, {how:8} {what:26} {statistics.median(seconds):5.2f} s, best {min(seconds):.2f}")
        change(workspace, {"seed": 7})
        began = time.perf_counter()
        call([*run, "evaluate"], workspace)
        print(f"all stages but ingest, by another seed: {time.perf_counter() - began:.1f} s")


def timed(server: ForkServer, workspace: Path) -> tuple[float, float]:
    """Seconds until the first message of the stage, and until its end; the stage is stale each time."""
    change(workspace, {STAGE: {"learning_rate": 1e-4 + time.time() % 1 * 1e-5}})
    began, first = time.perf_counter(), None
    command = ["pretune.lineage.dvc", "--wait-for-lock", "repro", "--single-item", STAGE]
    with server.start(*command, environment=ENVIRONMENT) as child:
        for line in child.stdout:
            if first is None and progress.message(line):
                first = time.perf_counter() - began
    assert child.returncode == 0, "the stage failed"
    return first, time.perf_counter() - began


if __name__ == "__main__":
    main()
