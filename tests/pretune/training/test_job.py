from __future__ import annotations

from types import SimpleNamespace

from pretune.runtime.events import Record, Validation
from pretune.training.job import tell, write_learning_curve
from pretune.training.state import State


def test_the_curve_is_deterministic(tmp_path):
    """Step, loss, learning rate and FLOPs so far are written, speed is not."""
    state = State(records=[Record(10, 1.23456789, 0.001, 99.9, 9e9), Record(20, 0.5, 1e-8, 88.8, 8e8)])
    write_learning_curve(tmp_path / "curve.csv", state, 7)
    expected = "step,loss,learning_rate,flops\n10,1.234568,0.001,70\n20,0.500000,1e-08,140\n"
    assert (tmp_path / "curve.csv").read_text(encoding="utf-8") == expected


def test_validations_are_in_the_row_of_their_step(tmp_path):
    """In a row of their own if there is no record of that step; rows are in the order of the steps."""
    validations = [Validation(15, {"loss": 2.0, "accuracy": 0.5}), Validation(20, {"loss": 1.0, "accuracy": 0.75})]
    state = State(records=[Record(10, 1.5, 0.1, 1, 1), Record(20, 0.5, 0.2, 1, 1)], validations=validations)
    write_learning_curve(tmp_path / "curve.csv", state, 7)
    assert (tmp_path / "curve.csv").read_text(encoding="utf-8").splitlines() == [
        "step,loss,learning_rate,flops,validation_loss,validation_accuracy",
        "10,1.500000,0.1,70,,",
        "15,,,105,2.000000,0.500000",
        "20,0.500000,0.2,140,1.000000,0.750000",
    ]


def test_what_the_rows_lack_is_told_before_training():
    """As warnings of the stage, those of the validation rows by their name; the figures are of the training rows."""
    rows = SimpleNamespace(told=lambda: (["2 of 9 rows are cut"], {"cut_rows": 2.0}))
    warnings = []
    stage = SimpleNamespace(warn=warnings.append)
    assert tell(stage, SimpleNamespace(objective=rows, validation=rows, mixture=None)) == {"cut_rows": 2.0}
    assert warnings == ["2 of 9 rows are cut", "validation: 2 of 9 rows are cut"]
