"""Speed and memory of the data stages: `make bench-data`, or `python benchmarks/data.py --megabytes 20 100`.

Speed: the whole stage `prepare`, and its step from text to token shards, beside the bare
`tokenizers.encode_batch` and `datasets.map` (batched, two processes), the same tokenizer and text, in
turn. Memory: the peak of `ingest` and of `prepare`, each in a process of its own, for inputs of growing
size. Texts are sentences of pydocs in random order. Last the share of processor time that goes into work
which a cluster can take over: all else bounds what one can bring.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = 2000  # characters
SENTENCE = 150  # characters at most: no two documents share a passage that decontamination would find
ROUNDS = 3
TEXT = 100  # megabytes that speed is measured on
ROWS = 20_000  # that memory is measured on


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[20, 100], help="inputs that memory is measured on")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        _measure(*arguments.stage)
        return
    with tempfile.TemporaryDirectory() as folder:
        speed(Path(folder))
        sketching(Path(folder))
        peers(Path(folder))
        shares(Path(folder))
        memory(Path(folder), arguments.megabytes)


def documents(path: Path, megabytes: int) -> None:
    """Write documents, one JSON object a line: all different, every twentieth twice."""
    from pretune.data.ingest import pydocs

    draw = random.Random(0)  # noqa: S311 - the same texts each time
    sentences = [part[:SENTENCE] for row in pydocs.collect() for part in row["text"].split(". ") if len(part) > 20]
    written, last = 0, ""
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            text = last if last and draw.random() < 0.05 else _document(draw, sentences)
            written += file.write(json.dumps({"text": text}) + "\n")
            last = text


def _document(draw: random.Random, sentences: list[str]) -> str:
    parts: list[str] = []
    while sum(map(len, parts)) < DOCUMENT:
        parts.append(draw.choice(sentences))
    return ". ".join(parts)


def speed(folder: Path) -> None:
    """Tokenize the same texts by three ways in turn; print the medians and the ratios of each round."""
    import datasets

    from pretune.data import tokenizer
    from pretune.data.prepare.shards import Shards

    documents(folder / "made.jsonl", TEXT)
    texts = [json.loads(line)["text"] for line in (folder / "made.jsonl").read_text(encoding="utf-8").splitlines()]
    words = tokenizer.train(texts[:1000], 4096, 512)
    words.save_pretrained(folder / "tokenizer")
    stage("ingest", folder)
    backend, size = words.backend_tokenizer, sum(len(text.encode()) for text in texts) / 1e6
    datasets.disable_progress_bars()
    datasets.disable_caching()
    words.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True  # nothing is cut here
    table = datasets.Dataset.from_dict({"text": texts})

    def ours(number: int) -> None:
        Shards(folder / f"shards{number}", words).write(iter(texts))

    def bare(_: int) -> None:
        for start in range(0, len(texts), 1000):
            backend.encode_batch(texts[start : start + 1000])

    def mapped(_: int) -> None:
        table.map(
            lambda rows: {"ids": words(rows["text"])["input_ids"]}, batched=True, num_proc=2, remove_columns="text"
        )

    ways = {"shards": ours, "tokenizers.encode_batch": bare, "datasets.map, 2 processes": mapped}
    rates: dict[str, list[float]] = {name: [] for name in [*ways, "prepare"]}
    for number in range(ROUNDS):
        for name, way in ways.items():
            os.environ["TOKENIZERS_PARALLELISM"] = "true"  # `datasets.map` turns it off, for good
            began = time.perf_counter()
            way(number)
            rates[name].append(size / (time.perf_counter() - began))
        del os.environ["TOKENIZERS_PARALLELISM"]
        rates["prepare"].append(size / stage("prepare", folder)["seconds"])
    print(f"\ntext to tokens, {size:.0f} MB, {ROUNDS} rounds in turn, MB/s; in times the speed of each peer")
    for name, found in rates.items():
        print(f"  {name:<26} {statistics.median(found):6.2f}", end="")
        for peer in list(ways)[1:] if name not in list(ways)[1:] else []:
            print(f"   {_range([one / other for one, other in zip(found, rates[peer], strict=True)])} {peer}", end="")
        print()


def sketching(folder: Path) -> None:
    """Sketch the same texts, in batches of two sizes in turn."""
    from pretune.data.similarity import minhash
    from pretune.data.similarity.shingles import normalize

    texts = [json.loads(line)["text"] for line in (folder / "made.jsonl").read_text(encoding="utf-8").splitlines()]
    size = sum(len(text.encode()) for text in texts) / 1e6
    found: dict[int, list[float]] = {2**16: [], 2**19: []}
    for _ in range(ROUNDS):
        for batch, rates in found.items():
            minhash.BATCH = batch
            began = time.perf_counter()
            minhash.sketches([normalize(text) for text in texts])
            rates.append(size / (time.perf_counter() - began))
    print("\nsketches for near duplicates, one process, MB/s")
    for batch, rates in found.items():
        print(f"  {batch:7} characters at once  {_range(rates)}")


def peers(folder: Path) -> None:
    """Sketch the same texts with rensa and datasketch, where they are installed (no dependencies), and with ours."""
    from pretune.data.similarity import minhash
    from pretune.data.similarity.shingles import normalize

    lines = (folder / "made.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [normalize(json.loads(line)["text"]) for line in lines]
    size = sum(len(text.encode()) for text in texts) / 1e6
    ways = {"ours": lambda: minhash.sketches(texts)}
    if importlib.util.find_spec("rensa"):
        ways["rensa, RMinHash"] = lambda: [_rensa(text) for text in texts]
    if importlib.util.find_spec("datasketch"):
        ways["datasketch"] = lambda: [_datasketch(text) for text in texts]
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            rates[name].append(size / (time.perf_counter() - began))
    print("\nsketches of 128 values, one process, MB/s (pip install rensa datasketch, to see them)")
    for name, found in rates.items():
        print(f"  {name:<18} {_range(found)}")


def _runs(text: str) -> list[str]:
    """Every five characters in a row."""
    return [text[start : start + 5] for start in range(max(1, len(text) - 4))]


def _rensa(text: str) -> list[int]:
    from rensa import RMinHash

    sketch = RMinHash(128, 42)
    sketch.update(_runs(text))
    return sketch.digest()


def _datasketch(text: str) -> object:
    from datasketch import MinHash

    sketch = MinHash(num_perm=128)
    sketch.update_batch([run.encode() for run in _runs(text)])
    return sketch


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def memory(folder: Path, sizes: list[int]) -> None:
    """Run both stages on inputs of each size, in processes of their own; print seconds, MB/s and the peak."""
    print("\npeak memory of a stage's process")
    for megabytes in sizes:
        workspace = folder / f"{megabytes}"
        workspace.mkdir()
        documents(workspace / "made.jsonl", megabytes)
        shutil.copytree(folder / "tokenizer", workspace / "tokenizer")
        for name in ("ingest", "prepare"):
            found = stage(name, workspace)
            rate = megabytes / found["seconds"]
            speed_of = f"{found['seconds']:7.1f} s  {rate:5.1f} MB/s"
            print(f"  {name:<8} {megabytes:5} MB  {speed_of}  peak {found['peak']:5.0f} MB", flush=True)
    print(f"  splitting: {row_memory():.0f} bytes a row at its peak")


def shares(folder: Path) -> None:
    """Print which share of each stage's processor time a cluster could take over."""
    print("\nprocessor time that a cluster can take over")
    for name in ("ingest", "prepare"):
        print(f"  {name:<8} {stage(name, folder, 'share')['share']:4.0%}")


