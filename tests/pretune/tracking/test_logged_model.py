from __future__ import annotations

import json

import pytest

from pretune.config.params import ModelParams
from pretune.data.inspect.machine import SETTINGS
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.masked_lm import MaskedLM

pytestmark = pytest.mark.slow  # imports MLflow and saves a model with it


@pytest.fixture
def logged(tracked, tiny, words):
    """A function that records a stage that made a tiny model, and sends it."""

    def record(head, key="key"):
        folder = tracked.root / "models" / head
        kind, labels = (MaskedLM, []) if head == "text" else (Classification, ["sea", "kitchen"])
        facts = kind.inference_config(ObjectiveContext(words, 64, 0, None, labels))
        build.save(build.new(kind, tiny(), labels), words, folder, facts)
        run = tracked.stage(head, key)
        run.model(head, folder, "0123.dir", [{"text": "salt and [MASK]"}])
        run.end("FINISHED")
        tracked.send()
        return tracked.sent()[head]

    return record


@pytest.mark.parametrize("head", ["label", "text"])
def test_a_model_is_logged_loads_and_predicts(tracked, logged, head, monkeypatch):
    """`mlflow.pyfunc.load_model("models:/…")` gives a model that says what it reads, and answers; it has DVC's hash."""
    import mlflow.pyfunc

    run = logged(head)
    (output,) = run.outputs.model_outputs
    model = tracked.client.get_logged_model(output.model_id)
    assert model.status == "READY"
    assert model.source_run_id == run.info.run_id
    assert (model.params | model.tags)["dvc.md5"] == "0123.dir"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked.root / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    assert loaded.metadata.signature.inputs.optional_input_names() == (["pair"] if head == "label" else [])
    answers = loaded.predict([{"text": "salt and [MASK]"}, {"text": "flour"}])
    assert list(answers.columns) == [head, "score"]
    assert len(answers) == 2


def test_the_model_holds_no_pickle(tracked, logged):
    """Weights are safetensors: nothing that could run code when it is loaded."""
    run = logged("label")
    stored = [path for path in (tracked.root / "mlartifacts").rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in stored)
    assert not [path for path in stored if path.suffix in {".pkl", ".pickle", ".bin", ".pt"}]
    assert run.info.status == "FINISHED"


def test_a_cached_stage_points_to_the_same_model(tracked, logged):
    """Nothing is stored twice: the cached run has the model of the run that made it."""
    made = logged("label")
    cached = tracked.stage("again", "key", status="cached")
    cached.copy_of("key")
    cached.end("FINISHED")
    tracked.send()
    again = tracked.sent()["again"]
    assert [m.model_id for m in again.outputs.model_outputs] == [m.model_id for m in made.outputs.model_outputs]


def test_a_model_whose_folder_is_gone_does_not_stop_the_record(tracked):
    """Sent late, after the folder was removed: the run arrives, its tags lead to DVC's cache."""
    run = tracked.stage("finetune", "key")
    run.output("models/finetuned", "0123.dir")
    run.model("finetuned", tracked.root / "nowhere", "0123.dir", [{"text": "x"}])
    run.end("FINISHED")
    tracked.send()
    assert tracked.sent()["finetune"].info.status == "FINISHED"


@pytest.mark.parametrize("name", ["binary", "multi_label", "regression", "token_classification", "instruction"])
def test_every_kind_of_objective_answers_from_mlflow(tracked, tiny, words, name, monkeypatch):
    """Lists, numbers and conversations pass through MLflow's schema; the example that is stored with it is answered."""
    import mlflow.pyfunc

    from pretune.objectives.finetuning.table import OBJECTIVES

    kind, labels = OBJECTIVES[name], ["sea", "kitchen"]
    settings = kind.Settings(**SETTINGS[name] | {"reply_tokens": 3}) if name in SETTINGS else None
    told = ObjectiveContext(words, 64, 0, settings, labels)
    monkeypatch.setattr(words, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    family = tiny("bert")
    if name == "instruction":
        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        family = build.config_for(ModelParams(type="llama", init=None, config=shape), kind.shape(words))
    folder = tracked.root / "models" / name
    build.save(build.new(kind, family, labels), words, folder, kind.inference_config(told))
    run = tracked.stage(name, "key")
    run.model(name, folder, "0123.dir", [kind.example(told)])
    run.end("FINISHED")
    tracked.send()
    (output,) = tracked.sent()[name].outputs.model_outputs
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked.root / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    answers = loaded.predict(loaded.input_example)
    assert len(answers) == 1
    assert list(answers.columns) == [column.name for column in loaded.metadata.signature.outputs]
    if name == "instruction":
        assert_tools_are_read(loaded, monkeypatch)


def assert_tools_are_read(loaded, monkeypatch):
    """Declared as optional; over HTTP too they reach the template with calls and results, as a list and as its JSON."""
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    prompts, answers = [], loaded._model_impl.answers
    read = answers.prompt
    monkeypatch.setattr(answers, "prompt", lambda row: prompts.append(read(row)) or prompts[-1])
    monkeypatch.setattr(answers.tokenizer, "chat_template", "{{ tools | tojson }}{{ messages | tojson }}")
    assert loaded.metadata.signature.inputs.optional_input_names() == ["tools"]
    call = {"id": "c1", "type": "function", "function": {"name": "salt", "arguments": {"sea": "flour"}}}
    messages = [
        {"role": "user", "content": "salt"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "bread", "tool_call_id": "c1"},
    ]
    tools = [{"type": "function", "function": {"name": "salt", "parameters": {"type": "object"}}}]
    written = [{"messages": messages, "tools": tools}, {"messages": messages, "tools": json.dumps(tools)}]
    rows = [*written, {"messages": messages[:1]}]
    asked = json.loads(json.dumps({"dataframe_records": rows}))
    loaded.predict(infer_and_parse_data(asked, loaded.metadata.get_input_schema()))
    assert prompts == [read(row) for row in rows]
    assert prompts[0] == prompts[1] != read({"messages": messages})
