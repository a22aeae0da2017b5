"""The stage `teacher`, and a student that learns from what it has asked."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from cli import dry_runs
from pretune.config.params import FinetuneParams, TeacherParams, restrict_params
from pretune.data import rows
from pretune.data import tokenizer as tokenizers
from pretune.errors import DataError, GraphError
from pretune.models import build, heads
from pretune.objectives.finetuning.instruction import Instruction
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.objectives.finetuning.teacher import Teacher
from pretune.objectives.requirements import TAUGHT
from tasks.finetune import finetune
from tasks.finetune import prepare as prepare_finetune
from tasks.scratch import prepare as prepare_scratch
from tasks.teacher import teacher

WORDS = ["waves", "salt", "harbour", "flour", "oven", "butter"]
SETTINGS = {
    "template": None, "reply_tokens": 4, "loss": "all", "reasoning": "trained", "too_long": "split",
    "weight": 0.5, "temperature": 2.0,
}  # fmt: skip


def conversation(number):
    """A row with two questions and answers: with `split` some become two samples."""
    word = WORDS[number % len(WORDS)]
    turns = [
        ("user", f"say {word} {number}"),
        ("assistant", word),
        ("user", "again"),
        ("assistant", word * (number % 5)),
    ]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def bench(tmp_path, params, make_bench, words, tiny):
    """A bench with labelled rows, a pretrained model, and a teacher with the same weights."""
    small = {
        "objective": "distillation", "settings": SETTINGS, "epochs": 2, "batch_size": 4, "sequence_length": 24,
        "evaluate_every": 2, "learning_rate": 1e-3, "calibrate": False, "label_smoothing": 0.0,
        "metric_for_best_model": "last", "patience": 0, "precision": "fp32", "seed": None,
    }  # fmt: skip
    section = FinetuneParams.model_validate(params.finetune.model_dump() | small)
    folder = tmp_path / "data/prepared/labelled"
    folder.mkdir(parents=True)
    for split, numbers in {"train": range(8), "validation": range(8, 12), "test": range(12, 16)}.items():
        rows.write(folder / f"{split}.parquet", [conversation(number) for number in numbers])
    (folder / "labels.json").write_text(json.dumps([]), encoding="utf-8")
    words.save_pretrained(tmp_path / "data/prepared/tokenizer")
    model = build.new(Instruction, tiny("llama"))
    for name in ("models/pretrained", "checkpoints/teacher"):
        build.save(model, words, tmp_path / name, {})
    asked = TeacherParams(init="checkpoints/teacher", top=len(words))
    llama = params.model.model_copy(update={"type": "llama", "config": {"hidden_size": 32, "num_attention_heads": 2}})
    return make_bench(
        tmp_path, params.model_copy(update={"finetune": section, "teacher": asked, "model": llama, "threads": 1})
    )


def do(bench, function, **changed):
    """Run a stage function on what there is, with keys of `finetune.settings` changed."""
    section = bench.params.finetune
    section = section.model_copy(update={"settings": section.settings | changed})
    bench.params, own = bench.params.model_copy(update={"finetune": section}), bench.params
    bench.declared = lambda folder: ["data/teacher"] if (bench.folder / "data/teacher").exists() else []
    bench.name = function.__name__
    try:
        return function(bench)
    finally:
        bench.params = own


def scored(job):
    """The scores of the job's model on all samples, per target."""
    heads.prepare(job.model)
    samples = np.arange(len(job.objective))
    batch = job.objective.batch(np.zeros_like(samples), samples)
    with torch.no_grad():
        return {
            name: float(value) / batch.count for name, value in job.objective.score(job.model.eval(), batch).items()
        }


def test_the_teacher_is_asked_about_each_target_of_each_sample(bench):
    """A student with its weights learns nothing from it; the answers still count, by the rest of the weight."""
    do(bench, teacher)
    whole = scored(do(bench, prepare_finetune))
    assert whole["divergence"] == pytest.approx(0, abs=1e-5)
    assert whole["loss"] == pytest.approx(0.5 * whole["cross_entropy"], rel=1e-4)
    stored = load_file(bench.folder / "data/teacher/top.safetensors")
    assert len(stored["ids"]) == stored["offsets"][-1] == bench.recorded["targets"]
    assert len(stored["keys"]) > 12, "rows that are too long become several samples"
    assert bench.told[-1] == "{0}/{0} targets".format(len(stored["ids"])), "the progress ends with all of them"


def test_what_it_will_cost_is_tried_on_some_samples(bench):
    """Nothing is written, and all of it where half a second is enough."""
    found = do(bench, lambda stage: dry_runs.teacher(stage, time.perf_counter()))
    assert 0 < found["seconds"] < 100
    assert found["parameters"] > 0
    assert found["memory_gb"] > 0.1
    assert not (bench.folder / "data/teacher").exists()


def test_it_reads_only_settings_that_change_its_answers(bench, root):
    """The stage runs with nothing but what the graph declares: not the weight, not the temperature, not the rate."""
    graph = YAML(typ="safe").load(root / "examples/graphs/teacher.yaml")["stages"]["teacher"]["params"]
    bench.params = restrict_params(bench.params, graph, "teacher")
    bench.name = "teacher"
    teacher(bench)
    assert Teacher.load(bench.folder / "data/teacher").figures()["probability_beyond_top"] == 0
    assert not [key for key in graph if key in {"finetune", "finetune.settings", "finetune.settings.weight"}]


