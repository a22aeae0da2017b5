"""The stages `reference` and `align`: preferences as a second stage of finetuning."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pretune.config.params import FinetuneParams
from pretune.data import rows
from pretune.errors import DataError, GraphError
from pretune.models import build, heads
from pretune.objectives.finetuning.instruction import Instruction
from pretune.objectives.finetuning.kto import mismatch
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.objectives.requirements import REFERENCED
from pretune.predictor.model import Predictor
from pretune.release.export import decoders
from tasks.align import align
from tasks.align import prepare as prepare_align
from tasks.reference import reference

DPO = {"template": None, "reply_tokens": 4, "beta": 0.1, "label_smoothing": 0.0, "loss": "sigmoid"}
WORDS = ["waves", "salt", "harbour", "flour", "oven", "butter"]


def pair(number):
    """A row with a preference."""
    word = WORDS[number % len(WORDS)]
    turns = [("user", f"say {word} {number}"), ("assistant", word), ("assistant", f"number {number}")]
    prompt, chosen, rejected = ([{"role": role, "content": content}] for role, content in turns)
    return {"messages": prompt, "chosen": chosen, "rejected": rejected}


@pytest.fixture
def bench(tmp_path, params, make_bench, words, tiny):
    """A bench with a finetuned model, labelled rows and DPO as the second stage."""
    small = {
        "objective": "dpo", "settings": DPO, "epochs": 2, "batch_size": 4, "sequence_length": 32, "evaluate_every": 2,
        "learning_rate": 1e-3, "calibrate": False, "label_smoothing": 0.0, "metric_for_best_model": "last",
        "patience": 0, "precision": "fp32", "seed": None,
    }  # fmt: skip
    section = FinetuneParams.model_validate(params.finetune.model_dump() | small)
    folder = tmp_path / "data/prepared/labelled"
    folder.mkdir(parents=True)
    for split, numbers in {"train": range(8), "validation": range(8, 12), "test": range(12, 16)}.items():
        rows.write(folder / f"{split}.parquet", [pair(number) for number in numbers])
    (folder / "labels.json").write_text(json.dumps([]), encoding="utf-8")
    build.save(build.new(Instruction, tiny("llama")), words, tmp_path / "models/finetuned", {})
    return make_bench(tmp_path, params.model_copy(update={"align": section, "threads": 1}))


def do(bench, function):
    """Run a stage function that reads the finetuned model, and the reference if there is one."""
    deps = ["data/prepared/labelled", "data/reference", "models/finetuned"]
    bench.declared = lambda folder: [
        path for path in deps if path.startswith(f"{folder}/") and (bench.folder / path).exists()
    ]
    bench.name = function.__name__
    return function(bench)


def test_training_begins_at_its_own_reference(bench):
    """Before the first step the model is the reference: no pair has a margin, and the loss is log 2."""
    do(bench, reference)
    values = load_file(bench.folder / "data/reference/train.safetensors")["log_probs"]
    assert values.shape == (8, 2)
    assert (values < 0).all()
    done, total = bench.told[-1].removesuffix(" validation").split("/")
    assert done == total, "the progress ends with the last token"
    job = do(bench, prepare_align)
    heads.prepare(job.model)
    with torch.no_grad():
        score = job.objective.score(job.model.eval(), job.objective.batch(np.zeros(8, dtype=int), np.arange(8)))
    assert float(score["loss"]) / 8 == pytest.approx(np.log(2), abs=1e-5)


def test_a_second_stage_trains_the_finetuned_model(bench, monkeypatch):
    """It writes models/aligned, another model, and the curve with the accuracy of pairs.

    Its adapters, exported alone, answer as it does on the finetuned model; not on another one.
    """
    section = bench.params.align.model_copy(update={"learning_rate": 0.1, "epochs": 10})
    lora = bench.params.adaptation.model_copy(update={"method": "lora", "settings": {"r": 2}})
    bench.params = bench.params.model_copy(update={"align": section, "adaptation": lora})
    do(bench, reference)
    do(bench, align)
    assert build.model_type(bench.folder / "models/aligned") == "llama"
    files = [bench.folder / f"models/{name}/model.safetensors" for name in ("finetuned", "aligned")]
    assert files[0].read_bytes() != files[1].read_bytes()
    head = (bench.folder / "reports/curves/align.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "validation_accuracy" in head
    monkeypatch.setattr(decoders, "TOKENS", 8)
    start, source = bench.folder / "models/finetuned", bench.folder / "models/aligned"
    model, asked = Predictor(str(source)).answers, [pair(number) for number in range(3)]
    told = {"to": "adapter", "precision": None, "source": source}
    parity = decoders.export(model, asked, bench.folder / "exported", base=start, **told)
    assert (parity.difference < decoders.SAME, parity.texts) == (True, 1)
    with pytest.raises(DataError, match="differs by"):
        decoders.export(model, asked, bench.folder / "other", base=source, **told)


def test_without_its_reference_nothing_is_trained(bench):
    """A graph without the stage, and values of other rows, end in a message."""
    with pytest.raises(GraphError, match=r"align.objective dpo compares .* no stage computes data/reference"):
        do(bench, prepare_align)
    do(bench, reference)
    rows.write(bench.folder / "data/prepared/labelled/train.parquet", [pair(number) for number in range(5)])
    with pytest.raises(DataError, match="holds 8 rows, the labelled rows are 5"):
        do(bench, prepare_align)


def test_an_objective_without_a_reference_gets_an_empty_folder(bench):
    """The graph stays as it is when `align.objective` changes; nothing is computed."""
    simpo = bench.params.align.model_copy(update={"objective": "simpo"})
    bench.params = bench.params.model_copy(update={"align": simpo})
    do(bench, reference)
    assert list((bench.folder / "data/reference").iterdir()) == []


def test_names_of_objectives_with_a_reference_are_those_of_the_classes():
    """The command line knows them without importing torch."""
    assert {name for name, objective in OBJECTIVES.items() if objective.referenced} == REFERENCED


def test_a_mismatched_answer_belongs_to_another_prompt():
    """The row before, in a circle; rows with the same prompt are passed over."""
    assert [mismatch(["a", "b", "b", "c"], row) for row in range(4)] == [3, 0, 0, 2]
    assert mismatch(["a", "a"], 1) == 1
