"""Ten minutes on a card: speed of training and generation, the most valuable figures first.

    python benchmarks/gpu.py                       # ends by itself after 570 seconds
    python benchmarks/gpu.py --seconds 120 --only 1.3B

It needs torch, transformers, tokenizers, safetensors and numpy; accelerate, peft and bitsandbytes only for some rows.
A row is printed as soon as it is measured. `--tiny` runs all rows at toy size, on a CPU too.

Tokens are real ones, without padding. FLOPs of a step are those that its result needs: 6 for a token and a parameter
in a matrix (4 where matrices are frozen), and 12 * layers * hidden * length a token for attention, half of it if
causal. The share is of the card's dense bf16 peak (pretune/training/estimate/cost.py). Compile seconds: what the
first steps take beyond others.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from pretune.data.loading.batch import Movable
from pretune.data.loading.varlen import Packed, pack
from pretune.models import heads
from pretune.training import device, parallel
from pretune.training.estimate.cost import peak_flops
from pretune.training.learner import Learner

MASKED = 0.15
PROMPT, REPLY = 128, 128  # tokens


class Size(NamedTuple):
    """The shape of a model, and the tokens of a step."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    length: int
    rows: int


SIZES = {
    "125M": Size(768, 12, 12, 32_000, 2048, 16),
    "350M": Size(1024, 20, 16, 32_000, 2048, 8),
    "1.3B": Size(2048, 22, 16, 32_000, 2048, 4),
    "BERT-base": Size(768, 12, 12, 30_522, 512, 64),
}
TINY = Size(64, 2, 2, 512, 64, 2)
WARM, STEPS = 3, 10  # steps before, and those that count


@dataclass(frozen=True)
class Batch(Movable):
    """Packed sequences, and the targets (predictions,) at positions (predictions,) of their tokens."""

    packed: Packed
    positions: Tensor
    targets: Tensor

    @property
    def count(self) -> int:
        """Terms of the loss."""
        return len(self.targets)


class Loss:
    """The objective of the loop: cross entropy at the positions of a batch."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Its sum in nats."""
        return heads.token_loss(model, batch.packed, batch.positions, batch.targets)


class Measured(NamedTuple):
    """The seconds of each step, the first included, and its real tokens."""

    seconds: list[float]
    tokens: list[int]

    @property
    def speed(self) -> float:
        """Tokens per second after the first steps."""
        return sum(self.tokens[WARM:]) / sum(self.seconds[WARM:])


class Kit:
    """The size of the rows, the card, and what has been measured."""

    def __init__(self, *, tiny: bool) -> None:
        self.tiny, self.device = tiny, device.choose()
        device.prepare(0, torch.get_num_threads())
        self.peak = peak_flops(self.device, "bf16")
        self.speeds: dict[str, float] = {}
        self.steps = 2 if tiny else STEPS
        self.backend = "eager" if tiny else "inductor"

    def size(self, name: str) -> Size:
        """The shape of a model by its name."""
        return TINY if self.tiny else SIZES[name]

    def sync(self) -> None:
        """Wait for the card."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def row(self, name: str, speed: float, flops: float = 0.0, compiled: float = 0.0, note: str = "") -> None:
        """Print a row."""
        self.speeds[name] = speed
        memory = torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0
        share = f"{speed * flops / self.peak:7.1%}" if flops else " " * 7
        print(f"{name:<44}{speed:12,.0f}{share}{memory:9.1f}{compiled:9.1f}  {note}", flush=True)

    def steps_of(self, step: Callable[[Any], object], batches: list[Any], tokens: Callable[[Any], int]) -> Measured:
        """Time steps on the batches in turn."""
        measured = Measured([], [])
        for number in range(WARM + self.steps):
            batch = batches[number % len(batches)]
            self.sync()
            began = time.perf_counter()
            step(batch)
            self.sync()
            measured.seconds.append(time.perf_counter() - began)
            measured.tokens.append(tokens(batch))
        return measured

    def trained(self, name: str, measured: Measured, flops: float, *, compiled: bool, note: str = "") -> None:
        """Print the row of a training."""
        excess = sum(measured.seconds[:WARM]) - WARM * statistics.median(measured.seconds[WARM:])
        self.row(name, measured.speed, flops, max(0.0, excess) if compiled else 0.0, note)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Modules compile for this machine, or only trace at toy size."""
        plain = nn.Module.compile
        nn.Module.compile = lambda module: plain(module, backend=self.backend)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.compile = plain  # type: ignore[method-assign]
            torch._dynamo.reset()


