"""The typed schema of params.yaml: one class per section, every key required.

No key has a default here: a default that is not in params.yaml would change a stage's output
without DVC seeing it. All problems are found at once, before any work starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, Field, ValidationError, model_validator

from pretune.config.data import IngestParams, PrepareParams
from pretune.config.files import read_yaml
from pretune.config.section import Section
from pretune.errors import ParamsError, UndeclaredInputError, did_you_mean

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


RENAMED = {  # keys of before 0.1.0, which are refused
    "accumulation": "gradient_accumulation_steps",
    "resamples": "bootstrap_samples",
    "select": "metric_for_best_model",
    "skips": "max_skipped_steps",
}


class ModelParams(Section):
    """What is trained: an architecture of transformers, new or from a checkpoint.

    `config` is checked against the type's configuration where transformers is loaded (models/build.py).
    """

    type: Annotated[str, Field(min_length=1)]
    init: Annotated[str, Field(min_length=1)] | None
    config: dict[str, Any]


class TrainingParams(Section):
    """What pretraining and finetuning share. `warmup` is a share of all steps, from 1 on their number.

    `objective`, its `settings` and `metric_for_best_model` are checked against the objective's class
    (objectives/registry.py).
    """

    objective: Annotated[str, Field(min_length=1)]
    settings: dict[str, Any]
    batch_size: Count
    gradient_accumulation_steps: Count
    sequence_length: Annotated[int, Field(ge=8)]
    optimizer: Literal["adamw", "muon"]
    learning_rate: Rate
    layer_decay: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    schedule: Literal["constant", "linear", "cosine", "wsd"]
    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    gradient_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    precision: Literal["auto", "bf16", "fp32"]
    gradient_checkpointing: bool
    compile: bool
    max_skipped_steps: Annotated[int, Field(ge=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    evaluate_every: Annotated[int, Field(ge=0)]
    metric_for_best_model: Annotated[str, Field(min_length=1)]
    patience: Annotated[int, Field(ge=0)]

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
            problems.append(f"patience {self.patience} needs metric_for_best_model: the metric that has to improve")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class PretrainParams(TrainingParams):
    """Learning without labels, from all documents; 0 steps leave the first weights as they are."""

    steps: Annotated[int, Field(ge=0)]
    validation_rows: Annotated[int, Field(ge=0)]


class FinetuneParams(TrainingParams):
    """Learning from the labelled training rows.

    Whether the objective can smooth labels and be calibrated is checked against its class (objectives/registry.py).
    """

    epochs: Count
    label_smoothing: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    calibrate: bool


class AdaptationParams(Section):
    """What of the pretrained model is trained; checked where peft is loaded (adaptation/methods.py)."""

    method: Annotated[str, Field(min_length=1)]
    settings: dict[str, Any]


class LaunchParams(Section):
    """How many processes train one model, and how they share the work."""

    processes: Count
    nodes: Count
    rendezvous: Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-]+:[0-9]+$")]
    strategy: Literal["ddp", "fsdp"]


class LabelEfficiencyParams(Section):
    """On which shares of the labelled rows both models are trained besides."""

    shares: list[Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]]

    @property
    def partial(self) -> list[float]:
        """Those that ask for a training: all rows are what `finetune` and `scratch` learn from."""
        return sorted({share for share in self.shares if share < 1})


class EvaluateParams(Section):
    """`confidence` of the intervals, from `bootstrap_samples` bootstrap draws."""

    confidence: Rate
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)]
    slices: list[Literal["label", "length", "script", "group", "origin"]]
    mistakes: Annotated[int, Field(ge=0, le=1000)]
    attributions: Annotated[int, Field(ge=0, le=100)]


class GateParams(Section):
    """What a model has to show before it becomes the champion."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    thresholds: dict[str, float]
    baselines: bool
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    latency: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    size: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    lineage: bool


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Count
    ingest: IngestParams
    prepare: PrepareParams
    model: ModelParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    adaptation: AdaptationParams
    launch: LaunchParams
    label_efficiency: LabelEfficiencyParams
    evaluate: EvaluateParams
    gate: GateParams

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems = []
        for name, section in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            parts = section.gradient_accumulation_steps * self.launch.processes * self.launch.nodes
            if section.batch_size % parts:
                problems.append(
                    f"{name}.batch_size {section.batch_size} must be a multiple of {parts} "
                    "(gradient_accumulation_steps x launch.processes x launch.nodes)"
                )
            if section.optimizer == "muon" and self.launch.strategy == "fsdp":
                problems.append(f"{name}.optimizer muon needs whole matrices: launch.strategy ddp, or adamw")
        if self.pretrain.evaluate_every and not self.pretrain.validation_rows:
            problems.append("pretrain.evaluate_every needs pretrain.validation_rows")
        if self.finetune.evaluate_every and self.prepare.validation_rows == 0:
            problems.append("finetune.evaluate_every needs prepare.validation_rows")
        if self.finetune.calibrate and self.prepare.validation_rows == 0:
            problems.append("finetune.calibrate needs prepare.validation_rows")
        most = self.prepare.train_rows
        problems += [
            f"label_efficiency.shares: {share:g} of prepare.train_rows {most} is no row"
            for share in self.label_efficiency.partial
            if most is not None and round(share * most) == 0
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class DeclaredParams:
    """A view of Params that hands out only the sections that dvc.yaml declares for a stage."""

    def __init__(self, params: Params, sections: Iterable[str], stage: str) -> None:
        self._params, self._sections, self._stage = params, set(sections), stage

    def __getattr__(self, name: str) -> Any:
        if name in Params.model_fields and name not in self._sections:
            raise UndeclaredInputError(
                f"stage {self._stage} reads the parameters `{name}` but dvc.yaml does not say so",
                f"add `{name}` under stages.{self._stage}.params in dvc.yaml",
            )
        return getattr(self._params, name)


def restrict_params(params: Params, sections: Iterable[str], stage: str) -> Params:
    """Restrict `params` to `sections`; reading another one raises UndeclaredInputError."""
    return cast("Params", DeclaredParams(params, sections, stage))


def load(path: Path) -> Params:
    """Read and check params.yaml; ParamsError lists every problem."""
    return validate(read_yaml(path))


def validate(data: Mapping[str, Any]) -> Params:
    """Check the values of params.yaml; ParamsError lists every problem."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        problems = [_describe(dict(item)) for item in error.errors()]
        raise ParamsError(problems, "edit params.yaml (docs/params.md explains every key), then run again") from None


def _describe(item: dict[str, Any]) -> str:
    """One line for one pydantic error: dotted path, value, what is allowed, nearest match."""
    path = [str(part) for part in item["loc"]]
    dotted, value = ".".join(path) or "params.yaml", item["input"]
    if item["type"] == "extra_forbidden":
        if path[-1] in RENAMED:
            return f"{dotted}: is called {RENAMED[path[-1]]} now; rename it"
        return f"{dotted}: unknown key{did_you_mean(path[-1], _keys(path[:-1]))}"
    if item["type"] == "missing":
        return f"{dotted}: missing; every key must be in params.yaml"
    if item["type"] == "value_error":
        return f"{dotted}: {item['ctx']['error']}"
    message = item["msg"][0].lower() + item["msg"][1:]
    hint = did_you_mean(value, _choices(item)) if isinstance(value, str) else ""
    if isinstance(value, str) and _is_number(value):
        hint = f"; `{value}` is text here: write it without quotes"
    return f"{dotted}: {message}, got {value!r}{hint}"


def _choices(item: dict[str, Any]) -> list[str]:
    expected = str(item.get("ctx", {}).get("expected", ""))
    return [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]


def _keys(path: list[str]) -> list[str]:
    """The keys that the section at `path` allows."""
    model: type[BaseModel] = Params
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def advice(params: Params) -> list[str]:
    """What is allowed but seldom meant."""
    found = []
    before, after = params.pretrain.learning_rate, params.finetune.learning_rate
    if params.pretrain.steps and after >= before and params.adaptation.method in {"full", "top", "gradual"}:
        found.append(
            f"finetune.learning_rate {after:g} is not below pretrain.learning_rate {before:g}: steps that large "
            "wash out what pretraining has learnt; usual is a tenth of it, or less"
        )
    return found
