"""The typed schema of params.yaml: one class per section, every key required.

No key has a default: DVC would not see a change of one that is not in params.yaml. All problems are reported at once,
before any work starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from pretune.config.data import IngestParams, PrepareParams
from pretune.config.files import read_yaml
from pretune.config.launch import LaunchParams
from pretune.config.section import (
    Count,
    FractionBelowOne,
    NonEmptyStr,
    NonNegative,
    OpenFraction,
    Positive,
    PositiveFraction,
    Section,
    Seed,
    describe,
)
from pretune.errors import ParamsError, UndeclaredInputError

RENAMED = {  # old name: new name; keys older than 0.1.0 are refused
    "accumulation": "gradient_accumulation_steps",
    "resamples": "bootstrap_samples",
    "select": "metric_for_best_model",
    "skips": "max_skipped_steps",
}
WHOLE = {"full", "top", "gradual"}  # adaptations that train weights of the pretrained model themselves
CHECKPOINT_RATE = 5e-4  # above it, whole weights of a checkpoint forget (docs/models.md)


class ModelParams(Section):
    """An architecture of transformers, with new weights or those of a checkpoint.

    `config` is checked against the configuration of the type, where transformers is loaded (models/build.py).
    """

    type: NonEmptyStr
    init: NonEmptyStr | None
    config: dict[str, Any]


class TrainingParams(Section):
    """What pretraining and finetuning share. `warmup` below 1 is a fraction of all steps, otherwise their number.

    `objective`, its `settings` and `metric_for_best_model` are checked against the objective's class
    (objectives/registry.py).
    """

    objective: NonEmptyStr
    settings: dict[str, Any]
    batch_size: Count
    gradient_accumulation_steps: Count
    sequence_length: Annotated[int, Field(ge=8)]
    optimizer: Literal["adamw", "muon"]
    learning_rate: OpenFraction
    layer_decay: PositiveFraction
    schedule: Literal["constant", "linear", "cosine", "wsd", "range"]
    warmup: NonNegative
    weight_decay: NonNegative
    gradient_clip: Positive
    precision: Literal["auto", "bf16", "fp32"]
    gradient_checkpointing: bool
    compile: bool
    max_skipped_steps: NonNegativeInt
    ema_decay: FractionBelowOne
    evaluate_every: NonNegativeInt
    metric_for_best_model: NonEmptyStr
    patience: NonNegativeInt
    seed: Seed | None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems = []
        if self.batch_size % self.gradient_accumulation_steps:
            parts = self.gradient_accumulation_steps
            problems.append(f"batch_size {self.batch_size} must be a multiple of gradient_accumulation_steps {parts}")
        if self.warmup > 1 and self.warmup != round(self.warmup):
            problems.append(f"warmup {self.warmup} must be a share below 1 or a whole number of steps")
        if self.metric_for_best_model != "last" and not self.evaluate_every:
            problems.append(f"metric_for_best_model `{self.metric_for_best_model}` needs evaluate_every, in steps")
        if self.patience and self.metric_for_best_model == "last":
            problems.append(f"patience {self.patience} needs metric_for_best_model, the metric that has to improve")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class PretrainParams(TrainingParams):
    """Training without labels on all documents; 0 steps leave the initial weights as they are."""

    steps: NonNegativeInt
    validation_rows: NonNegativeInt


class FinetuneParams(TrainingParams):
    """Training on the labelled rows; 0 epochs leave the model as it was pretrained.

    Whether the objective supports label smoothing and calibration is checked against its class
    (objectives/registry.py).
    """

    epochs: NonNegativeInt
    label_smoothing: FractionBelowOne
    calibrate: bool


class AdaptationParams(Section):
    """Which weights of the pretrained model are trained; checked where peft is loaded (adaptation/methods.py)."""

    method: NonEmptyStr
    settings: dict[str, Any]
    quantization: Literal["int8", "nf4"] | None


class TeacherParams(Section):
    """The model that `distillation` learns from, and how many of the tokens that it holds likeliest."""

    init: NonEmptyStr
    top: Count


class ScratchParams(Section):
    """Whether the model is also trained from random weights, as the baseline for pretraining."""

    train: Literal["auto"] | bool

    def trains(self, model: ModelParams) -> bool:
        """With `auto`, unless the model starts from a checkpoint: that is then compared as it came."""
        return model.init is None if self.train == "auto" else bool(self.train)


class LabelEfficiencyParams(Section):
    """The shares of the labelled rows on which the pretrained and the new model are trained once more."""

    shares: list[PositiveFraction]

    @property
    def partial(self) -> list[float]:
        """The shares below 1, each once, ascending: `finetune` and `scratch` already train on all rows."""
        return sorted({share for share in self.shares if share < 1})


class EvaluateParams(Section):
    """The confidence level of the intervals, the number of bootstrap samples, and what the report shows.

    `benchmarks`: files of the workspace and tasks of lm-evaluation-harness (evaluation/benchmarks/tasks.py).
    """

    confidence: OpenFraction
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)]
    slices: list[Literal["label", "length", "script", "group", "origin"]]
    mistakes: Annotated[int, Field(ge=0, le=1000)]
    attributions: Annotated[int, Field(ge=0, le=100)]
    benchmarks: list[NonEmptyStr]


class GateParams(Section):
    """The conditions that a model has to meet to become the champion."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    thresholds: dict[str, float]
    baselines: bool
    margin: NonNegative
    forgetting: NonNegative | None
    latency: Positive
    size: Positive
    lineage: bool


