"""Training speed and quality compared with transformers' Trainer: `make bench-train`.

Every contender is a process of its own that trains continuously and pauses after each round. The rounds
alternate, so only one contender computes at a time and all meet the same disturbances. Ours runs
`pretune.training.loop.train` as a stage of the pipeline does. The Trainer gets the same model, the same rows, the
same number of rows per step, and the best settings and data loading known for it. The first round of each, which
compiles and warms up, is not counted.

Speed is in tokens per second, without padding. Memory is the peak of the process in the rounds. The share of
the roof is useful FLOP/s over those of a large square bf16 matrix product, measured in the same minutes. Useful
FLOPs of a step, forward and backward: 6 * parameters in the matrices of the layers * tokens + 12 * layers * hidden *
length * tokens for attention + 6 * parameters of the head's transform and of the projection to the vocabulary *
masked positions, the only ones that need the projection. Run it on an idle machine. On a GPU: benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rounds import OURS, ROOT, Goal, Measured, Rounds, Worker, show_speed, take_turns, verdict

DATA = ROOT.parent / "shared" / "data"
VOCABULARY, LAYERS, ROWS, LENGTH, MASKED = 30_522, 4, 32, 128, 0.15
PRODUCT = "bf16 matrix product"
BEST = {"bf16": True, "optim": "adamw_torch_fused", "torch_compile": True}
EAGER = BEST | {"torch_compile": False}
EXAMPLES = """examples:
  python benchmarks/train.py --only classifier
  python benchmarks/train.py --only masked --only causal --dropout 0
  python benchmarks/train.py --only quality
"""


@dataclass(frozen=True)
class Task:
    """The training of a case. objective: masked, causal or classifier."""

    objective: str
    hidden: int = 256
    layers: int = LAYERS
    rows: int = ROWS  # of a step
    vocabulary: int = VOCABULARY
    length: int = LENGTH
    dropout: float = 0.1
    steps: int = 10  # of a round
    threads: int = 2


@dataclass(frozen=True)
class Case:
    """Contenders by name, each with its additional arguments."""

    title: str
    task: Task
    contenders: dict[str, dict[str, Any]]
    goals: tuple[Goal, ...] = ()
    share: float = 0.0  # target share of the roof
    data: str = "wikitext-2"


CASES = {
    "masked": Case(
        "masked LM, 32 x 128",
        Task("masked"),
        {OURS: {}, "Trainer as it comes": {}, "Trainer at its best": BEST},
        (Goal(("Trainer as it comes",), 5.0), Goal(("Trainer at its best",), 1.8)),
    ),
    "causal": Case(
        "causal LM, 32 x 128",
        Task("causal"),
        {OURS: {}, "Trainer at its best": BEST},
        (Goal(("Trainer at its best",), 1.3),),
    ),
    "classifier": Case(
        "classifier, 32 sentences of SST-2",
        Task("classifier", steps=50),  # the Trainer's length groups repeat every 50 batches
        {
            OURS: {},
            "Trainer, compiled": BEST | {"train_sampling_strategy": "group_by_length"},
            "Trainer, not compiled": EAGER | {"train_sampling_strategy": "group_by_length"},
        },
        (Goal(("Trainer, compiled", "Trainer, not compiled"), 1.3),),
        data="sst2",
    ),
    "roof": Case(
        "masked LM, 32 x 128, hidden 512, share of the roof",
        Task("masked", hidden=512),
        {OURS: {}, PRODUCT: {}},
        share=0.35,
    ),
    "quality": Case(
        "masked LM after equal steps, held-out loss",
        Task("masked", hidden=128, layers=2, vocabulary=4096, length=64, steps=400),
        {"ours, auto": {"precision": "auto"}, "ours, fp32": {"precision": "fp32"}, "Trainer, fp32": {}},
    ),
}


def main() -> None:
    """Run the cases named, or all of them."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE", help="one of " + ", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=4, help="rounds that count (default: 4)")
    parser.add_argument("--dropout", type=float, default=0.1, help="of all contenders (default: 0.1, as configured)")
    parser.add_argument("--threads", type=int, default=2, help="of all contenders (default: 2)")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    print(f"dropout {args.dropout}, {args.threads} threads, {args.rounds} rounds that count", flush=True)
    for name in args.only or CASES:
        case = CASES[name]
        settings = vars(case.task) | {"dropout": args.dropout, "threads": args.threads}
        run(name, case, Task(**settings), args.rounds)


