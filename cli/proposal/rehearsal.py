"""A rehearsal of proposed parameters on a sample of the data: `prepare` runs, and both trainings take some steps."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretune.config.params import Params
from pretune.data.ingest.sources.record import Record
from pretune.data.inspect.machine import Pace
from pretune.data.rows import Row
from pretune.objectives.requirements import REFERENCED
from pretune.predictor import conversation

RECORDS = 2000  # of the sample that are rehearsed with
ROUNDS = 2
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Rehearsal:
    """What the sample became.

    inputs, targets, texts: tokens of rows, targets and documents. corpus: its tokens, images or rows of numbers.
    splits: rows of each.
    counts: those of counts.json. pace: None unless steps were timed.
    """

    inputs: list[int]
    targets: list[int]
    texts: list[int]
    corpus: int
    splits: dict[str, int]
    counts: dict[str, Any]
    pace: Pace | None


class RehearsalStage:
    """What stage functions use of Stage, in a temporary folder: nothing is recorded."""

    key = "rehearsal"

    def __init__(self, folder: Path, root: Path, params: Params) -> None:
        self.name, self.params, self.run = "rehearsal", params, self
        self._folder, self._root = folder, root

    def dep(self, path: str) -> Path:
        """A file that an earlier stage wrote, or the checkpoint in the workspace."""
        return (self._root if path == self.params.model.init else self._folder) / path

    def declared(self, folder: str) -> list[str]:
        """What an objective that compares with a reference reads."""
        return {"data": ["data/reference"], "models": ["models/pretrained"]}.get(folder, [])

    def resolve_input(self, place: str) -> Path:
        """A path in the workspace."""
        return self._root / place

    def out(self, path: str) -> Path:
        """Where to write."""
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        return self._folder / path

    @property
    def checkpoints(self) -> Path:
        """A folder of its own."""
        return self._folder / "checkpoints"

    def metrics(self, values: Any, step: int = 0) -> None:
        """Not recorded."""

    def text(self, name: str, content: str) -> None:
        """Not recorded."""

    def warn(self, text: str) -> None:
        """Not shown."""


def rehearse(root: Path, params: Params, records: Sequence[tuple[str | None, Record]], *, timed: bool) -> Rehearsal:
    """Run `prepare` on the records, and take some steps of both trainings if `timed`. Raises what the stages raise."""
    from pretune.data import rows as stored
    from pretune.data.ingest.snapshot import Snapshot
    from tasks.prepare import prepare

    with tempfile.TemporaryDirectory(prefix="pretune-init-") as name:
        stage: Any = RehearsalStage(Path(name), root, params)
        snapshot = Snapshot(stage.out("data/raw"), params.ingest)
        chosen = sorted(random.Random(0).sample(range(len(records)), min(RECORDS, len(records))))  # noqa: S311 - a sample
        counts = snapshot.write(records[number] for number in chosen)
        about = {"source": "sample", "licence": "unknown", "names": snapshot.names}
        (stage.dep("data/raw") / "source.json").write_text(json.dumps(about), encoding="utf-8")
        prepare(stage)
        inputs, targets, texts = _lengths(stage)
        corpus = _corpus(stage.dep("data/prepared/corpus"))
        splits = {part: stored.count_rows(stage.dep(f"data/prepared/labelled/{part}.parquet")) for part in PARTS}
        return Rehearsal(inputs, targets, texts, corpus, splits, counts, _pace(stage) if timed else None)


def _lengths(stage: Any) -> tuple[list[int], list[int], list[int]]:
    """Tokens of the inputs, of the targets and of the documents; none for images and numbers."""
    from pretune.data import rows, tokenizer

    folder = stage.dep("data/prepared")
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        return [], [], []
    words = tokenizer.load(folder / "tokenizer")
    labelled = [row for part in PARTS for row in rows.read(folder / "labelled" / f"{part}.parquet")]

    def count(texts: list[str], **more: Any) -> list[int]:
        return [len(ids) for ids in words(texts, verbose=False, **more)["input_ids"]] if texts else []

    if labelled and "words" in labelled[0]:
        inputs = count([" ".join(row["words"]) for row in labelled])
    elif labelled and "messages" in labelled[0]:
        whole = [row["messages"] + row.get("chosen", []) for row in labelled]
        inputs = count([_conversation(words, turns, row) for row, turns in zip(labelled, whole, strict=True)])
    elif labelled and "context" in labelled[0]:
        inputs = [
            a + b
            for a, b in zip(
                count([row["context"] for row in labelled]), count([row["question"] for row in labelled]), strict=True
            )
        ]
    else:
        inputs = count([row["text"] + "\n" + row.get("pair", "") for row in labelled if "text" in row])
    targets = count([row["target"] for row in labelled if "target" in row])
    targets = targets or count(
        [(row["messages"] + row.get("chosen", []))[-1]["content"] for row in labelled if "messages" in row]
    )
    return inputs, targets, count([text for row in labelled for text in rows.texts(row)])


def _reference(stage: Any) -> None:
    """In place of the log-probabilities that the stage `reference` computes, for minutes where a model is large."""
    import numpy as np

    from pretune.data import rows
    from pretune.objectives.finetuning import reference

    folder = stage.out("data/reference")
    folder.mkdir()
    for part in ("train", "validation"):
        count = rows.count_rows(stage.dep(f"data/prepared/labelled/{part}.parquet"))
        reference.write(folder / f"{part}.safetensors", np.zeros((count, 2), dtype=np.float32))


def _conversation(words: Any, turns: list[Row], row: Row) -> str:
    """It in the chat template; without one that can write it, roles and contents."""
    try:
        return conversation.render(words, turns, row.get("tools"))
    except conversation.ConversationError:
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _corpus(folder: Path) -> int:
    """Tokens, images or rows of the corpus."""
    import numpy as np

    for name in ("images.npy", "x.npy"):
        if (folder / name).is_file():
            return len(np.load(folder / name, mmap_mode="r"))
    return sum(len(np.load(path, mmap_mode="r")) for path in folder.glob("tokens-*.npy"))


def _pace(stage: Any) -> Pace:
    """Seconds of a step of both trainings, as measured here: the least of ROUNDS, for other work slows some down.

    Of a checkpoint, which is read where it lies and not pretrained, both are those of finetuning.
    """
    from pretune.models import build
    from pretune.training import parallel
    from pretune.training.estimate import dry_run
    from tasks import finetune, pretrain, scratch

    world = parallel.single_process()
    referenced, starts = stage.params.finetune.objective in REFERENCED, stage.params.model.init is not None
    jobs = [] if starts else [pretrain.prepare(stage)]
    if starts:
        pretrain.link(stage, stage.out("models/pretrained"))
    elif referenced:
        build.save(jobs[0].model, jobs[0].inputs, stage.out("models/pretrained"), jobs[0].inference_config)
    if referenced:  # no model from scratch can be trained on it; what the reference says does not change the pace
        _reference(stage)
    jobs.append((finetune if referenced or starts else scratch).prepare(stage))
    rounds = [[dry_run.timed(job, world, 1, 0).step for job in jobs] for _ in range(ROUNDS)]
    least = [min(seconds) for seconds in zip(*rounds, strict=True)]
    return Pace(least[0], least[-1])
