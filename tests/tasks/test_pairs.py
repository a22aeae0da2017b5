"""Rows of two texts, from a table with names of its own to answers: every stage, MLflow, `pretune predict`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pretune.config import overrides, params
from pretune.data import rows
from pretune.objectives import predictions_io
from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.ingest import ingest
from tasks.label_efficiency import label_efficiency
from tasks.prepare import prepare
from tasks.pretrain import pretrain
from tasks.scratch import scratch

CLAIMS = [("salt", "salt")] * 3 + [("salt", "flour"), ("flour", "salt"), ("flour", "flour")]
SMALL = [
    "threads=1", "ingest.source=claims.csv", "ingest.columns={text: claim, pair: evidence, label: verdict}",
    "ingest.clean.duplicates=exact", "prepare.vocabulary_size=320", "prepare.train_rows=160",
    "prepare.validation_rows=8", "prepare.test_rows=40", "prepare.validation_share=0.05", "prepare.test_share=0.2",
    "prepare.similarity=1.0", "prepare.decontaminate=0", "model.type=bert",
    "model.config={hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}",
    "pretrain.steps=4", "pretrain.batch_size=4", "pretrain.sequence_length=16", "pretrain.validation_rows=2",
    "finetune.epochs=16", "finetune.sequence_length=32", "finetune.learning_rate=3e-3", "finetune.evaluate_every=0",
    "evaluate.bootstrap_samples=100", "evaluate.mistakes=2", "evaluate.attributions=1",
]  # fmt: skip


@pytest.mark.slow
def test_pairs_are_learnt_and_answered_from_the_same_two_columns(tracked, params_file, make_bench, monkeypatch):
    """What is told of the test rows by the stage, by MLflow's model and by `pretune predict` is the same, and right."""
    import mlflow.pyfunc

    texts = [(n, *CLAIMS[n % 6]) for n in range(240)]
    claims = [f"{a} number {n},about {b},{'both' if a == b == 'salt' else 'not both'}" for n, a, b in texts]
    (tracked.root / "claims.csv").write_text("\n".join(["claim,evidence,verdict", *claims]), encoding="utf-8")
    document, _ = overrides.overridden(params_file, SMALL)
    bench = make_bench(tracked.root, params.validate(document))
    for stage in (ingest, prepare, pretrain, finetune, scratch, label_efficiency, evaluate):
        bench.name = stage.__name__
        stage(bench)
    test = rows.read(tracked.root / "data/prepared/labelled/test.parquet")
    assert {row["pair"] for row in test} == {"about salt", "about flour"}
    said = predictions_io.loads((tracked.root / "reports/evaluation/predictions.json").read_text(encoding="utf-8"))
    told = said.models["finetuned"]
    labels = [told.names[place] for place in told.probabilities.argmax(axis=1)]
    assert (
        np.mean([label == row["label"] for label, row in zip(labels, test, strict=True)]) > 0.9
    )  # who reads one text alone is right on five of six at best

    table = pd.DataFrame([{"text": row["text"], "pair": row["pair"]} for row in test])
    run = tracked.stage("finetune", "key")
    run.model("finetuned", tracked.root / "models/finetuned", "0123.dir", dict(bench.models)["models/finetuned"])
    run.end("FINISHED")
    tracked.send()
    (output,) = tracked.sent()["finetune"].outputs.model_outputs
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked.root / 'mlflow.db'}")
    answers = mlflow.pyfunc.load_model(f"models:/{output.model_id}").predict(table)
    assert list(answers["label"]) == labels
    np.testing.assert_allclose(answers["score"], told.probabilities.max(axis=1), atol=1e-5)

    table.to_csv(tracked.root / "asked.csv", index=False)
    command = [sys.executable, "-m", "cli.app", "predict", "models/finetuned", "asked.csv"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tracked.root, env=environment, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["label"] for line in lines] == labels
    np.testing.assert_allclose([line["score"] for line in lines], answers["score"], atol=1e-6)
