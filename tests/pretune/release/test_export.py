from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pretune.config.params import ModelParams
from pretune.errors import DataError
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.finetuning.image_classification import ImageClassification
from pretune.predictor.model import Predictor
from pretune.predictor.pixels import Pipeline
from pretune.release import export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of torch's exporter, about itself
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ROWS = [{"text": "salt " * (n % 7 + 1), "label": ("sea", "kitchen")[n % 2]} for n in range(20)]


@pytest.fixture
def saved(tiny, words, tmp_path):
    """The folder of a tiny classifier, and what answers for it."""

    def save(family):
        folder = tmp_path / family
        facts = Classification.inference_config(
            ObjectiveContext(words, 64, 0, None, ["sea", "kitchen"], temperature=2.0)
        )
        build.save(build.new(Classification, tiny(family), ["sea", "kitchen"]).eval(), words, folder, facts)
        return folder, Predictor(str(folder)).answers

    return save


@pytest.mark.parametrize("family", ["modernbert", "bert"])
def test_an_onnx_model_says_the_same(saved, tmp_path, family):
    """Any number of rows of any length, beside the tokenizer that it needs; int8 says how much it loses."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'pretune[onnx]'")
    source, model = saved(family)
    found = export.export(model, ROWS, tmp_path / "out", to="onnx", int8=True, source=source)
    assert [each.file for each in found] == ["model.onnx", "model.int8.onnx"]
    assert found[0].difference < 1e-4
    assert found[0].agreement == 1
    assert found[0].accuracy == found[0].accuracy_before
    assert found[1].megabytes < found[0].megabytes
    assert 0 < found[1].difference < 1
    assert json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))[1] == vars(found[1])
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    for number in (1, 5):
        batch = model.encoded(ROWS[:number])
        said = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]
        probabilities = torch.softmax(torch.from_numpy(said), dim=-1)  # with the model's temperature
        torch.testing.assert_close(probabilities, model.probabilities(ROWS[:number]), atol=1e-4, rtol=0)


def test_an_exported_program_says_the_same(saved, tmp_path):
    """torch.export's archive, which torch alone can run."""
    source, model = saved("modernbert")
    (found,) = export.export(model, ROWS, tmp_path / "out", to="torch", int8=False, source=source)
    assert found.difference < 1e-4


def test_a_model_of_images_says_the_same(tmp_path, deterministic):
    """Images come in any number; what reads them goes along."""
    given = ObjectiveContext(Pipeline(8, [0.5], [0.5]), 0, 0, None, ["dark", "light"])
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    chosen = ModelParams(type="vit", init=None, config=shape | {"patch_size": 4, "encoder_stride": 4})
    config = build.config_for(chosen, ImageClassification.shape(given.inputs))
    source = tmp_path / "vit"
    facts = ImageClassification.inference_config(given)
    build.save(build.new(ImageClassification, config, given.labels).eval(), given.inputs, source, facts)
    rows = [ImageClassification.example(given) | {"label": "dark"} for _ in range(3)]
    answers = Predictor(str(source)).answers
    (found,) = export.export(answers, rows, tmp_path / "out", to="torch", int8=False, source=source)
    assert found.difference < 1e-4
    assert found.accuracy is not None
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_samples_hold_what_was_asked_and_said(saved, tmp_path):
    """Batch by batch, each as long as its longest row; without being asked for, no row leaves the workspace."""
    source, model = saved("bert")
    export.export(model, ROWS, tmp_path / "out", to="torch", int8=False, source=source, samples=True)
    with np.load(tmp_path / "out" / "samples.npz") as samples:
        assert {name.split("/")[0] for name in samples.files} == {"0", "1"}
        assert np.array_equal(samples["1/input_ids"], model.encoded(ROWS[16:])["input_ids"].numpy())
        said = np.concatenate([samples["0/logits"], samples["1/logits"]])
    assert np.abs(said - model.logits(ROWS).numpy() / 2.0).max() < 1e-4
    export.export(model, ROWS, tmp_path / "without", to="torch", int8=False, source=source)
    assert not (tmp_path / "without" / "samples.npz").exists()


def test_what_differs_is_not_kept(saved, tmp_path, monkeypatch):
    """A model that lost its way is refused, and nothing is left behind."""
    source, model = saved("modernbert")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DataError, match="differs by"):
        export.export(model, ROWS, tmp_path / "out", to="torch", int8=False, source=source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["modernbert"]


def test_nothing_is_overwritten(saved, tmp_path):
    """A folder that is there stays as it is; a model that takes several passes cannot be exported."""
    source, model = saved("modernbert")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="already"):
        export.export(model, ROWS, tmp_path / "out", to="onnx", int8=False, source=source)
    with pytest.raises(DataError, match="cannot be exported"):
        export.export(object(), ROWS, tmp_path / "new", to="onnx", int8=False, source=source)