def run(name: str, case: Case, task: Task, rounds: int) -> None:
    """Prepare the data of a case, run its contenders in turns, and print the results."""
    print(f"\n{case.title}", flush=True)
    if case.data == "sst2" and not (DATA / "sst2").is_dir():
        print(f"  skipped: no folder {DATA / 'sst2'}")
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        print(f"  data: {prepare(Path(folder), task, case.data)}", flush=True)
        settings = {"case": name, "task": vars(task)}
        workers = {
            contender: stack.enter_context(Worker(__file__, contender, settings, Path(folder)))
            for contender in case.contenders
        }
        if name == "quality":
            show_quality({contender: worker.round()["loss"] for contender, worker in workers.items()}, task)
            return
        measured = take_turns(workers, rounds)
        if case.share:
            show_share(measured, case.share, task)
        else:
            show_speed(measured, case.goals)


def show_share(measured: dict[str, Measured], target: float, task: Task) -> None:
    """Print the share of the machine's peak that training reaches."""
    ours, roof = measured[OURS], max(measured[PRODUCT].speeds)
    flops = [speed * flops_per_token(task) for speed in ours.speeds]
    print(f"  {'':<26}{'median':>10}{'best':>10}   GFLOP/s{'peak':>10} MiB")
    print(f"  {OURS:<26}{statistics.median(flops) / 1e9:10,.0f}{max(flops) / 1e9:10,.0f}{ours.memory:20,.0f}")
    print(f"  {PRODUCT:<26}{measured[PRODUCT].median / 1e9:10,.0f}{roof / 1e9:10,.0f}")
    verdict("ours / best matrix product", statistics.median(flops) / roof * 100, target * 100, " %")


def show_quality(losses: dict[str, float], task: Task) -> None:
    """Print held-out losses, and the deviation of ours from fp32."""
    print(f"  {'':<26}{'nats':>10}   after {task.steps} steps")
    for name, loss in losses.items():
        print(f"  {name:<26}{loss:10.4f}")
    for peer in ("ours, fp32", "Trainer, fp32"):
        away = abs(losses["ours, auto"] / losses[peer] - 1) * 100
        verdict(f"ours, auto, from {peer}", away, 0.5, " %", at_most=True)


def flops_per_token(task: Task) -> float:
    """Useful FLOPs of a step per token: the formula is in the docstring of this file."""
    hidden = task.hidden
    masked = max(1, round(MASKED * task.length)) / task.length
    layers = task.layers * (4 * hidden**2 + 2 * hidden * 4 * hidden)
    head = hidden**2 + hidden * task.vocabulary
    return 6.0 * (layers + head * masked) + 12.0 * task.layers * hidden * task.length