def test_a_student_is_trained_and_one_from_scratch_learns_from_the_answers_alone(bench):
    """The curve shows both losses on the validation rows."""
    do(bench, teacher)
    do(bench, finetune)
    head = (bench.folder / "reports/curves/finetune.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.endswith("validation_loss,validation_cross_entropy,validation_divergence")
    alone = scored(do(bench, prepare_scratch))
    assert alone["loss"] == alone["cross_entropy"]
    assert alone["divergence"] == 0


def test_few_tokens_and_the_rest_are_less_than_the_whole(bench, words):
    """The divergence over classes is at most that over tokens; most of an untrained teacher lies beyond three."""
    pretrained = bench.folder / "models/pretrained"
    torch.manual_seed(4)
    build.new(Instruction, build.configuration(pretrained)).save_pretrained(pretrained)
    divergences = []
    for top in (1, 3, len(words)):
        bench.params = bench.params.model_copy(update={"teacher": TeacherParams(init="checkpoints/teacher", top=top)})
        shutil.rmtree(bench.folder / "data/teacher", ignore_errors=True)
        do(bench, teacher)
        divergences.append(scored(do(bench, prepare_finetune))["divergence"])
    assert 0 < divergences[0] <= divergences[1] < divergences[2]


def test_answers_about_other_samples_are_refused(bench):
    """A graph without the stage, an empty folder, a file that is cut off, other samples, other rows: a message each."""
    with pytest.raises(GraphError, match=r"finetune.objective distillation learns from a teacher, but .* no stage"):
        do(bench, prepare_finetune)
    bench.out("data/teacher").mkdir()
    with pytest.raises(DataError, match=r"top.safetensors cannot be read"):
        do(bench, prepare_finetune)
    (bench.folder / "data/teacher").rmdir()
    do(bench, teacher)
    file = bench.folder / "data/teacher/top.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"top.safetensors cannot be read .*"):
        do(bench, prepare_finetune)
    file.write_bytes(whole)
    with pytest.raises(DataError, match=r"lacks \d+ of \d+ samples"):
        scored(do(bench, prepare_finetune, too_long="cut"))
    rows.write(bench.folder / "data/prepared/labelled/train.parquet", [conversation(number) for number in (0, 1, 90)])
    with pytest.raises(DataError, match=r"lacks [12] of \d+ samples"):
        scored(do(bench, prepare_finetune))


def test_a_teacher_with_another_tokenizer_is_refused(bench, tiny):
    """So is one that reads fewer tokens; both at once, with what to write."""
    other = tokenizers.train(["other words altogether, in another order"] * 9, 300, 64)
    config = tiny("llama")
    config.max_position_embeddings = 16
    place = bench.folder / "checkpoints/other"
    build.save(build.new(Instruction, config), other, place, {})
    bench.params = bench.params.model_copy(update={"teacher": TeacherParams(init="checkpoints/other", top=3)})
    with pytest.raises(DataError) as caught:
        do(bench, teacher)
    length, tokens = caught.value.problems
    assert length == "finetune.sequence_length: 24, but the teacher reads 16 tokens at most"
    assert (
        f"tokens are not those of the teacher, whose answers are about its own; write prepare.tokenizer: {place}"
        in tokens
    )


def test_an_objective_without_a_teacher_gets_an_empty_folder(bench):
    """The graph stays as it is when `finetune.objective` changes; nothing is asked."""
    section = bench.params.finetune.model_copy(update={"objective": "instruction"})
    bench.params = bench.params.model_copy(update={"finetune": section})
    do(bench, teacher)
    assert list((bench.folder / "data/teacher").iterdir()) == []


def test_names_of_objectives_with_a_teacher_are_those_of_the_classes():
    """The command line knows them without importing torch."""
    assert {name for name, objective in OBJECTIVES.items() if objective.taught} == TAUGHT


def test_a_student_is_evaluated_by_the_likelihood_of_the_answers(bench):
    """Of the last answer of each row, after its prompt: what training on that answer alone would minimise."""
    bench.params = bench.params.model_copy(
        update={"finetune": bench.params.finetune.model_copy(update={"sequence_length": 60})}
    )
    do(bench, teacher)
    with pytest.raises(DataError, match=r"lacks \d+ of \d+ samples"):
        scored(do(bench, prepare_finetune, loss="last"))  # the same tokens, other targets
    shutil.rmtree(bench.folder / "data/teacher")
    do(bench, teacher, loss="last")
    job = do(bench, prepare_finetune, loss="last")
    expected = scored(job)["cross_entropy"]
    found = job.objective.predict(job.model)
    assert found.nats.sum() / found.tokens.sum() == pytest.approx(expected, rel=1e-4)
    assert (
        found.targets[1]
        == rows.read(bench.folder / "data/prepared/labelled/train.parquet")[1]["messages"][3]["content"]
    )
