"""What a sweep is asked to do: its space, metric, search and size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pretune.config.section import Count, Positive, Section, describe, training_seed
from pretune.errors import ParamsError
from pretune.runtime.events import ERRORS

LOWER_IS_BETTER = ERRORS | frozenset({
    "log_loss", "brier", "calibration_error", "hamming_loss", "rmse", "mae", "bits_per_byte", "perplexity",
    "nats_per_token", "seconds", "flops", "memory_gb", "parameters", "trained_parameters", "device_hours",
    "energy_kwh",
})  # fmt: skip
SHARES = frozenset({
    "accuracy", "macro_f1", "weighted_f1", "micro_f1", "macro_precision", "macro_recall", "roc_auc", "pr_auc",
    "calibration_error", "exact_match", "hamming_loss", "entity_f1", "entity_precision", "entity_recall", "f1",
    "has_answer_f1", "has_answer_exact_match", "no_answer_f1", "no_answer_exact_match",
    "ndcg", "mrr", "recall",
})  # fmt: skip
RANGES = {
    "mcc": (-1.0, 1.0), "pearson": (-1.0, 1.0), "spearman": (-1.0, 1.0), "r2": (-math.inf, 1.0), "brier": (0.0, 2.0),
    "chrf": (0.0, 100.0), "bleu": (0.0, 100.0),
}  # fmt: skip
COSTS = frozenset({"seconds", "flops", "memory_gb", "parameters", "trained_parameters", "device_hours", "energy_kwh"})
# Objectives whose headline is an error.
HEADLINE_LOWER = {"distillation", "language_modelling", "linear_regression", "regression"}
GENERATING = {"grpo", "instruction", "seq2seq"}  # their headlines need a text for each row: by default the loss counts
SEEDS = frozenset({"seed", "pretrain.seed", "finetune.seed", "align.seed"})  # of params.yaml, in which runs differ
TRAININGS = {  # in their order: sections that concern no training before
    "pretrain": frozenset[str](),
    "finetune": frozenset({"finetune", "adaptation", "align", "evaluate"}),
    "align": frozenset({"align", "evaluate"}),
}
PREFIX = "pretrain."  # of a metric that is one of pretraining, which then is the stage that runs


class SweepSettings(Section):
    """A sweep, as the command line or a file describes it.

    space: {key: specification} (pretune/studies/space.py). metric: of the validation rows; more than one for a
    multi-objective search, costs among them; "headline" is the first of the report. trials: points to try; None: all
    of a finite space. seeds: runs of each point. search_seed: of the sampler. budget: minutes after which no trial is
    started. parallel: trials at once; None: as many as the machine has room for. points: those of a grid to try, in
    this order; None: all. tested: the trials that predict the test rows when the search has ended. last: the stage
    that trains the model which is judged (release/last_model.py); a sweep finds it when it is made.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
    space: dict[str, Any] = Field(min_length=1)
    constraints: list[str] = Field(default_factory=list)
    metric: Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]+$")]], Field(min_length=1, max_length=4)]
    sampler: Literal["grid", "random", "tpe", "nsga2"]
    pruner: Literal["none", "median", "halving"] = "none"
    trials: Count | None = None
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    search_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    budget: Positive | None = None
    parallel: Count | None = None
    points: list[dict[str, Any]] | None = None
    tested: Literal["best", "all", "none"] = "best"
    last: str = "finetune"

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems = []
        if len(self.metric) > 1 and self.pruner != "none":
            problems.append("a pruner compares one metric: leave it out, or name one metric")
        if len({metric.startswith(PREFIX) for metric in self.metric if metric not in COSTS}) > 1:
            problems.append("metrics of pretraining and of finetuning do not go together")
        if self.metric[0] in COSTS:
            problems.append(f"the first metric must be one of quality, not the cost {self.metric[0]}")
        if self.seeds > 1 and (varied := SEEDS & self.space.keys()):
            problems.append(f"the space varies {', '.join(sorted(varied))}, as seeds do: leave one of them out")
        if self.sampler != "grid" and self.trials is None:
            problems.append(f"the sampler {self.sampler} needs trials, the number of points to try")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def stage(self) -> str:
        """The stage whose validation counts: the last one that a trial runs."""
        return "pretrain" if self.metric[0].startswith(PREFIX) else self.last

    @property
    def metrics(self) -> list[str]:
        """The metrics without the name of the stage."""
        return [metric.removeprefix(PREFIX) for metric in self.metric]

    @property
    def needs_predictions(self) -> bool:
        """Whether a metric is one of predictions for the validation rows, rather than of the learning curve."""
        return self.stage != "pretrain" and any(name not in COSTS | {"loss"} for name in self.metrics)

    def higher_is_better(self, objective: str) -> list[bool]:
        """For each metric; objective: that of the model which is judged."""
        return [
            objective not in HEADLINE_LOWER if name == "headline" else name not in LOWER_IS_BETTER
            for name in self.metrics
        ]


def bounds(metric: str) -> tuple[float, float]:
    """The lowest and the highest value that a metric can have; without limits if it is not known."""
    if metric in SHARES:
        return 0.0, 1.0
    lowest = 0.0 if metric in LOWER_IS_BETTER else -math.inf  # losses, errors and costs
    return RANGES.get(metric, (lowest, math.inf))


def default_metric(objective: str) -> str:
    """The metric if none is named: the headline, or the loss where the headline takes a generated text per row."""
    return "loss" if objective in GENERATING else "headline"


def validate(content: Mapping[str, Any]) -> SweepSettings:
    """The settings in `content`; ParamsError lists every problem."""
    try:
        return SweepSettings.model_validate(content)
    except ValidationError as error:
        raise ParamsError(describe(error, SweepSettings, "sweep"), "pretune sweep --help") from None


def seed_overrides(keys: list[str], base: Mapping[str, Any], number: int) -> dict[str, int]:
    """The seeds of run `number` of a point: those of the trainings from the first on that the space changes.

    Earlier stages are shared by all runs, and the splits stay the same, so that rows can be paired. Run 0 has the
    seeds of params.yaml, so that it is the same run as `pretune run` with the values of the point.
    """
    if number == 0:
        return {}
    sections = {key.split(".")[0] for key in keys}
    stages = [stage for stage in TRAININGS if base.get(stage)]
    first = next(stage for stage in reversed(stages) if sections <= TRAININGS[stage] or stage == stages[0])
    own = {stage: base[stage]["seed"] for stage in stages[stages.index(first) :]}
    return {f"{stage}.seed": training_seed(seed, base["seed"]) + number for stage, seed in own.items()}