def prepare(folder: Path, task: Task, data: str) -> str:
    """Write a tokenizer and tokenised rows to `folder`, for all contenders; return a description."""
    from pretune.data import tokenizer
    from pretune.data.loading import corpus

    if data == "sst2":
        lines = (DATA / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()
        texts = [line.split("\t")[0] for line in lines]
        description = "sentences of SST-2 in their own lengths"
    elif (DATA / "wikitext-2").is_dir():
        text = "".join((DATA / "wikitext-2" / f"{part}.txt").read_text(encoding="utf-8") for part in ("valid", "test"))
        texts = re.split(r"\n(?= = [^=\n]+ = \n)", text)
        description = f"articles of wikitext-2, concatenated and cut into rows of {task.length}"
    else:
        random = np.random.default_rng(0)
        texts = [" ".join(map(str, random.zipf(1.3, 5000) % 100_000)) for _ in range(120)]
        description = f"RANDOM numbers: no folder {DATA / 'wikitext-2'}"
    words = tokenizer.train(texts, task.vocabulary, task.length)
    words.save_pretrained(folder / "tokenizer")
    tokens = words(texts, verbose=False)["input_ids"]
    corpus.write(folder, tokens)
    return f"{description}; {len(texts):,} texts, {sum(map(len, tokens)):,} tokens, {len(words):,} in the vocabulary"


def work(contender: str, settings: str, folder: str) -> None:
    """Run a contender."""
    message = json.loads(settings)
    case, task, rounds = CASES[message["case"]], Task(**message["task"]), Rounds()
    if contender.startswith(OURS):
        import tasks.__main__  # noqa: F401 - sets a stage's environment variables before torch reads them
    if message["case"] == "quality":
        quality(contender, case.contenders[contender], task, Path(folder), rounds)
    elif contender == PRODUCT:
        product(task, rounds)
    elif contender.startswith(OURS):
        ours(case.contenders[contender], task, Path(folder), rounds)
    else:
        peer(case.contenders[contender], task, Path(folder), rounds)


def product(task: Task, rounds: Rounds) -> None:
    """The machine's peak: a round is the fastest of several large matrix products."""
    import torch

    torch.set_num_threads(task.threads)
    size = 4096
    one, other = (torch.randn(size, size).bfloat16() for _ in range(2))
    while True:
        seconds = []
        for _ in range(10):
            began = time.perf_counter()
            torch.mm(one, other)
            seconds.append(time.perf_counter() - began)
        rounds.done(2 * size**3 / min(seconds) * (time.perf_counter() - rounds._began))


def ours(options: dict[str, Any], task: Task, folder: Path, rounds: Rounds) -> None:
    """Train as a stage does; a round has `task.steps` steps."""
    from pretune.runtime.events import Record, Validation
    from pretune.training import device, loop

    device.prepare(0, task.threads)
    tokens: list[float] = []

    def report(record: Record | Validation) -> None:
        assert isinstance(record, Record)
        tokens.append(record.tokens_per_second / record.steps_per_second * loop.LOG_EVERY)
        if record.step % task.steps == 0:
            rounds.done(sum(tokens))
            tokens.clear()

    assert task.steps % loop.LOG_EVERY == 0
    loop.train(model_of(task), objective_of(task, folder), params_of(task, **options), 1_000_000, seed=0, report=report)


def peer(options: dict[str, Any], task: Task, folder: Path, rounds: Rounds) -> None:
    """Train with the Trainer; a round has `task.steps` steps."""
    import torch
    from transformers import Trainer, TrainerCallback

    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    tokens: list[int] = []

    class Halts(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step % task.steps == 0:
                rounds.done(sum(tokens))
                tokens.clear()

    class Counts(Trainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
            mask = inputs.get("attention_mask")
            tokens.append(inputs["input_ids"].numel() if mask is None else int(mask.sum()))
            return super().training_step(model, inputs, *rest, **options)

    rows, collator = rows_of(task, folder)
    Counts(
        model_of(task),
        arguments(folder, task.rows, max_steps=1_000_000, **options),
        train_dataset=rows,
        data_collator=collator,
        callbacks=[Halts()],
    ).train()


def arguments(folder: Path, rows: int = ROWS, **options: Any) -> Any:
    """The Trainer's default settings, without logs and checkpoints."""
    from transformers import TrainingArguments

    quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    own = {"use_cpu": True, "dataloader_pin_memory": False}
    size = {"per_device_train_batch_size": rows}
    return TrainingArguments(str(folder / "trainer"), **quiet | size | own | options)


def rows_of(task: Task, folder: Path) -> tuple[Any, Any]:
    """Rows for the Trainer, tokenised in advance, and their collator."""
    import torch
    from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding

    from pretune.data import tokenizer
    from pretune.data.loading.corpus import Sequences

    words = tokenizer.load(folder / "tokenizer")
    if task.objective == "classifier":
        objective = objective_of(task, folder)
        return [
            {"input_ids": ids.tolist(), "labels": int(label)}
            for ids, label in zip(objective.texts, objective.targets, strict=True)
        ], DataCollatorWithPadding(words)
    sequences = Sequences(folder, task.length, int(words.pad_token_id))
    special = torch.tensor(words.all_special_ids)
    rows = [
        {"input_ids": ids, "special_tokens_mask": torch.isin(ids, special).long()}
        for ids in torch.from_numpy(sequences.rows(np.arange(len(sequences)))[0]).view(-1, task.length)
    ]
    masked = task.objective == "masked"
    return rows, DataCollatorForLanguageModeling(words, mlm=masked, mlm_probability=MASKED if masked else None)


def model_of(task: Task) -> Any:
    """A new model with random weights."""
    import torch
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
    )

    torch.manual_seed(0)
    if task.objective == "causal":
        rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), task.dropout)
        shape = {"n_embd": task.hidden, "n_layer": task.layers, "n_head": 4, "n_positions": task.length}
        return GPT2LMHeadModel(GPT2Config(vocab_size=task.vocabulary, **shape, **rates))
    config = BertConfig(
        vocab_size=task.vocabulary,
        hidden_size=task.hidden,
        num_hidden_layers=task.layers,
        num_attention_heads=max(2, task.hidden // 64),
        intermediate_size=4 * task.hidden,
        max_position_embeddings=task.length,
        hidden_dropout_prob=task.dropout,
        attention_probs_dropout_prob=task.dropout,
    )
    return (BertForSequenceClassification if task.objective == "classifier" else BertForMaskedLM)(config)


def objective_of(task: Task, folder: Path) -> Any:
    """Our objective."""
    from pretune.data import tokenizer
    from pretune.data.loading.corpus import Sequences
    from pretune.objectives.base import ObjectiveContext
    from pretune.objectives.finetuning.classification import Classification
    from pretune.objectives.pretraining.causal_lm import CausalLM
    from pretune.objectives.pretraining.masked_lm import MaskedLM

    words = tokenizer.load(folder / "tokenizer")
    if task.objective == "classifier":
        lines = (DATA / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()[: 4 * 50 * ROWS]
        fields = [line.split("\t") for line in lines]  # four whole length groups of the Trainer
        rows = [{"text": text, "label": label} for text, label in fields]
        return Classification(rows, ObjectiveContext(words, task.length, 0, None, ["0", "1"]))
    sequences = Sequences(folder, task.length, int(words.pad_token_id))
    if task.objective == "masked":
        return MaskedLM(sequences, words, rate=MASKED, seed=0)
    return CausalLM(sequences)


def params_of(task: Task, **changes: Any) -> Any:
    """Our settings, with the Trainer's optimizer, schedule and sizes; precision auto."""
    from pretune.config import params

    return params.load(ROOT / "params.yaml").pretrain.model_copy(
        update={
            "batch_size": task.rows, "gradient_accumulation_steps": 1, "sequence_length": task.length,
            "optimizer": "adamw",
            "learning_rate": 5e-5, "layer_decay": 1.0, "schedule": "linear", "warmup": 0, "weight_decay": 0.0,
            "gradient_clip": 1.0, "precision": "auto", "gradient_checkpointing": False, "compile": False,
            "evaluate_every": 0, "metric_for_best_model": "last",
        } | changes
    )  # fmt: skip


def quality(contender: str, options: dict[str, Any], task: Task, folder: Path, rounds: Rounds) -> None:
    """Train for `task.steps` steps on the same batches in the same order; answer with the held-out loss in fp32.

    Initial weights, AdamW settings and schedule are the same, and the Trainer gets our batches. Differences:
    arithmetic, random numbers of dropout, and a warm-up that is shifted by one step.
    """
    import torch

    from pretune.data import tokenizer
    from pretune.data.loading.corpus import Sequences
    from pretune.objectives.pretraining.masked_lm import MaskedLM
    from pretune.training import dataloader, device, loop

    words, rate, warmup = tokenizer.load(folder / "tokenizer"), 1e-3, 40
    training, held_out = Sequences(folder, task.length, int(words.pad_token_id)).divide(256, 0)
    assert held_out
    objective, validation = (MaskedLM(part, words, rate=MASKED, seed=0) for part in (training, held_out))
    model = model_of(task)
    if contender.startswith(OURS):
        device.prepare(0, task.threads)
        params = params_of(task, learning_rate=rate, warmup=warmup, **options)
        model, _ = loop.train(model, objective, params, task.steps, seed=0, report=ignore)
    else:
        torch.set_num_threads(task.threads)
        sampler = dataloader.EpochSampler(len(objective), ROWS, 0)
        rows = []
        for batch in (objective.batch(*sampler.step(step)) for step in range(task.steps)):
            labels = torch.full_like(batch.packed.input_ids, -100).index_copy_(0, batch.positions, batch.targets)
            ids = batch.packed.input_ids.view(ROWS, -1)
            rows += [{"input_ids": i, "labels": j} for i, j in zip(ids, labels.view(ROWS, -1), strict=True)]
        train_in_order(model, rows, folder, learning_rate=rate, warmup_steps=warmup, adam_beta2=0.98, **options)
    rounds.answer(loss=held_out_loss(model, validation))


def train_in_order(model: Any, rows: list[Any], folder: Path, **options: Any) -> None:
    """Train with the Trainer for one epoch on the rows in their order."""
    from transformers import Trainer

    settings = arguments(folder, train_sampling_strategy="sequential", num_train_epochs=1, **options)
    Trainer(model, settings, train_dataset=rows).train()


def held_out_loss(model: Any, objective: Any) -> float:
    """Mean loss of the masked tokens of all rows, in fp32."""
    import torch

    from pretune.models import heads

    heads.prepare(model.eval())
    loss, count = 0.0, 0
    with torch.no_grad():
        for samples in np.array_split(np.arange(len(objective)), max(1, len(objective) // ROWS)):
            batch = objective.batch(np.zeros_like(samples), samples)
            loss, count = loss + float(objective.loss(model, batch)), count + batch.count
    return loss / count


ignore: Callable[[object], None] = lambda _: None  # noqa: E731 - nothing is reported


if __name__ == "__main__":
    main()
