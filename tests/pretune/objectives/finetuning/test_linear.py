"""f(x) = W x + b: reconstruction and regression reach the closed form of least squares."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoModel

from pretune.config.params import ModelParams, TrainingParams
from pretune.data.loading.arrays import Columns, Samples
from pretune.errors import DataError
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.linear_regression import LinearRegression
from pretune.objectives.pretraining.reconstruction import Reconstruction
from pretune.training import loop

SETTINGS = TrainingParams(
    objective="linear", settings={}, batch_size=64, gradient_accumulation_steps=1, sequence_length=8, optimizer="adamw",
    learning_rate=0.05, layer_decay=1.0, schedule="linear", warmup=0.0, weight_decay=0.0, gradient_clip=1e9,
    precision="fp32", gradient_checkpointing=False, compile=False, max_skipped_steps=0, ema_decay=0.0, evaluate_every=0,
    metric_for_best_model="last", patience=0, seed=None,
)  # fmt: skip
NAMES = ["height", "width", "weight"]


def data(outputs):
    """64 rows of three correlated numbers, and noisy linear functions of them."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(64, 3)) @ np.array([[1, 0.3, 0], [0, 1, 0.2], [0, 0, 1]]) + [1.0, 0.0, -1.0]
    y = x @ draw.normal(size=(3, outputs)) + draw.normal(size=outputs) + 0.3 * draw.normal(size=(64, outputs))
    return x, y


def least_squares(x, y):
    """W and b that minimise the sum of (W x + b - y)^2: (outputs, inputs), (outputs,)."""
    solution, *_ = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y, rcond=None)
    return solution[:-1].T, solution[-1]


def new(objective_class, labels=()):
    """A model with random weights."""
    config = build.config_for(
        ModelParams(type="linear", init=None, config={}), objective_class.shape(Columns(NAMES, []))
    )
    return build.new(objective_class, config, labels)


def trained(model, objective):
    """The model after 600 steps on all rows."""
    return loop.train(model, objective, SETTINGS, 600, seed=0, report=lambda _: None)[0]


def assert_matches(model, x, y):
    """Its W and b are those of least squares."""
    weight, bias = least_squares(x, y)
    assert model.map.weight.detach().numpy() == pytest.approx(weight, abs=1e-3)
    assert model.map.bias.detach().numpy() == pytest.approx(bias, abs=1e-3)


def test_pretraining_reaches_the_closed_form(deterministic):
    """The sum of (f(x) - x)^2 is least for the identity, and training finds it."""
    x, _ = data(1)
    model = trained(new(Reconstruction), Reconstruction(Samples(x)))
    assert_matches(model, x, x)
    assert model.map.weight.detach().numpy() == pytest.approx(np.eye(3), abs=1e-3)


@pytest.mark.parametrize("outputs", [1, 3])
def test_finetuning_reaches_the_closed_form(deterministic, tmp_path, outputs):
    """The sum of (f(x) - y)^2 is least for the solution of least squares; pretrained and new weights reach it."""
    x, y = data(outputs)
    labels = [f"y{number}" for number in range(outputs)]
    context = ObjectiveContext(Columns(NAMES, labels), 8, 0, None, labels)
    objective = LinearRegression([{"x": a, "y": b} for a, b in zip(x.tolist(), y.tolist(), strict=True)], context)
    pretrained = trained(new(Reconstruction), Reconstruction(Samples(x)))
    build.save(pretrained, context.inputs, tmp_path / "pretrained", Reconstruction.inference_config(context))
    loaded, new_weights = build.load(LinearRegression, tmp_path / "pretrained", labels)
    assert bool(new_weights) == (outputs != 3)  # W and b are kept only if y has as many numbers as x
    for model in (loaded, new(LinearRegression, labels)):
        assert_matches(trained(model, objective), x, y)
    predicted = objective.predict(loaded.eval())
    weight, bias = least_squares(x, y)
    assert predicted.targets == pytest.approx(y.astype(np.float32))
    assert predicted.predicted == pytest.approx(x @ weight.T + bias, abs=1e-2)


def test_the_folder_is_in_the_format_of_transformers(deterministic, tmp_path):
    """`AutoModel` loads it, weights in safetensors, and the columns lie beside."""
    context = ObjectiveContext(Columns(NAMES, []), 8, 0, None, [])
    model = new(Reconstruction)
    build.save(model, context.inputs, tmp_path / "model", Reconstruction.inference_config(context))
    assert (tmp_path / "model" / "model.safetensors").is_file()
    again = AutoModel.from_pretrained(tmp_path / "model")
    assert (again.map.weight == model.map.weight).all()
    assert Columns.load(tmp_path / "model").x == NAMES


def test_a_row_with_a_number_too_few_is_named():
    """The error says which row and which columns there are."""
    context = ObjectiveContext(Columns(NAMES, ["y"]), 8, 0, None, ["y"])
    rows = [{"x": [1.0, 2.0, 3.0], "y": [1.0]}, {"x": [1.0, 2.0], "y": [1.0], "origin": "mine.csv:3"}]
    with pytest.raises(DataError, match=r"mine\.csv:3: x does not hold 3 numbers \(height, width, weight\)"):
        LinearRegression(rows, context)
