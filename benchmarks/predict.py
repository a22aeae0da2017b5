"""Prediction beside transformers.pipeline, on the same model and the same texts: `make bench-predict`.

A classifier with random weights reads texts of very different length. The peer runs with every batch
size of BATCHES and is judged by its best. Both use the same threads; the runs alternate.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import torch
from transformers import pipeline

from pretune.config.params import ModelParams
from pretune.data import tokenizer
from pretune.data.ingest import pydocs
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.predictor.model import Predictor

LENGTH = 512  # tokens at most
TEXTS, SINGLE = 300, 100
BATCHES = (1, 8, 32)
REPEATS = 3
LABELS = [f"label {number}" for number in range(6)]
CONFIG = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}


def main() -> None:
    """Measure rows/s on all texts, and the latency of single ones."""
    torch.manual_seed(0)
    texts = [row["text"] for row in pydocs.collect()]
    texts = [texts[place] for place in np.random.default_rng(0).permutation(len(texts))[:TEXTS]]
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "model", texts)
        ours = Predictor(str(Path(folder) / "model")).answers
        peer = pipeline("text-classification", model=str(Path(folder) / "model"), device="cpu")
        lengths = [len(ids) for ids in ours.tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]]
        quarters = ", ".join(f"{each:.0f}" for each in np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]))
        print(f"{len(texts)} texts, quarters of their lengths in tokens: {quarters}; {torch.get_num_threads()} threads")
        cut = {"truncation": True, "max_length": LENGTH}
        runs = {"pretune": lambda: ours([{"text": text} for text in texts])}
        runs |= {
            f"pipeline, batch_size={size}": lambda size=size: peer(texts, batch_size=size, **cut) for size in BATCHES
        }
        check(runs["pretune"](), runs[f"pipeline, batch_size={BATCHES[-1]}"]())
        speed = rows_per_second(runs, len(texts))
        latency("pretune", lambda text: ours([{"text": text}]), texts)
        latency("pipeline", lambda text: peer(text, **cut), texts)
    best = max(value for name, value in speed.items() if name != "pretune")
    print(f"pretune answers {speed['pretune'] / best:.2f} x as many rows/s as the pipeline at its best (target: 2)")


def save(folder: Path, texts: list[str]) -> None:
    """A classifier with random weights and a tokenizer of its own."""
    words = tokenizer.train(texts, 4096, LENGTH)
    params = ModelParams(type="modernbert", init=None, config=CONFIG)
    config = build.config_for(params, Classification.shape(words))
    facts = Classification.inference_config(ObjectiveContext(words, LENGTH, 0, None, LABELS))
    build.save(build.new(Classification, config, LABELS), words, folder, facts)


def check(ours: list[dict[str, object]], peers: list[dict[str, object]]) -> None:
    """Both have to say the same."""
    same = sum(a["label"] == b["label"] for a, b in zip(ours, peers, strict=True))
    off = max(abs(float(str(a["score"])) - float(str(b["score"]))) for a, b in zip(ours, peers, strict=True))
    print(f"same label on {same} of {len(ours)} texts; scores differ by {off:.1g} at most")


def rows_per_second(runs: dict[str, object], rows: int) -> dict[str, float]:
    """The best of REPEATS, each way once per round."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            began = time.perf_counter()
            run()  # type: ignore[operator]
            taken[name].append(time.perf_counter() - began)
    for name, seconds in taken.items():
        print(f"{name:<26} {rows / min(seconds):8.1f} rows/s   (median {rows / statistics.median(seconds):.1f})")
    return {name: rows / min(seconds) for name, seconds in taken.items()}


def latency(name: str, run: object, texts: list[str]) -> None:
    """Of one text after the other."""
    taken = []
    for text in texts[:SINGLE]:
        began = time.perf_counter()
        run(text)  # type: ignore[operator]
        taken.append(1000 * (time.perf_counter() - began))
    half, most = np.quantile(taken, [0.5, 0.99])
    print(f"{name:<26} one text: p50 {half:.1f} ms, p99 {most:.1f} ms")


if __name__ == "__main__":
    main()
