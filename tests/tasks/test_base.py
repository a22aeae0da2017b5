"""The checkpoint as it came, asked on the same rows as the model that was finetuned from it."""

from __future__ import annotations

import json
import shutil

import pytest

from pretune.config import overrides, params
from pretune.data import tokenizer
from pretune.models import build
from pretune.objectives import predictions_io
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.predictor import conversation
from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.ingest import ingest
from tasks.label_efficiency import label_efficiency
from tasks.prepare import prepare
from tasks.pretrain import pretrain
from tasks.scratch import scratch

SMALL = [
    "threads=1", "ingest.source=rows.jsonl", "ingest.clean.duplicates=exact", "prepare.train_rows=16",
    "prepare.validation_rows=0", "prepare.test_rows=8", "prepare.test_share=0.3", "prepare.similarity=1.0",
    "prepare.decontaminate=0", "prepare.tokenizer=checkpoint", "model.type=llama", "model.init=checkpoint",
    "model.config={}", "pretrain.objective=causal_lm", "pretrain.settings={}", "pretrain.steps=0",
    "pretrain.validation_rows=0", "pretrain.evaluate_every=0", "pretrain.sequence_length=32",
    "finetune.objective=instruction",
    "finetune.settings={template: null, reply_tokens: 4, loss: all, reasoning: trained, too_long: cut}",
    "finetune.epochs=1",
    "finetune.batch_size=8", "finetune.sequence_length=48", "finetune.evaluate_every=0",
    "evaluate.bootstrap_samples=100",
]  # fmt: skip
STAGES = (ingest, prepare, pretrain, finetune, scratch, label_efficiency, evaluate)


TASK = """task: numbers
dataset_path: json
dataset_kwargs: {data_files: {test: asked.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: [salt, waves]
doc_to_target: 0
"""


@pytest.fixture
def finetuned(tmp_path, params_file, make_bench, words, tiny):
    """A function that runs all stages on conversations, and other texts of the corpus, from a small Llama."""

    def run(*given, texts=0):
        turns = [(f"what is {number}", f"{number} is a number") for number in range(40)]
        rows = [
            {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": reply}]}
            for ask, reply in turns
        ]
        (tmp_path / "task.yaml").write_text(TASK, encoding="utf-8")
        questions = [json.dumps({"question": ask}) for ask, _ in turns]
        (tmp_path / "asked.jsonl").write_text("\n".join(questions) + "\n", encoding="utf-8")
        rows += [{"text": f"salt and waves and harbour {n}", "split": "corpus"} for n in range(texts)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        build.save(build.new(CausalLM, tiny("llama")), words, tmp_path / "checkpoint", {})
        document, _ = overrides.overridden(params_file, [*SMALL, *given])
        bench = make_bench(tmp_path, params.validate(document))
        for stage in STAGES:
            bench.name = stage.__name__
            stage(bench)
        return bench

    return run


@pytest.mark.slow
def test_a_checkpoint_is_asked_as_it_came(finetuned, monkeypatch):
    """By its own weights, in the template that training gave it: a model of 0 epochs answers the same.

    The report says what training brought over it, nothing of random weights, which were not trained, and what was
    forgotten. If too few texts are held out for that, a warning says so. Benchmarks ask both in the template too.
    """
    pytest.importorskip("lm_eval", reason="pip install 'pretune[lm-eval]'")
    bench = finetuned("finetune.epochs=0", "evaluate.benchmarks=[task.yaml]", texts=20)
    result = json.loads((bench.folder / "reports/metrics.json").read_text(encoding="utf-8"))
    assert list(result["gain"]) == ["base", "nearest"]
    assert result["gain"]["base"] | {"p": 1} == {"value": 0, "low": 0, "high": 0, "p": 1}
    stored = predictions_io.loads((bench.folder / "reports/evaluation/predictions.json").read_text(encoding="utf-8"))
    assert any(stored.models["base"].predicted)
    assert stored.models["base"].predicted == stored.models["finetuned"].predicted
    assert bench.recorded["headline/base"] == bench.recorded["headline/finetuned"]
    report = (bench.folder / "reports/report.html").read_text(encoding="utf-8")
    assert "Training did not help: +0" in report
    assert "over the checkpoint as it came" in report
    assert "Pretraining" not in report
    assert result["forgetting"]["texts"] >= 20
    assert result["forgetting"]["increase"]["value"] == pytest.approx(0, abs=1e-6)
    assert "<h2>Forgetting</h2>" in report
    assert "<h2>Rows that are trained on</h2>" in report
    assert "<h2>Benchmarks</h2>" in report
    benchmark = result["benchmarks"]["numbers/acc"]
    assert benchmark["samples"] == 40
    answers = [f"0/5 answers of {name}" for name in ("finetuned", "base")]
    assert bench.told == [*answers, "1/5 forgetting", "2/5 benchmarks", "3/5 report", "4/5 latency"]
    assert benchmark["gain"]["base"] | {"p": 1} == {"value": 0, "low": 0, "high": 0, "p": 1}
    asked = (bench.folder / "reports/evaluation/benchmarks/numbers.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["model"] for line in asked.splitlines()] == ["finetuned"] * 40 + ["base"] * 40
    assert bench.texts["evaluation/benchmarks/numbers.jsonl"] == asked
    assert conversation.render(
        tokenizer.load(bench.folder / "models/finetuned"), [{"role": "user", "content": "what is 7"}],
        add_generation_prompt=True,
    ) in json.loads(asked.splitlines()[7])["arguments"][0]  # fmt: skip

    monkeypatch.setattr("pretune.evaluation.forgetting.FEWEST", 10_000)
    shutil.rmtree(bench.folder / "reports/evaluation")
    evaluate(bench)
    assert "forgetting" not in json.loads((bench.folder / "reports/metrics.json").read_text(encoding="utf-8"))
    (warning,) = bench.warnings
    assert f"{result['forgetting']['texts']} texts of the corpus were seen by no training" in warning
    assert "pretrain.validation_rows" not in warning
