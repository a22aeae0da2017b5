from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pretune.models import build
from pretune.predictor.model import Predictor
from pretune.release.export import graphs as export

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-tensorflow/bin/python"
CONVERT = ROOT / "to_tensorflow/convert.py"
SPEC = importlib.util.spec_from_file_location("samples", ROOT / "tests/contracts/samples.py")
samples = importlib.util.module_from_spec(SPEC)
sys.modules.setdefault("samples", samples)
SPEC.loader.exec_module(samples)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-tensorflow: `make test-tensorflow` sets it up"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of torch's exporter, about itself
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
FAMILIES = {
    "modernbert": "classification", "bert": "classification", "roberta": "classification", "vit": "image_classification"
}  # fmt: skip
ROWS = [
    {"text": "salt " * (n * 5 % 13 + 1), "label": samples.LABELS[n % 2], "image": samples.png(n)} for n in range(33)
]  # batches of several lengths, the last of a single row
ASK = """
import json, sys
import numpy as np, tensorflow as tf

found = {}
for folder, batch in zip(sys.argv[1::2], sys.argv[2::2]):
    with np.load(batch) as inputs:
        answer = tf.saved_model.load(folder).signatures["serving_default"]
        found[folder] = answer(**{name: tf.constant(inputs[name]) for name in inputs.files})["logits"].numpy().tolist()
assert not {"torch", "onnx", "transformers"} & set(sys.modules)
print(json.dumps(found))
"""


def in_tensorflow(*command):
    """Run the other environment's Python."""
    return subprocess.run([PYTHON, *map(str, command)], capture_output=True, text=True, check=False)


@pytest.fixture
def exported(words, tmp_path):
    """A tiny model of a family, and the folder that it was exported to with samples."""

    def save(family):
        objective = samples.objectives()[FAMILIES[family]]
        context = samples.context(FAMILIES[family], words)
        source = tmp_path / f"{family}-model"
        build.save(
            samples.new(FAMILIES[family], family, words).eval(),
            context.inputs,
            source,
            objective.inference_config(context),
        )
        model = Predictor(str(source)).answers
        export.export(model, ROWS, tmp_path / family, to="onnx", int8=False, source=source, samples=True)
        return model, tmp_path / family

    return save


def test_a_saved_model_says_the_same(exported, tmp_path):
    """Loaded by TensorFlow alone, it answers rows of any number and length as the model did before all conversion."""
    models, asked = {}, []
    for family in FAMILIES:
        models[family], folder = exported(family)
        done = in_tensorflow(CONVERT, folder, tmp_path / f"{family}-tf")
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / f"{family}-tf/parity.json").read_text(encoding="utf-8"))
        assert found["rows"] == len(ROWS)
        assert found["difference"] < 1e-4
        assert found["agreement"] == 1
        batch = models[family].encoded([{"text": "oven " * 9, "image": samples.png(40)}])
        np.savez(tmp_path / f"{family}.npz", **{name: tensor.numpy() for name, tensor in batch.items()})
        asked += [tmp_path / f"{family}-tf", tmp_path / f"{family}.npz"]
    done = in_tensorflow("-c", ASK, *asked)
    assert done.returncode == 0, done.stderr
    for folder, logits in json.loads(done.stdout.splitlines()[-1]).items():
        model = models[Path(folder).name.removesuffix("-tf")]
        batch = model.encoded([{"text": "oven " * 9, "image": samples.png(40)}])
        before = model.model(**batch).logits.detach().numpy()
        assert np.abs(np.array(logits) - before).max() < 1e-4, folder


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A model of one operator, f(x) = 1 / x, that `pretune export` could have written."""
    folder = tmp_path_factory.mktemp("ready")
    write(folder, "Reciprocal")
    return folder


def write(folder, operator, says=0.5):
    """An exported model that applies `operator` to x, and one sample."""
    sizes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2]) for name in ("x", "logits")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["logits"])], "one", sizes[:1], sizes[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), folder / "model.onnx")
    np.savez(folder / "samples.npz", **{"0/x": np.full((3, 2), 2, np.float32), "0/logits": np.full((3, 2), says)})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nothing", ""),
        ("no samples", "--samples"),
        ("target is there", "there already"),
        ("other logits", "differs by 0.25 in a logit: it is not kept"),
        ("not a number", "differs by nan in a logit: it is not kept"),
        ("an operator", "no operator Hardmax in to_tensorflow/operators.py"),
    ],
)
def test_what_cannot_be_kept_is_told(ready, tmp_path, wrong, message):
    """What is missing, unknown or comes out otherwise ends in a message, and leaves nothing behind."""
    folder, target = tmp_path / "exported", tmp_path / "out"
    shutil.copytree(ready, folder)
    if wrong == "no samples":
        (folder / "samples.npz").unlink()
    elif wrong == "target is there":
        target.write_text("mine", encoding="utf-8")
    elif wrong != "nothing":
        says = {"other logits": 0.75, "not a number": float("nan")}.get(wrong, 0.5)
        write(folder, "Hardmax" if wrong == "an operator" else "Reciprocal", says)
    done = in_tensorflow(CONVERT, folder, target)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if wrong == "nothing" else 4)
    assert (target / "saved_model.pb").is_file() == (wrong == "nothing")
    assert not (tmp_path / "out.partial").exists()
