from __future__ import annotations

import os
from functools import partial

import pytest

from flows.forkserver import ForkServer
from pretune.config.params import TeacherParams
from pretune.data import tokenizer
from pretune.data.inspect.machine import SETTINGS
from pretune.errors import ParamsError
from pretune.objectives import compatibility


@pytest.fixture
def changed(params):
    """A function that gives the parameters with values of sections changed."""

    def make(**sections):
        return params.model_copy(
            update={name: getattr(params, name).model_copy(update=values) for name, values in sections.items()}
        )

    return make


def test_valid_params_have_no_problems(params, tmp_path):
    """The tests' own parameters."""
    assert compatibility.problems(params, tmp_path) == []


def test_all_problems_are_reported_at_once(changed, tmp_path):
    """From every section, each with its dotted path and the nearest match."""
    problems = compatibility.problems(
        changed(
            model={"config": {"hidden_sise": 3, "vocab_size": 5}},
            pretrain={"objective": "masked_ml"},
            finetune={"objective": "binary", "metric_for_best_model": "acuracy", "settings": {"x": 1}},
            adaptation={"method": "lora", "settings": {"rank": 2}},
        ),
        tmp_path,
    )
    paths = ["model.config.vocab_size", "model.config.hidden_sise", "pretrain.objective",
             "finetune.metric_for_best_model",
             "finetune.settings.x", "adaptation.settings.rank"]  # fmt: skip
    assert [line.split(":")[0] for line in problems] == paths
    assert "did you mean hidden_size?" in problems[1]
    assert "did you mean masked_lm?" in problems[2]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"type": "gpt2", "config": {}}}, "that model learns: causal_lm"),
        ({"model": {"type": "t5", "config": {}}}, "that model learns: denoising, span_corruption"),
        ({"pretrain": {"objective": "causal_lm", "settings": {}}}, "causal_lm is not for model.type modernbert"),
        ({"model": {"type": "modernbrt"}}, "did you mean modernbert?"),
        ({"model": {"config": {"hidden_size": "wide"}}}, "hidden_size"),
        ({"model": {"config": {"hidden_size": 30, "num_attention_heads": 4}}}, "multiple"),
        ({"pretrain": {"settings": {"mask_rate": 1.5, "whole_words": False}}}, "less than 1"),
        ({"pretrain": {"settings": {"mask_rate": 0.3}}}, "pretrain.settings.whole_words: missing"),
        ({"evaluate": {"benchmarks": ["hellaswag"]}}, "models of classification write no text"),
        ({"finetune": {"epochs": 0}}, "finetune.epochs: 0, but the head of classification is new"),
        (
            {"finetune": {"objective": "instruction", "sequence_length": 64, "settings": SETTINGS["instruction"]}},
            "finetune.settings.reply_tokens 64 leaves no room for a prompt",
        ),
    ],
)
def test_an_invalid_pair_names_the_valid_ones(changed, sections, words, tmp_path):
    """Objectives for the model, and models for the objective."""
    assert any(words in line for line in compatibility.problems(changed(**sections), tmp_path))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"adaptation": {"method": "top", "settings": {"layers": 3}}}, "3, but the model has 2"),
        (
            {
                "model": {"type": "linear", "config": {}},
                "pretrain": {"objective": "reconstruction", "settings": {}},
                "finetune": {"objective": "linear_regression", "metric_for_best_model": "last"},
                "adaptation": {"method": "lora"},
            },
            "has no layers to adapt",
        ),
        (
            {
                "model": {"type": "gpt2", "config": {"n_layer": 1, "n_embd": 16, "n_head": 2}},
                "pretrain": {"objective": "causal_lm", "settings": {}},
                "finetune": {"objective": "language_modelling", "metric_for_best_model": "last"},
                "adaptation": {"method": "head"},
            },
            "no head of its own",
        ),
    ],
)
def test_an_adaptation_without_anything_to_train_is_reported_before_pretraining(changed, sections, words, tmp_path):
    """More layers than there are, or none, or a head tied to the embeddings."""
    (line,) = compatibility.problems(changed(**sections), tmp_path)
    assert words in line


@pytest.mark.parametrize("method", ["full", "head", "top", "gradual", "lora", "dora", "ia3", "oft"])
def test_an_adaptation_that_suits_the_model_has_no_problem(changed, method, tmp_path):
    """Nor does one for a checkpoint, whose shape is not known yet."""
    settings = {"top": {"layers": 1}, "gradual": {"epochs_per_layer": 1}}.get(method, {})
    assert compatibility.problems(changed(adaptation={"method": method, "settings": settings}), tmp_path) == []
    chosen = {"adaptation": {"method": "top", "settings": {"layers": 9}}, "model": {"init": "checkpoint"}}
    assert compatibility.problems(changed(**chosen), tmp_path) == []