class Params(Section):
    """The whole of params.yaml.

    `align` and `teacher` are the only sections that may be missing: only graphs with the stages of these names have
    them.
    """

    seed: Seed
    threads: Count
    ingest: IngestParams
    prepare: PrepareParams
    model: ModelParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    align: FinetuneParams | None = None
    teacher: TeacherParams | None = None
    adaptation: AdaptationParams
    launch: LaunchParams
    scratch: ScratchParams
    label_efficiency: LabelEfficiencyParams
    evaluate: EvaluateParams
    gate: GateParams

    @property
    def objectives(self) -> dict[str, str]:
        """The objectives on labelled rows, by their sections."""
        align = {"align": self.align.objective} if self.align else {}
        return {"finetune": self.finetune.objective} | align

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems = []
        labelled = {"finetune": self.finetune} | ({"align": self.align} if self.align else {})
        for name, section in {"pretrain": self.pretrain, **labelled}.items():
            parts = section.gradient_accumulation_steps * self.launch.processes * self.launch.nodes
            if section.batch_size % parts:
                problems.append(
                    f"{name}.batch_size {section.batch_size} must be a multiple of {parts} "
                    "(gradient_accumulation_steps x launch.processes x launch.nodes)"
                )
        if self.adaptation.quantization and self.launch.strategy == "fsdp":
            problems.append("adaptation.quantization: quantised matrices are not sharded; write launch.strategy: ddp")
        if self.pretrain.steps and self.pretrain.evaluate_every and not self.pretrain.validation_rows:
            problems.append("pretrain.evaluate_every needs pretrain.validation_rows")
        for name, tuned in labelled.items() if self.prepare.validation_rows == 0 else ():
            if tuned.evaluate_every:
                problems.append(f"{name}.evaluate_every needs prepare.validation_rows")
            if tuned.calibrate:
                problems.append(f"{name}.calibrate needs prepare.validation_rows")
        train_rows = self.prepare.train_rows
        problems += [
            f"label_efficiency.shares: {share:g} of prepare.train_rows {train_rows} rounds to 0 rows"
            for share in self.label_efficiency.partial
            if train_rows is not None and round(share * train_rows) == 0
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class DeclaredParams:
    """A view of Params, or of a section, that hands out only what dvc.yaml declares for a stage.

    declared: sections, or single keys as SECTION.KEY. prefix: of a section, its name and a dot.
    """

    def __init__(self, params: Section, declared: Iterable[str], stage: str, prefix: str = "") -> None:
        self._params, self._declared, self._stage, self._prefix = params, set(declared), stage, prefix

    def __getattr__(self, name: str) -> Any:
        value, path = getattr(self._params, name), f"{self._prefix}{name}"
        if name not in type(self._params).model_fields or path in self._declared:
            return value
        keys = {key.removeprefix(f"{path}.") for key in self._declared if key.startswith(f"{path}.")}
        if keys and isinstance(value, Section):
            return DeclaredParams(value, self._declared, self._stage, f"{path}.")
        if keys and isinstance(value, dict):
            return {key: entry for key, entry in value.items() if key in keys}
        raise UndeclaredInputError(
            f"stage {self._stage} reads the parameters `{path}` but dvc.yaml does not say so",
            f"add `{path}` under stages.{self._stage}.params in dvc.yaml",
        )


def restrict_params(params: Params, sections: Iterable[str], stage: str) -> Params:
    """Restrict `params` to `sections`, or keys of them; reading another one raises UndeclaredInputError."""
    return cast("Params", DeclaredParams(params, sections, stage))


def load(path: Path) -> Params:
    """Read and check params.yaml; ParamsError lists every problem."""
    return validate(read_yaml(path))


def validate(data: Mapping[str, Any]) -> Params:
    """Check the values of params.yaml; ParamsError lists every problem."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        problems = describe(error, Params, renamed=RENAMED)
        raise ParamsError(problems, "edit params.yaml (docs/params.md explains every key), then run again") from None


def advice(params: Params) -> list[str]:
    """Warnings about values that are allowed but rarely intended."""
    warnings = []
    before, after = params.pretrain.learning_rate, params.finetune.learning_rate
    if params.pretrain.steps and after >= before and params.adaptation.method in WHOLE:
        warnings.append(
            f"finetune.learning_rate {after:g} is not below pretrain.learning_rate {before:g}: such large steps "
            "wash out what pretraining has learnt; a tenth of it or less is usual"
        )
    for name, section in (("pretrain", params.pretrain), ("finetune", params.finetune)):
        trains = bool(params.pretrain.steps) if name == "pretrain" else params.adaptation.method in WHOLE
        if params.model.init is not None and trains and section.learning_rate > CHECKPOINT_RATE:
            warnings.append(
                f"{name}.learning_rate {section.learning_rate:g} is one for random weights: it washes out what the "
                "checkpoint in model.init has learnt; 1e-5 to 5e-5 is usual, or adapters (adaptation.method: lora)"
            )
    return warnings
