"""LoRA on SmolLM2-135M with its frozen matrices in bf16, int8 and nf4: what quantising costs, and what it saves.

The same 100 conversations of Alpaca in the same order, five in a step, 20 steps, rank 8 on all seven matrices; each in
a process of its own. Losses are those of 24 other conversations, in nats. `python benchmarks/quantised.py`
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llm import DATA, LENGTH, MATRICES, REPLY, checkpoint, conversations, tokenizer_of
from rounds import ROOT

KINDS = {"bf16": None, "int8": "int8", "nf4": "nf4"}
ROWS, BATCH, HELD_OUT, RATE = 100, 5, 24, 1e-3


def main() -> None:
    """Print a table with a line for each kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.worker[0], Path(args.worker[1]), args.steps, args.threads)))
        return
    if not DATA.is_file():
        print(f"skipped: no file {DATA}")
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder))
        for number, kind in enumerate(KINDS):
            options = ["--steps", str(args.steps), "--threads", str(args.threads), "--worker", kind, folder]
            done = subprocess.run(
                [sys.executable, __file__, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            if not number:
                print(f"{'':<6}" + "".join(f"{name:>16}" for name in found))
            print(f"{kind:<6}" + "".join(f"{value:16.5g}" for value in found.values()), flush=True)


def work(kind: str, folder: Path, steps: int, threads: int) -> dict[str, float]:
    """Train, merge, and measure on the way."""
    import tasks.__main__  # noqa: F401, I001 - sets a stage's environment variables before torch reads them
    import torch

    from pretune.adaptation import adapters, methods, quantization
    from pretune.config import params
    from pretune.objectives.base import ObjectiveContext
    from pretune.objectives.finetuning.instruction import Instruction
    from pretune.training import dataloader, device, memory, parallel
    from pretune.training.estimate import cost
    from pretune.training.learner import Learner

    device.prepare(0, threads)
    if KINDS[kind]:
        device.return_memory()
    settings = Instruction.Settings(template=None, reply_tokens=REPLY, loss="all", reasoning="trained", too_long="cut")
    context, rows = ObjectiveContext(tokenizer_of(folder), LENGTH, 0, settings), conversations()
    objective, held_out = Instruction(rows[:ROWS], context), Instruction(rows[ROWS : ROWS + HELD_OUT], context)
    model, _ = quantization.load(Instruction, folder, KINDS[kind])
    torch.manual_seed(0)
    methods.choose("lora", {"r": 8, "lora_alpha": 16, "target_modules": MATRICES}).apply(model, frozenset())
    changes = {
        "batch_size": BATCH, "gradient_accumulation_steps": 1, "optimizer": "adamw", "layer_decay": 1.0,
        "weight_decay": 0.0, "gradient_clip": 1.0, "precision": "auto", "gradient_checkpointing": False,
        "compile": False, "ema_decay": 0.0, "metric_for_best_model": "last",
    }  # fmt: skip
    chosen, world = params.load(ROOT / "params.yaml").finetune.model_copy(update=changes), parallel.single_process()
    held = memory.held(world.device)
    estimate = held + cost.estimate(model, objective, chosen, seed=0, device=world.device).memory
    learner = Learner(model, objective, chosen, world=world, strategy="ddp")
    before = learner.validate(held_out, 0).metrics["loss"]
    sampler, began = dataloader.EpochSampler(len(objective), BATCH, 0), time.process_time()
    for batches in dataloader.batches(objective, sampler, range(steps), parts=1, mine=range(1)):
        learner.step(batches, RATE)
    seconds = (time.process_time() - began) / steps
    after = learner.validate(held_out, steps).metrics["loss"]
    peak, trained = memory.highest(world.device), learner.finish()
    answer = logits(trained, objective)
    merged = adapters.merge(trained, folder).eval()
    difference = (logits(merged, objective) - answer).abs().max()
    return {
        "loss before": before, "loss after": after, "loss merged": loss(merged, held_out),
        "logits apart": float(difference), "processor s/step": seconds, "estimated MB": estimate / 1e6,
        "peak MB": peak / 1e6, "with merging MB": memory.highest(world.device) / 1e6,
    }  # fmt: skip


def logits(model: Any, objective: Any) -> Any:
    """The logits of the first conversation, in fp32."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(objective.conversations.samples[0].ids)[None].long()).logits


def loss(model: Any, objective: Any) -> float:
    """The mean loss of the merged model, in fp32."""
    import numpy as np
    import torch

    from pretune.models import heads

    total = count = 0.0
    for samples in np.array_split(np.arange(len(objective)), -(-len(objective) // BATCH)):
        batch = objective.batch(np.zeros_like(samples), samples)
        with torch.no_grad(), heads.packed_attention(model):
            total += float(objective.score(model, batch)["loss"])
        count += batch.count
    return total / count


if __name__ == "__main__":
    main()
