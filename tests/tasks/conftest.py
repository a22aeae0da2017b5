"""Stage functions without DVC and MLflow: what they use of Stage, in a folder of the test's own."""

from __future__ import annotations

import pytest


class Bench:
    """What a stage function uses of Stage, in one folder: outputs are written in place."""

    def __init__(self, folder, params):
        self.folder, self.params, self.name = folder, params, ""
        self.key = "0" * 64
        self.run, self.recorded, self.models, self.texts = self, {}, [], {}
        self.known, self.reported, self.warnings, self.told = {}, [], [], []

    def dep(self, path):
        return self.folder / path

    def declared(self, folder):
        curves = [f"reports/curves/{stage}.csv" for stage in ("finetune", "pretrain", "scratch")]
        answers = ["data/teacher"] if (self.folder / "data/teacher").exists() else []
        paths = ("models/finetuned", "models/scratch", *curves, *answers)
        return [path for path in paths if path.startswith(f"{folder}/")]

    def resolve_input(self, place):
        return self.folder / place

    def out(self, path):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        return self.folder / path

    def metrics_of(self, path, stage):
        return self.known.get(stage, {})

    @property
    def checkpoints(self):
        return self.folder / "checkpoints" / self.name

    def metrics(self, values, step=0):
        self.recorded |= values

    def model(self, path, examples):
        self.models.append((path, examples))

    def warn(self, text):
        self.warnings.append(text)

    def progress(self, done, total, note):
        self.told.append(f"{done}/{total} {note}")

    def text(self, name, content):
        self.texts[name] = content

    def reporter(self, steps, *, before=0, name=""):
        self.reported.append((name, before, steps))
        return lambda record: None


@pytest.fixture
def make_bench():
    """The class: a test may need several."""
    return Bench
