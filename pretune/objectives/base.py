"""The interface of an objective: model families, input pipeline, predictor, batches and loss.

Stages know an objective by its name in params.yaml only. The modules in pretraining/ and finetuning/ hold one
subclass each, listed in the `table.py` there. The training loop works on instances (protocol.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pretune.config.section import NoSettings, Section
from pretune.data import tokenizer
from pretune.data.loading import corpus
from pretune.data.rows import Row
from pretune.models import build
from pretune.objectives.predictions import Predictions
from pretune.predictor.model import ANSWERS


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective needs besides its data.

    inputs: the model's input pipeline, a tokenizer for text.
    length: maximum sequence length in tokens. settings: an instance of the objective's `Settings`.
    labels: the names of the classes in the order of their ids, [] if there are none.
    label_smoothing: share of each target's probability that is spread over all classes (Szegedy et al. 2016).
    temperature: divisor of the logits at inference (calibration.py); 1 leaves them as they are.
    null_threshold: margin above which a question has no answer (predictor/answers.py); None: each has one.
    teacher: what a teacher holds likely (finetuning/teacher.py); None: there is none.
    """

    inputs: Any
    length: int
    seed: int
    settings: Any
    labels: list[str] = field(default_factory=list)
    label_smoothing: float = 0.0
    temperature: float = 1.0
    null_threshold: float | None = None
    teacher: Any = None


class BaseObjective(ABC):
    """Interface of an objective: model families, inputs, predictor.

    auto: the Auto class of transformers that builds models for this objective.
    Settings: the keys of `settings` in params.yaml. metrics: the keys that `score` returns.
    generated: metrics of the texts that `predict` returns (generated.py).
    whole_batch: whether the loss of a row depends on the others of its batch, so that none may be divided.
    answers: the predictor of the trained model, a key of ANSWERS in predictor/model.py.
    """

    auto: ClassVar[Any]
    Settings: ClassVar[type[Section]] = NoSettings
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    generated: ClassVar[tuple[str, ...]] = ()
    whole_batch: ClassVar[bool] = False
    answers: ClassVar[str]

    @classmethod
    def families(cls) -> list[str]:
        """The values of `model.type` that can be trained on this objective."""
        return sorted(build.families(cls.auto))

    @classmethod
    def inputs(cls, folder: Path) -> Any:
        """Load the input pipeline from `folder`; it has `save_pretrained(folder)`."""
        return tokenizer.load(folder)

    @classmethod
    def shape(cls, inputs: Any) -> dict[str, Any]:
        """The keys of a new model's configuration that follow from the input pipeline."""
        return build.text_shape(inputs)

    @classmethod
    def head(cls, labels: list[str]) -> dict[str, Any]:  # noqa: ARG003 - subclasses use it
        """The keys of the configuration that follow from the objective and its labels."""
        return {}

    @classmethod
    def inference_config(cls, context: ObjectiveContext) -> dict[str, Any]:
        """The content of pretune.json: what the predictor needs to process inputs as training did. JSON types only."""
        predictor = ANSWERS[cls.answers]
        config = {"answers": cls.answers, "reads": predictor.reads, "gives": predictor.gives}
        calibration = {} if context.temperature == 1 else {"temperature": context.temperature}
        return config | {"length": context.length, "labels": context.labels} | calibration

    @classmethod
    def example(cls, context: ObjectiveContext) -> Row:  # noqa: ARG003 - subclasses use it
        """An input row for the trained model."""
        return {"text": "Return the absolute path of a file."}

    @classmethod
    def conflicts(cls, settings: Any, sequence_length: int) -> list[str]:  # noqa: ARG003 - subclasses use it
        """Why valid `settings` do not go with the section's `sequence_length`, each from the key's name on."""
        return []

    def files(self, model: Any) -> dict[str, Any]:  # noqa: ARG002 - subclasses use it
        """More files of the saved `model`, {path: content as JSON}: those by which other libraries open it."""
        return {}

    def told(self) -> tuple[list[str], dict[str, float]]:
        """Warnings about the data, for the terminal, and figures of it for the record of the run."""
        return [], {}

    @abstractmethod
    def __len__(self) -> int:
        """Samples in an epoch."""

    @abstractmethod
    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """A batch of these samples, each in its epoch: (rows,) both; a pure function of the seed and the arguments."""

    def costliest(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """A batch of these samples on which `loss` costs as much as it can, for estimates on tensors without values."""
        return self.batch(epochs, samples)

    @abstractmethod
    def loss(self, model: Any, batch: Any) -> Tensor:
        """The sum of the losses over `batch.count`."""

    @abstractmethod
    def score(self, model: Any, batch: Any) -> dict[str, Tensor]:
        """Sums over `batch.count`, with the keys `metrics`."""


class PretrainingObjective(BaseObjective):
    """Trains on the corpus that `prepare` writes to data/prepared/corpus."""

    @classmethod
    def samples(cls, folder: Path, context: ObjectiveContext) -> Any:
        """The corpus in `folder`. Its `divide(validation_rows, seed)` gives a training and a validation part."""
        return corpus.Sequences(folder, context.length, int(context.inputs.pad_token_id))

    @classmethod
    @abstractmethod
    def of(cls, samples: Any, context: ObjectiveContext) -> Self:
        """The objective on these samples."""


class FinetuningObjective(BaseObjective):
    """Trains on labelled rows. columns: those that each row must have (data/rows.py describes their values).

    smooths: whether `label_smoothing` applies, which needs classes as targets.
    calibrates: whether the model predicts probabilities, which a temperature can calibrate.
    answers_untrained: whether a checkpoint can answer as it came, without a new head.
    referenced: whether the loss compares the model with the one that training starts from. Rows for training then have
    the value `reference`, a row of `log_probs` under that model, which the stage `reference` computes.
    taught: whether the loss has the teacher of the context, which the stage `teacher` has asked.
    """

    columns: ClassVar[tuple[str, ...]]
    smooths: ClassVar[bool] = False
    calibrates: ClassVar[bool] = False
    answers_untrained: ClassVar[bool] = False
    referenced: ClassVar[bool] = False
    taught: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        """The objective on these rows."""

    def temperature(self, model: Any) -> float:  # noqa: ARG002 - subclasses use it
        """The temperature that calibrates the probabilities of `model` on these rows, 1 without `calibrates`.

        `model` is in eval mode and not wrapped.
        """
        return 1.0

    def fitted(self, model: Any, held_out: Callable[[], Sequence[Row]]) -> dict[str, Any]:  # noqa: ARG002 - subclasses use it
        """More keys of pretune.json for a `model` that is trained on these rows, fitted to the `held_out` rows.

        `model` is in eval mode and not wrapped.
        """
        return {}

    def log_probs(self, model: Any, told: Callable[[int, int], None] | None = None) -> npt.NDArray[np.float32]:
        """The log-probabilities (nats) of what each row asks for, if `referenced`: (rows, numbers).

        `model` is in eval mode and not wrapped. told: is called with the tokens that are done, and all of them.
        """
        raise NotImplementedError

    @abstractmethod
    def predict(self, model: Any) -> Predictions:
        """The predictions of the trained `model` and the targets of these rows; it is in eval mode and not wrapped."""