@pytest.mark.slow
def test_a_combination_is_checked_once(project, params_file, params):
    """In a process of its own; a valid combination is not checked again, an invalid one is."""
    state = project / ".pretune"
    start = partial(ForkServer(project, {}, [], state / "log").start, environment=os.environ)
    compatibility.before_work(project, state, params, start)
    assert (state / "checked").read_text(encoding="utf-8") == compatibility.digest_of(params, project)
    text = params_file.read_text(encoding="utf-8").replace("method: full", "method: fulll")
    (project / "params.yaml").write_text(text, encoding="utf-8")
    wrong = params.model_copy(update={"seed": 1, "adaptation": _fulll(params)})
    with pytest.raises(ParamsError, match=r"did you mean full\?"):
        compatibility.before_work(project, state, wrong, start)
    assert (state / "checked").read_text(encoding="utf-8") == compatibility.digest_of(params, project), (
        "an invalid combination is kept as valid"
    )


def test_a_teacher_stands_where_one_is_learnt_from_and_has_the_tokenizer(changed, tiny, words, tmp_path):
    """Before any stage: a section without use, a missing one, another tokenizer; a new teacher is checked again."""
    config = tiny("llama")
    config.save_pretrained(tmp_path / "big")
    words.save_pretrained(tmp_path / "big")
    tokenizer.train(["other words"] * 9, 300, 64).save_pretrained(tmp_path / "other")
    teacher = TeacherParams(init="big", top=8)

    def found(objective="distillation", named="big", teacher=teacher):
        settings = {
            "template": None, "reply_tokens": 4, "loss": "all", "reasoning": "trained", "too_long": "cut",
            **({"weight": 0.5, "temperature": 1.0} if objective == "distillation" else {}),
        }  # fmt: skip
        made = changed(
            model={"type": "llama", "config": {"hidden_size": 16, "num_attention_heads": 2}},
            pretrain={"objective": "causal_lm", "settings": {}}, prepare={"tokenizer": named},
            finetune={"objective": objective, "settings": settings, "sequence_length": 32, "calibrate": False,
                      "label_smoothing": 0.0, "metric_for_best_model": "last"},
        )  # fmt: skip
        return made.model_copy(update={"teacher": teacher})

    assert compatibility.problems(found(), tmp_path) == []
    for params, expected in (
        (found(teacher=None), "teacher: missing; finetune.objective distillation needs the section"),
        (found("instruction"), "teacher: finetune.objective instruction has none; take the section out"),
        (found(named="byte_bpe"), "prepare.tokenizer: byte_bpe learns other tokens than those of the teacher"),
        (found(named="other"), "tokens are not those of the teacher"),
        (found(teacher=TeacherParams(init="big@main", top=8)), "teacher.init: big@main is not pinned"),
    ):
        (line,) = compatibility.problems(params, tmp_path)
        assert expected in line
    before = compatibility.digest_of(found(), tmp_path)
    (tmp_path / "big/config.json").write_text("{}", encoding="utf-8")
    assert compatibility.digest_of(found(), tmp_path) != before


def test_what_does_not_fit_a_checkpoint_that_is_there_is_reported(changed, tiny, words, tmp_path):
    """Before any stage: its type, its shape, its vocabulary; another checkpoint is checked again."""
    config = tiny("modernbert")
    config.vocab_size = len(words) - 1
    config.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "words")

    def found(type_="modernbert", tokenizer="byte_bpe", **config):
        return changed(
            model={"init": "model", "type": type_, "config": config}, prepare={"tokenizer": tokenizer},
            pretrain={"objective": "masked_lm", "settings": {"mask_rate": 0.3, "whole_words": False}},
        )  # fmt: skip

    assert compatibility.problems(found(), tmp_path) == []
    (line,) = compatibility.problems(found("bert"), tmp_path)
    assert line == "model.type: bert, but model.init holds a modernbert"
    (line,) = compatibility.problems(found(hidden_size=2 * config.hidden_size), tmp_path)
    assert line.startswith(f"model.config.hidden_size: {2 * config.hidden_size}, but the checkpoint")
    (line,) = compatibility.problems(found(tokenizer="words"), tmp_path)
    assert f"it has {len(words) - 1} tokens, the tokenizer {len(words)}" in line
    before = compatibility.digest_of(found(), tmp_path)
    tiny("modernbert").save_pretrained(tmp_path / "model")
    assert compatibility.digest_of(found(), tmp_path) != before, "another checkpoint in the same folder is not checked"
    assert compatibility.problems(found(tokenizer="words"), tmp_path) == []


def test_what_does_not_fit_a_checkpoint_of_the_hub_is_reported_once_it_is_on_this_machine(
    changed, tiny, tmp_path, monkeypatch
):
    """Before it is fetched nothing is known of it."""
    revision = "0" * 40
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    params = changed(
        model={"init": f"some/one@{revision}", "type": "bert", "config": {}},
        pretrain={"objective": "masked_lm", "settings": {"mask_rate": 0.3, "whole_words": False}},
    )
    assert compatibility.problems(params, tmp_path) == []
    tiny("modernbert").save_pretrained(tmp_path / "hub/models--some--one/snapshots" / revision)
    assert compatibility.problems(params, tmp_path) == ["model.type: bert, but model.init holds a modernbert"]


def _fulll(params):
    return params.adaptation.model_copy(update={"method": "fulll"})
