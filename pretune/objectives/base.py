"""What an objective offers to stages, which know it by its name in params.yaml only.

A class of one of these two kinds stands in each file beside this one, and in the table
pretraining.py or finetuning.py. Its instances are what the loop trains on (training/loop.py, Objective).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pretune.config.section import Section
from pretune.data import tokenizer
from pretune.data.loading import corpus
from pretune.data.rows import Row
from pretune.models import build
from pretune.objectives.predictions import Predictions
from pretune.predictor.model import ANSWERS


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective is told besides its data.

    inputs: the model's input pipeline, a tokenizer where it reads text.
    length: tokens that a sequence may have. settings: the objective's own, its `Settings`.
    labels: the names of the classes in the order of their numbers, [] where there are none.
    label_smoothing: share of each target's probability that is spread over all classes (Szegedy et al. 2016).
    temperature: what logits are divided by when the trained model answers (calibration.py); 1: nothing.
    """

    inputs: Any
    length: int
    seed: int
    settings: Any
    labels: list[str] = field(default_factory=list)
    label_smoothing: float = 0.0
    temperature: float = 1.0


class Nothing(Section):
    """No settings: `settings: {}`."""


class BaseObjective(ABC):
    """Of a model that learns this: which it can be, what it is context, what it then answers.

    auto: transformers' Auto class; the model types that it knows can learn this objective.
    Settings: the keys of `settings` in params.yaml. metrics: what `score` returns.
    answers: how the trained model answers, a name of predictor/model.py's table.
    """

    auto: ClassVar[Any]
    Settings: ClassVar[type[Section]] = Nothing
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    answers: ClassVar[str]

    @classmethod
    def families(cls) -> list[str]:
        """The values of `model.type` that can learn this."""
        return sorted(build.families(cls.auto))

    @classmethod
    def inputs(cls, folder: Path) -> Any:
        """Open the input pipeline in `folder`; it has `save_pretrained(folder)`."""
        return tokenizer.load(folder)

    @classmethod
    def shape(cls, inputs: Any) -> dict[str, Any]:
        """The keys of a new model's configuration that follow from its inputs."""
        return build.text_shape(inputs)

    @classmethod
    def head(cls, labels: list[str]) -> dict[str, Any]:  # noqa: ARG003 - for those that override it
        """The keys of the configuration that follow from the objective and its labels."""
        return {}

    @classmethod
    def inference_config(cls, context: ObjectiveContext) -> dict[str, Any]:
        """What the trained model has to know to answer as in training; JSON."""
        answers = ANSWERS[cls.answers]
        known = {"answers": cls.answers, "reads": answers.reads, "gives": answers.gives}
        calibrated = {} if context.temperature == 1 else {"temperature": context.temperature}
        return known | {"length": context.length, "labels": context.labels} | calibrated

    @classmethod
    def example(cls, context: ObjectiveContext) -> Row:  # noqa: ARG003 - for those that override it
        """A row that a trained model can be asked."""
        return {"text": "Return the absolute path of a file."}

    @abstractmethod
    def __len__(self) -> int:
        """Samples of an epoch."""

    @abstractmethod
    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """See the loop's Objective, here and below."""

    @abstractmethod
    def loss(self, model: Any, batch: Any) -> Tensor:
        """The sum of the losses over `batch.count`."""

    @abstractmethod
    def score(self, model: Any, batch: Any) -> dict[str, Tensor]:
        """Sums over `batch.count`: `metrics`."""


class PretrainingObjective(BaseObjective):
    """Learns from what `prepare` leaves in data/prepared/corpus."""

    @classmethod
    def samples(cls, folder: Path, context: ObjectiveContext) -> Any:
        """What to learn from, with `divide(validation_rows, seed)` into what trains and what watches, or None."""
        return corpus.Sequences(folder, context.length, int(context.inputs.pad_token_id))

    @classmethod
    @abstractmethod
    def of(cls, samples: Any, context: ObjectiveContext) -> Self:
        """The objective on these samples."""


class FinetuningObjective(BaseObjective):
    """Learns from labelled rows. columns: those that each row must have; data/rows.py says what they hold.

    smooths: whether its targets are classes that `label_smoothing` applies to.
    calibrates: whether the model answers with probabilities, which a temperature can correct.
    """

    columns: ClassVar[tuple[str, ...]]
    smooths: ClassVar[bool] = False
    calibrates: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        """The objective on these rows."""

    def temperature(self, model: Any) -> float:  # noqa: ARG002 - for those that override it
        """The temperature at which the probabilities of `model` fit these rows best (`calibrates`); see predict."""
        return 1.0

    @abstractmethod
    def predict(self, model: Any) -> Predictions:
        """What the trained `model` says about these rows, beside what is right; it is in eval mode, unwrapped."""