def decoder(kit: Kit, size: Size) -> Any:
    """A Llama with random weights."""
    wide = -(-8 * size.hidden // (3 * 256)) * 256
    config = AutoConfig.for_model(
        "llama", vocab_size=size.vocabulary, hidden_size=size.hidden, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, intermediate_size=wide, pad_token_id=0,
        max_position_embeddings=2 * size.length, use_cache=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with kit.device:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def encoder(kit: Kit, size: Size) -> Any:
    """A BERT with random weights, without dropout."""
    config = AutoConfig.for_model(
        "bert", vocab_size=size.vocabulary, hidden_size=size.hidden, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, intermediate_size=4 * size.hidden, max_position_embeddings=size.length,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
    )  # fmt: skip
    with kit.device:
        torch.manual_seed(0)
        return AutoModelForMaskedLM.from_config(config, dtype=torch.float32)


def flops_per_token(model: Any, size: Size, length: float, *, causal: bool, frozen: bool = False) -> float:
    """Useful FLOPs of a step for each token."""
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n)
    if not causal:  # the projection is needed at masked positions only; it is tied to the embeddings
        matrices += round(MASKED * size.hidden * size.vocabulary)
    attention = (6 if causal else 12) * size.layers * size.hidden * length
    return (4.0 if frozen else 6.0) * matrices + attention


def rows_of(size: Size, *, masked: bool = False) -> Batch:
    """Rows of random tokens; each token predicts the next one, or some predict themselves."""
    draw = np.random.default_rng(0)
    ids = draw.integers(3, size.vocabulary, size.rows * size.length)
    chosen = draw.random(len(ids)) < MASKED if masked else np.arange(len(ids)) % size.length != size.length - 1
    positions = np.flatnonzero(chosen)
    targets = ids[positions if masked else positions + 1]
    return Batch(pack(ids, np.full(size.rows, size.length)), torch.from_numpy(positions), torch.from_numpy(targets))


def learner(kit: Kit, model: Any, *, compiled: bool) -> Any:
    """Our training step, as a stage has it."""
    params: Any = SimpleNamespace(
        gradient_accumulation_steps=1, learning_rate=1e-4, precision="bf16", gradient_checkpointing=False,
        compile=compiled, ema_decay=0.0, metric_for_best_model="last", optimizer="adamw", layer_decay=1.0,
        weight_decay=0.0, gradient_clip=1.0,
    )  # fmt: skip
    objective: Any = Loss()
    return Learner(model, objective, params, world=parallel.World(kit.device), strategy="ddp")


def ours(kit: Kit, name: str, model: Any, batches: list[Batch], flops: float, *, compiled: bool) -> None:
    """A row of our training."""
    with kit.compiling():
        trainer = learner(kit, model, compiled=compiled)
        step: Callable[[Batch], object] = lambda batch: trainer.step([batch], 1e-4)  # noqa: E731
        kit.trained(name, kit.steps_of(step, batches, lambda b: len(b.packed.input_ids)), flops, compiled=compiled)


def peer(kit: Kit, name: str, model: Any, batches: list[dict[str, Tensor]], flops: float) -> None:
    """A row of the Trainer at its best, compiled; without accelerate of a plain loop with the same settings."""
    tokens: Callable[[dict[str, Tensor]], int] = lambda batch: int(batch["attention_mask"].sum())  # noqa: E731
    batches = [{key: value.to(kit.device) for key, value in batch.items()} for batch in batches]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    called = torch.compile(model.train(), backend=kit.backend)

    def step(batch: dict[str, Tensor]) -> None:
        with torch.autocast(kit.device.type, torch.bfloat16):
            loss = called(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if has("accelerate"):
        kit.trained(name, trainer(kit, model, batches, tokens), flops, compiled=True, note="Trainer")
    else:
        kit.trained(name, kit.steps_of(step, batches, tokens), flops, compiled=True, note="plain loop: no accelerate")
    torch._dynamo.reset()


def trainer(kit: Kit, model: Any, batches: list[dict[str, Tensor]], tokens: Callable[[Any], int]) -> Measured:
    """Steps of the transformers Trainer on these batches."""
    import tempfile

    measured = Measured([], [])
    began = 0.0

    class Timed(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            nonlocal began
            kit.sync()
            began = time.perf_counter()

        def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            kit.sync()
            measured.seconds.append(time.perf_counter() - began)
            measured.tokens.append(tokens(batches[(state.global_step - 1) % len(batches)]))

    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            folder, max_steps=WARM + kit.steps, per_device_train_batch_size=1, bf16=True, optim="adamw_torch_fused",
            torch_compile=True, torch_compile_backend=kit.backend, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, use_cpu=kit.device.type == "cpu",
            train_sampling_strategy="sequential", max_grad_norm=1.0,
        )  # fmt: skip
        training = transformers.Trainer(
            model, settings, train_dataset=batches, data_collator=lambda rows: rows[0], callbacks=[Timed()]
        )
        training.remove_callback(transformers.PrinterCallback)
        training.train()
    return measured


def padded(batch: Batch) -> dict[str, Tensor]:
    """The batch as transformers' own forward passes take it, padded to the longest."""
    from pretune.data.loading import varlen

    labels = torch.full_like(batch.packed.input_ids, -100)
    labels[batch.positions + 1] = batch.targets  # transformers shifts them
    rows = varlen.padded(batch.packed, 0)
    outside = rows["attention_mask"] == 0
    starts, columns = batch.packed.starts, torch.arange(batch.packed.longest)
    places = torch.where(outside, 0, starts[:, None] + columns)
    return rows | {"labels": labels[places].masked_fill(outside, -100)}


def pretraining(kit: Kit, name: str, who: str) -> None:
    """Pretraining of a decoder."""
    size = kit.size(name)
    model, batch = decoder(kit, size), rows_of(size)
    flops = flops_per_token(model, size, size.length, causal=True)
    title = f"pretraining {name}, {who}"
    if who == "peer, compiled":
        peer(kit, title, model, [padded(batch)], flops)
    else:
        ours(kit, title, model, [batch], flops, compiled=who == "ours, compiled")


def masked(kit: Kit) -> None:
    """Masked language modelling with an encoder."""
    size = kit.size("BERT-base")
    model = encoder(kit, size)
    flops = flops_per_token(model, size, size.length, causal=False)
    ours(kit, "masked LM BERT-base, ours, compiled", model, [rows_of(size, masked=True)], flops, compiled=True)


def conversations(size: Size) -> list[Batch]:
    """Batches of 16 conversations: log-normal lengths, median an eighth of the longest; the second half is learnt."""
    draw, batches = np.random.default_rng(0), []
    for _ in range(4):
        lengths = np.clip(draw.lognormal(np.log(size.length / 8), 0.8, 16), 8, size.length).astype(np.int64)
        ids = draw.integers(3, size.vocabulary, lengths.sum())
        ends = np.cumsum(lengths)
        learnt = np.concatenate([np.arange(end - n // 2, end) for end, n in zip(ends, lengths, strict=True)])
        batches.append(Batch(pack(ids, lengths), torch.from_numpy(learnt - 1), torch.from_numpy(ids[learnt])))
    return batches


def finetuning(kit: Kit, who: str) -> None:
    """Finetuning with LoRA on conversations: packed, padded, or packed with a quantised base."""
    from pretune.adaptation import quantization
    from pretune.adaptation.methods import choose

    size = kit.size("1.3B")
    model, batches = decoder(kit, size), conversations(size)
    length = float(np.mean(np.concatenate([batch.packed.lengths.numpy() ** 2 for batch in batches])))
    length /= float(np.mean(np.concatenate([batch.packed.lengths.numpy() for batch in batches])))
    flops = flops_per_token(model, size, length, causal=True, frozen=True)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.bfloat16().float()  # as from a checkpoint in bf16
    if who == "QLoRA, packed":
        quantization.quantize(model, "nf4")
    choose("lora", {"r": 16, "lora_alpha": 32}).apply(model, frozenset())
    model.to(kit.device)
    title = f"SFT 1.3B, {who}"
    if who == "LoRA, padded (peer, compiled)":
        peer(kit, title, model, [padded(batch) for batch in batches], flops)
    else:
        ours(kit, title, model, batches, flops, compiled=who == "LoRA, packed, compiled")


def generation(kit: Kit, who: str) -> None:
    """Greedy replies of our predictor in batches, or of `generate` one by one."""
    from pretune.predictor import chat

    size, reply = kit.size("1.3B"), 4 if kit.tiny else REPLY
    model = decoder(kit, size).to(torch.bfloat16).eval()
    model.config.use_cache = model.generation_config.use_cache = True
    model.lm_head.weight.data[2] = 0  # never the most likely: no reply ends early
    words = tokenizer_of(size)
    draw = np.random.default_rng(0)
    prompts = [" ".join(f"w{n}" for n in draw.integers(9, 99, draw.integers(8, size.length // 4))) for _ in range(64)]
    rows = [{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts[: 4 if kit.tiny else 64]]
    if who == "one by one":
        rows = rows[: 2 if kit.tiny else 4]
    config = {"answers": "reply", "length": size.length, "reply_tokens": reply, "labels": []}
    predictor = chat.Reply(model, words, config)
    for row in rows[:1]:
        predictor([row])
    kit.sync()
    began = time.perf_counter()
    if who == "one by one":
        ids = [words(row["messages"][0]["content"], return_tensors="pt").input_ids.to(kit.device) for row in rows]
        for prompt in ids:
            model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0,
                max_new_tokens=reply, min_new_tokens=reply,
            )  # fmt: skip
    else:
        predictor(rows)
    kit.sync()
    kit.row(f"generation 1.3B, {who}", len(rows) * reply / (time.perf_counter() - began), note="new tokens/s")


def tokenizer_of(size: Size) -> Any:
    """A tokenizer of whole words, `w0` and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3} | {f"w{n}": n + 4 for n in range(size.vocabulary - 4)}
    words = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    loaded = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=size.length, **special)
    loaded.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return loaded


def has(*packages: str) -> bool:
    """Whether packages are installed."""
    return all(importlib.util.find_spec(package) for package in packages)


ROWS: list[tuple[str, tuple[str, ...], Callable[[Kit], None]]] = [  # name, packages, what measures it
    ("pretraining 1.3B, ours, compiled", (), lambda kit: pretraining(kit, "1.3B", "ours, compiled")),
    ("pretraining 1.3B, peer, compiled", (), lambda kit: pretraining(kit, "1.3B", "peer, compiled")),
    ("pretraining 125M, ours, compiled", (), lambda kit: pretraining(kit, "125M", "ours, compiled")),
    ("pretraining 125M, peer, compiled", (), lambda kit: pretraining(kit, "125M", "peer, compiled")),
    ("SFT 1.3B, LoRA, packed", ("peft",), lambda kit: finetuning(kit, "LoRA, packed")),
    ("SFT 1.3B, LoRA, padded (peer, compiled)", ("peft",), lambda k: finetuning(k, "LoRA, padded (peer, compiled)")),
    ("generation 1.3B, in batches", (), lambda kit: generation(kit, "in batches")),
    ("generation 1.3B, one by one", (), lambda kit: generation(kit, "one by one")),
    ("pretraining 350M, ours, compiled", (), lambda kit: pretraining(kit, "350M", "ours, compiled")),
    ("masked LM BERT-base, ours, compiled", (), masked),
    ("SFT 1.3B, LoRA, packed, compiled", ("peft",), lambda kit: finetuning(kit, "LoRA, packed, compiled")),
    ("SFT 1.3B, QLoRA, packed", ("peft", "bitsandbytes"), lambda kit: finetuning(kit, "QLoRA, packed")),
    ("pretraining 1.3B, ours, eager", (), lambda kit: pretraining(kit, "1.3B", "ours, eager")),
    ("pretraining 125M, ours, eager", (), lambda kit: pretraining(kit, "125M", "ours, eager")),
    ("pretraining 350M, peer, compiled", (), lambda kit: pretraining(kit, "350M", "peer, compiled")),
    ("pretraining 350M, ours, eager", (), lambda kit: pretraining(kit, "350M", "ours, eager")),
]
RATIOS = [  # one row over another, and the aim
    ("pretraining 1.3B, ours, compiled", "pretraining 1.3B, peer, compiled", 1.5),
    ("pretraining 125M, ours, compiled", "pretraining 125M, peer, compiled", 1.5),
    ("pretraining 350M, ours, compiled", "pretraining 350M, peer, compiled", 1.5),
    ("SFT 1.3B, LoRA, packed", "SFT 1.3B, LoRA, padded (peer, compiled)", 3.0),
    ("generation 1.3B, in batches", "generation 1.3B, one by one", 5.0),
]


def measure(kit: Kit, name: str, packages: tuple[str, ...], row: Callable[[Kit], None]) -> None:
    """Print a row, or why there is none; the next one begins with an empty card."""
    if not has(*packages):
        print(f"{name:<44}  skipped: needs {', '.join(packages)}", flush=True)
        return
    try:
        row(kit)
    except Exception as error:  # a row that fails must not take the others' time
        print(f"{name:<44}  failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True)
    if kit.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for one, other, aim in RATIOS:
        if name in {one, other} and {one, other} <= kit.speeds.keys():
            print(f"  {one} / {other}: {kit.speeds[one] / kit.speeds[other]:.2f}, aim {aim}", flush=True)


def main() -> None:
    """Measure the rows in turn until the time is over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=570, help="after which it ends (default: 570)")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows whose name has it")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on a CPU too")
    args = parser.parse_args()
    began = time.perf_counter()

    def stop() -> None:
        print(f"stopped after {args.seconds:g} seconds", flush=True)
        os._exit(0)

    watch = threading.Timer(args.seconds, stop)
    watch.daemon = True
    watch.start()
    kit = Kit(tiny=args.tiny)
    if kit.device.type == "cpu" and not args.tiny:
        sys.exit("error: there is no GPU\nnext:  python benchmarks/gpu.py --tiny   (toy sizes on this CPU)")
    card = torch.cuda.get_device_name() if kit.device.type == "cuda" else "CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{card}, {kit.peak / 1e12:.3g} TFLOP/s dense bf16, {versions}", flush=True)
    print(f"{'':<44}{'tokens/s':>12}{'peak':>7}{'GB':>9}{'compile':>9}", flush=True)
    for name, packages, row in ROWS:
        if all(text in name for text in args.only):
            measure(kit, name, packages, row)
    print(f"done in {time.perf_counter() - began:.0f} seconds", flush=True)


if __name__ == "__main__":
    main()
