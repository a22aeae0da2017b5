from __future__ import annotations

import pytest

from cli.export import Precision, _check
from pretune.errors import DataError


def test_options_that_a_format_does_not_take_are_told_at_once():
    """Each with the formats that take it; nothing is computed before."""
    with pytest.raises(DataError) as error:
        _check("safetensors", Precision.q8_0, int8=True, samples=True)
    assert [problem.split(" is ")[0] for problem in error.value.problems] == ["--int8", "--samples", "--precision q8_0"]
    with pytest.raises(DataError, match="--precision is for"):
        _check("onnx", Precision.f16, int8=True, samples=True)
    _check("gguf", Precision.q8_0, int8=False, samples=False)
