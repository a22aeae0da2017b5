"""What learning a tokenizer costs: `python benchmarks/vocabulary.py`, on 0.6 MB of the data sets at hand.

Seconds of processor time on one thread for each kind, 4,096 tokens; then what the options of the Unigram
trainer change, and into how many tokens its texts fall.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before it is imported: one thread's time is what can be compared

from tokenizers import models, trainers

from pretune.data import tokenizer

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE = 600_000  # bytes
OPTIONS = ({}, {"max_piece_length": 8}, {"shrinking_factor": 0.5}, {"n_sub_iterations": 1})


def main() -> None:
    """Print a line for each kind and option."""
    with (DATA / "chnsenticorp" / "ChnSentiCorp_htl_all.csv").open(encoding="utf-8", newline="") as file:
        chinese = "\n".join(text for _, text in csv.reader(file))
    sets = {"English": (DATA / "wikitext-2" / "valid.txt").read_text(encoding="utf-8"), "Chinese": chinese}
    for name, content in sets.items():
        cut = content.encode()[:SIZE].decode(errors="ignore")
        texts = [line for line in cut.split("\n") if line.strip()]
        for kind in tokenizer.KINDS:
            began = _seconds()
            tokenizer.train(texts, 4096, 64, kind=kind)
            print(f"{name:<10}{kind:<28}{_seconds() - began:>6.1f} s", flush=True)
        for options in OPTIONS:
            _unigram(name, texts, options)


def _unigram(name: str, texts: list[str], options: dict[str, float]) -> None:
    bare = tokenizer._spaced(models.Unigram(), lowercase=False)
    trainer = trainers.UnigramTrainer(vocab_size=3840, unk_token=tokenizer.UNKNOWN,
        special_tokens=[tokenizer.UNKNOWN], initial_alphabet=tokenizer._alphabet(bare, texts, 2304),
        show_progress=False, **options)  # fmt: skip
    began = _seconds()
    bare.train_from_iterator(texts, trainer)
    took = _seconds() - began
    tokens = sum(len(each.ids) for each in bare.encode_batch_fast(texts, add_special_tokens=False))
    print(f"{name:<10}trainer alone, {options or 'as it is'!s:<28}{took:>6.1f} s {tokens:>9,} tokens", flush=True)


def _seconds() -> float:
    times = os.times()
    return times.user + times.system


if __name__ == "__main__":
    main()
