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
from pretune.release.export import graphs as export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of torch's exporter, about itself
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ROWS = [{"text": "salt " * (n % 7 + 1), "label": ("sea", "kitchen")[n % 2]} for n in range(20)]


@pytest.fixture
def saved(tiny, words, tmp_path):
    """A function from a family to the folder of a tiny classifier, and its predictor."""

    def save(family):
        folder = tmp_path / family
        inference_config = Classification.inference_config(
            ObjectiveContext(words, 64, 0, None, ["sea", "kitchen"], temperature=2.0)
        )
        build.save(build.new(Classification, tiny(family), ["sea", "kitchen"]).eval(), words, folder, inference_config)
        return folder, Predictor(str(folder)).answers

    return save


@pytest.mark.parametrize("family", ["modernbert", "bert"])
def test_an_onnx_model_gives_the_same_logits(saved, tmp_path, family):
    """For any number of rows of any length; its tokenizer is in the same folder; int8 reports its loss of accuracy."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'pretune[onnx]'")
    source, model = saved(family)
    parities = export.export(model, ROWS, tmp_path / "out", to="onnx", int8=True, source=source)
    assert [parity.file for parity in parities] == ["model.onnx", "model.int8.onnx"]
    assert parities[0].difference < 1e-4
    assert parities[0].agreement == 1
    assert parities[0].accuracy == parities[0].accuracy_before
    assert parities[1].megabytes < parities[0].megabytes
    assert 0 < parities[1].difference < 1
    assert json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))[1] == vars(parities[1])
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    for number in (1, 5):
        batch = model.encoded(ROWS[:number])
        logits = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]
        probabilities = torch.softmax(torch.from_numpy(logits), dim=-1)  # with the model's temperature
        torch.testing.assert_close(probabilities, model.probabilities(ROWS[:number]), atol=1e-4, rtol=0)


def test_an_exported_program_gives_the_same_logits(saved, tmp_path):
    """torch.export's archive, which torch alone can run."""
    source, model = saved("modernbert")
    (parity,) = export.export(model, ROWS, tmp_path / "out", to="torch", int8=False, source=source)
    assert parity.difference < 1e-4


def test_a_model_of_images_gives_the_same_logits(tmp_path, deterministic):
    """For any number of images; the preprocessor is in the same folder."""
    context = ObjectiveContext(Pipeline(8, [0.5], [0.5]), 0, 0, None, ["dark", "light"])
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    chosen = ModelParams(type="vit", init=None, config=shape | {"patch_size": 4, "encoder_stride": 4})
    config = build.config_for(chosen, ImageClassification.shape(context.inputs))
    source = tmp_path / "vit"
    inference_config = ImageClassification.inference_config(context)
    build.save(build.new(ImageClassification, config, context.labels).eval(), context.inputs, source, inference_config)
    rows = [ImageClassification.example(context) | {"label": "dark"} for _ in range(3)]
    answers = Predictor(str(source)).answers
    (parity,) = export.export(answers, rows, tmp_path / "out", to="torch", int8=False, source=source)
    assert parity.difference < 1e-4
    assert parity.accuracy is not None
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


def test_samples_hold_inputs_and_logits(saved, tmp_path):
    """Batch by batch, each padded to its longest row; without the option no row leaves the workspace."""
    source, model = saved("bert")
    export.export(model, ROWS, tmp_path / "out", to="torch", int8=False, source=source, samples=True)
    with np.load(tmp_path / "out" / "samples.npz") as samples:
        assert {name.split("/")[0] for name in samples.files} == {"0", "1"}
        assert np.array_equal(samples["1/input_ids"], model.encoded(ROWS[16:])["input_ids"].numpy())
        logits = np.concatenate([samples["0/logits"], samples["1/logits"]])
    assert np.abs(logits - model.logits(ROWS).numpy() / 2.0).max() < 1e-4
    export.export(model, ROWS, tmp_path / "without", to="torch", int8=False, source=source)
    assert not (tmp_path / "without" / "samples.npz").exists()


def test_an_export_that_differs_is_not_kept(saved, tmp_path, monkeypatch):
    """It is refused, and no file is left."""
    source, model = saved("modernbert")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(DataError, match="differs by"):
        export.export(model, ROWS, tmp_path / "out", to="torch", int8=False, source=source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["modernbert"]


def test_nothing_is_overwritten(saved, tmp_path):
    """An existing folder is not changed; a model that takes several passes cannot be exported."""
    source, model = saved("modernbert")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="already"):
        export.export(model, ROWS, tmp_path / "out", to="onnx", int8=False, source=source)
    with pytest.raises(DataError, match="cannot be exported"):
        export.export(object(), ROWS, tmp_path / "new", to="onnx", int8=False, source=source)