def stage(name: str, workspace: Path, *more: str) -> dict[str, float]:
    """Run a stage in a process of its own on `made.jsonl`: its seconds, start-up aside, and its peak in MB."""
    command = [sys.executable, __file__, "--stage", name, str(workspace), *more]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def row_memory() -> float:
    """Bytes for each row that `prepare` holds at most while it finds out which side each belongs to."""
    from pretune.data.prepare.splits import SplitAssigner

    shares: Any = SimpleNamespace(test_share=0.1, validation_share=0.1)
    tracemalloc.start()
    SplitAssigner(({"text": str(row), "label": "a"} for row in range(ROWS)), shares, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / ROWS


class Timed(ThreadPoolExecutor):
    """Threads that note what processor time their work takes."""

    spent: list[float] = []  # noqa: RUF012 - one list for all

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Any:
        """Begin work that is timed."""

        def timed() -> Any:
            began = time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                self.spent.append(time.thread_time() - began)

        return super().submit(timed)


def _measure(name: str, workspace: str, share: str = "") -> None:
    """Run one stage function; print its seconds, the peak of its resident memory in MB, and see `shares`."""
    import transformers  # noqa: F401 - not while time is taken

    from pretune.config import params
    from pretune.data import workers
    from tasks.ingest import ingest
    from tasks.prepare import prepare

    folder = Path(workspace)
    found = params.load(ROOT / "params.yaml")
    given = {"tokenizer": "tokenizer"} if (folder / "tokenizer").exists() else {}  # else one is learnt
    held_out = given | {"test_rows": 500, "validation_rows": 100, "train_rows": 300, "vocabulary_size": 4096}
    settings = found.model_copy(
        update={
            "ingest": found.ingest.model_copy(update={"source": "made.jsonl"}),
            "prepare": found.prepare.model_copy(update=held_out | {"decontaminate": 200}),
        }
    )

    def out(path: str) -> Path:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        return folder / path

    nothing: Any = lambda *_: None  # noqa: E731
    shutil.rmtree(folder / "data/prepared", ignore_errors=True)
    shutil.rmtree(folder / "reports", ignore_errors=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    worked: Any = SimpleNamespace(
        params=settings, dep=lambda path: folder / path, out=out, checkpoints=folder / "checkpoints",
        run=SimpleNamespace(metrics=nothing, text=nothing),
    )  # fmt: skip
    if share:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # so that a thread's time is all of its work
        workers.ThreadPoolExecutor = Timed  # type: ignore[misc]
    began, before = time.perf_counter(), time.process_time()
    {"ingest": ingest, "prepare": prepare}[name](worked)
    seconds, part = time.perf_counter() - began, sum(Timed.spent) / (time.process_time() - before)
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # not getrusage: that knows the parent's peak too
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1000
    print(json.dumps({"seconds": seconds, "peak": peak, "share": part}))


if __name__ == "__main__":
    main()
