from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cli import graphs
from cli.export import Precision, _base, _check
from pretune.config import overrides
from pretune.errors import DataError


def test_options_that_a_format_does_not_take_are_told_at_once():
    """Each with the formats that take it; nothing is computed before."""
    with pytest.raises(DataError) as error:
        _check("safetensors", Precision.q8_0, int8=True, samples=True)
    assert [problem.split(" is ")[0] for problem in error.value.problems] == ["--int8", "--samples", "--precision q8_0"]
    with pytest.raises(DataError, match="--precision is for"):
        _check("onnx", Precision.f16, int8=True, samples=True)
    _check("gguf", Precision.q8_0, int8=False, samples=False)


def test_the_base_of_adapters_is_what_they_were_trained_on(project):
    """Of an aligned model the finetuned one, of that the pretrained one, or the checkpoint of the hub that it is."""
    root = Path(__file__).parents[2]
    document = YAML().load(root / "dvc.yaml")
    graphs.apply(document, root, ["align"])
    YAML().dump(document, project / "dvc.yaml")
    models = project / "models"
    assert _base(project, models / "aligned") == models / "finetuned"
    assert _base(project, models / "finetuned") == models / "pretrained"
    hub = f"owner/model@{'0' * 40}"
    overrides.override(project / "params.yaml", [f"model.init={hub}", "pretrain.steps=0"], project / "params.yaml")
    assert _base(project, models / "aligned") == models / "finetuned"
    assert _base(project, models / "finetuned") == hub
