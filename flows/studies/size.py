"""Is a larger model better here? A ladder of sizes at equal data and at equal compute, and a fitted scaling law."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.studies.study import Part, Result, Study, with_interval
from pretune.errors import DataError, ParamsError
from pretune.evaluation.metrics.bootstrap import Difference, Estimate
from pretune.pages.render import Table
from pretune.pages.units import si
from pretune.studies import charts, scaling
from pretune.studies.page import Section, figure
from pretune.studies.results import Point, TrialResult
from pretune.studies.scaling import HeldOut, ScalingLaw

QUESTION = "Is a larger model better here?"
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")  # names of the families
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")
ALSO_DEPTHS = ("decoder_layers", "num_decoder_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
ALSO_HEADS = ("num_key_value_heads", "decoder_attention_heads")
INNER = ("intermediate_size", "n_inner", "d_ff", "hidden_dim", "encoder_ffn_dim")
ALSO_INNER = ("decoder_ffn_dim",)
FACTORS = (0.25, 0.5, 1.0, 1.5)
SHARE = 1 / 18  # of the steps in params.yaml, at equal data
FEWEST = 20  # steps


@dataclass(frozen=True)
class Measured:
    """A size in one setting. loss: of validation sequences, by seed. gap: validation minus training loss.

    seconds, memory_gb: of pretraining; None if it was restored and not timed here.
    """

    setting: str
    factor: float
    parameters: float
    tokens: float
    losses: list[float]
    gap: float
    flops: float
    seconds: float | None
    memory_gb: float | None
    test: Estimate
    against_base: Difference | None


def run(study: Study, *, factors: Sequence[float] = FACTORS, share: float = SHARE) -> Result:
    """The study. factors: of width and depth; 1 is the model in params.yaml. share: of its steps."""
    if not study.params.pretrain.steps:
        raise ParamsError(
            "the study of sizes pretrains, and pretrain.steps is 0", "raise pretrain.steps in params.yaml"
        )
    seeds = study.seeds or 3
    sizes = ladder(study.base["model"]["config"], factors)
    steps = max(FEWEST, round(share * study.params.pretrain.steps))
    equal_data = study.sweep("equal-data", [_point(config, steps) for config in sizes.values()], seeds=seeds)
    measured = _measured(study, "equal data", equal_data, list(sizes))
    compute = next(one.flops for one in measured if one.factor == 1.0)
    matched = {one.factor: max(FEWEST, round(steps * compute / one.flops)) for one in measured}
    points = [_point(config, matched[factor]) for factor, config in sizes.items()]
    equal_compute = study.sweep("equal-compute", points, seeds=seeds)
    measured += _measured(study, "equal compute", equal_compute, list(sizes))
    return conclude(measured, equal_data.metric, study.commands(), seeds, higher=equal_data.folder.higher[0])


def ladder(config: Mapping[str, Any], factors: Sequence[float]) -> dict[float, dict[str, Any]]:
    """{factor: what changes in `model.config`}, ascending; of factors that give the same size, that next to 1."""
    sizes: dict[str, float] = {}
    for factor in sorted({*factors, 1.0}, key=lambda factor: abs(math.log(factor))):
        sizes.setdefault(json.dumps(scaled(config, factor), sort_keys=True), factor)
    return {factor: scaled(config, factor) for factor in sorted(sizes.values())}


def scaled(config: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """What changes in `model.config` for width and depth times `factor`: heads keep their size; one layer at least.

    ParamsError if the configuration does not name the width.
    """
    width = next((name for name in WIDTHS if name in config), None)
    depth = next((name for name in DEPTHS if name in config), None)
    heads = next((name for name in HEADS if name in config), None)
    if width is None or depth is None or heads is None:
        raise ParamsError(
            "the study of sizes needs width, layers and heads in model.config, as hidden_size, num_hidden_layers and "
            "num_attention_heads",
            "write them into params.yaml",
        )
    each = config[width] // config[heads]
    count = max(1, round(config[heads] * factor))
    if config[heads] * factor < 1:  # narrower than one head of this size
        each = max(8, 8 * round(each * config[heads] * factor / 8))
    new = {heads: count, width: count * each, depth: max(1, round(config[depth] * factor))}
    ratio = new[width] / config[width]
    for names, value in ((ALSO_DEPTHS, new[depth]), (ALSO_HEADS, count)):
        new |= {name: value for name in names if name in config}
    inner = {name: 8 * max(1, round(config[name] * ratio / 8)) for name in (*INNER, *ALSO_INNER) if config.get(name)}
    return new | inner


def conclude(measured: Sequence[Measured], metric: str, commands: list[str], seeds: int, *, higher: bool) -> Result:
    """The page: both settings, the law, and what it says of the next size."""
    settings = list(dict.fromkeys(one.setting for one in measured))
    by_setting = {name: [one for one in measured if one.setting == name] for name in settings}
    law, checked, problem = _law(measured)
    sentences = [_sentence(name, sizes, metric) for name, sizes in by_setting.items()]
    sentences += _law_sentences(law, checked, measured)
    sections = [_section(name, sizes, metric, seeds, higher=higher) for name, sizes in by_setting.items()]
    sections.append(_law_section(law, checked, problem, measured))
    data = {"measured": [_plain(one) for one in measured], "law": _plain_law(law)}
    return Result("Model size", QUESTION, " ".join(sentences), sections, commands, data)


def _point(config: Mapping[str, Any], steps: int) -> Point:
    shape = {f"model.config.{name}": value for name, value in config.items()}
    return shape | {"pretrain.steps": steps, "pretrain.evaluate_every": steps}


def _measured(study: Study, setting: str, part: Part, factors: Sequence[float]) -> list[Measured]:
    trials = dict(zip(factors, part.trials, strict=True))
    base = trials[1.0]
    found = []
    for factor, trial in trials.items():
        if trial.state != "complete":  # it did not fit into memory, or diverged: told in the table of the sweep
            continue
        outcomes = [part.outcome(trial, seed.seed) for seed in trial.seeds]
        curves = [outcome["curves"]["pretrain"] for outcome in outcomes]
        losses = [
            next(row["validation_loss"] for row in reversed(curve) if "validation_loss" in row) for curve in curves
        ]
        trained = [next(row["loss"] for row in reversed(curve) if "loss" in row) for curve in curves]
        pretrain = study.params.pretrain
        tokens = trial.point["pretrain.steps"] * pretrain.batch_size * pretrain.sequence_length
        found.append(Measured(
            setting, factor, _cost(trial, "pretrain.parameters"), tokens, losses,
            sum(losses) / len(losses) - sum(trained) / len(trained), _cost(trial, "pretrain.flops"),
            trial.cost("pretrain.seconds"), trial.cost("pretrain.memory_gb"), part.test(trial),
            part.test_difference(trial, base) if factor != 1.0 else None,
        ))  # fmt: skip
    return found


def _cost(trial: TrialResult, name: str) -> float:
    value = trial.cost(name)
    return value if value is not None else math.nan


def _law(measured: Sequence[Measured]) -> tuple[ScalingLaw | None, HeldOut | None, str]:
    runs = [
        scaling.Run(one.parameters, one.tokens, loss, seed) for one in measured for seed, loss in enumerate(one.losses)
    ]
    try:
        return scaling.fit(runs), scaling.held_out(runs), ""
    except DataError as error:
        return None, None, "; ".join(error.problems)


def _sentence(setting: str, sizes: Sequence[Measured], metric: str) -> str:
    base = next(one for one in sizes if one.factor == 1.0)
    larger = [one for one in sizes if one.factor > 1 and one.against_base]
    reached = f"{metric} {with_interval(base.test)}"
    words = f"At {setting}, the model of params.yaml ({si(base.parameters)} parameters) reaches {reached}"
    better = [one for one in larger if one.against_base and one.against_base.low > 0]
    worse = [one for one in larger if one.against_base and one.against_base.high < 0]
    if better:
        best = max(better, key=lambda one: one.against_base.value if one.against_base else 0.0)
        return f"{words}; a larger one ({si(best.parameters)}) is better by {with_interval(best.against_base or {})}."
    if worse and len(worse) == len(larger):
        return f"{words}; every larger one is worse."
    gains = ", ".join(
        f"{si(one.parameters)}: {with_interval(one.against_base, sign=True)}" for one in larger if one.against_base
    )
    return f"{words}; that a larger one is better does not show ({gains})." if gains else f"{words}."


def _law_sentences(law: ScalingLaw | None, checked: HeldOut | None, measured: Sequence[Measured]) -> list[str]:
    if law is None or checked is None:
        return []
    largest = max(measured, key=lambda one: one.parameters)
    doubled = law.predict_with_interval(2 * largest.parameters, largest.tokens)
    check = checked.checks[0]
    right = "foretold" if checked.inside else "missed"
    measured_now = sum(largest.losses) / len(largest.losses)
    words = (
        f"The scaling law, fitted without the largest size, {right} its loss ({check.predicted.value:.3f} predicted, "
        f"{check.measured:.3f} measured). For twice the largest model at {si(largest.tokens)} tokens it predicts a "
        f"loss of {with_interval(doubled)}, against {measured_now:.3f} now."
    )
    return [words]


def _section(setting: str, sizes: Sequence[Measured], metric: str, seeds: int, *, higher: bool) -> Section:
    text = {
        "equal data": "All sizes see the same tokens.",
        "equal compute": "All sizes take the FLOPs of the model of params.yaml: smaller ones see more tokens.",
    }.get(setting, setting)
    text += (
        f" {seeds} seeds; the gap is validation loss minus training loss, both of pretraining: overfitting shows in it."
    )
    head = [
        "size", "parameters", "tokens", "loss", "gap", f"test {metric}", "over size 1", "FLOPs", "seconds",
        "memory, GB",
    ]  # fmt: skip
    body: list[list[Any]] = [
        [
            f"{one.factor:g}", si(one.parameters), si(one.tokens), f"{sum(one.losses) / len(one.losses):.3f}",
            f"{one.gap:+.3f}", one.test.as_dict(), one.against_base.as_dict() if one.against_base else "",
            si(one.flops), f"{one.seconds:.0f}" if one.seconds else "", f"{one.memory_gb:.2f}" if one.memory_gb else "",
        ]
        for one in sizes
    ]  # fmt: skip
    quality = [(one.parameters, one.test.as_dict()) for one in sizes]
    losses = [(one.parameters, _spread(one.losses)) for one in sizes]
    costs = [(one.flops, one.test.value, f"{one.factor:g}") for one in sizes]
    figures = [
        figure("Quality after finetuning", charts.lines_log({metric: quality}, x="parameters", y=metric)),
        figure("Loss of pretraining", charts.lines_log({"validation loss": losses}, x="parameters", y="loss")),
        figure("Quality against compute", charts.scatter_labelled(costs, "FLOPs", metric, log_x=True, higher=higher)),
    ]
    return Section(f"At {setting}", text, [Table("", head, body)], figures)


def _spread(losses: Sequence[float]) -> dict[str, float]:
    return {"value": sum(losses) / len(losses), "low": min(losses), "high": max(losses)}


def _law_section(
    law: ScalingLaw | None, checked: HeldOut | None, problem: str, measured: Sequence[Measured]
) -> Section:
    if law is None or checked is None:
        return Section("Scaling law", f"No law could be fitted: {problem}.")
    formula = "L(N, D) = E + A/N^alpha + B/D^beta" if law.data_varies else "L(N) = E + A/N^alpha"
    text = (
        f"{formula} (Hoffmann et al. 2022), N parameters and D tokens, fitted to all runs above, bootstrap intervals."
    )
    text += "".join(f"\n\n{note}" for note in law.notes)
    values = {"E": law.E, "A": law.A, "alpha": law.alpha, "B": law.B, "beta": law.beta}
    table = Table("Law", ["", "value"], [[name, value.as_dict()] for name, value in values.items() if value])
    rows = [
        [si(check.tokens), f"{check.measured:.4f}", check.predicted.as_dict(), "yes" if check.inside else "no"]
        for check in checked.checks
    ]
    held = Table(
        "Checked on the largest size, which that fit has not seen", ["tokens", "measured", "predicted", "inside"], rows
    )
    points = sorted({(one.parameters, one.tokens) for one in measured})
    series = {
        "measured": [(one.parameters, _spread(one.losses)) for one in sorted(measured, key=lambda one: one.parameters)
                     if one.setting == measured[0].setting],
        "law": [(n, law.predict_with_interval(n, d).as_dict()) for n, d in points if d == measured[0].tokens],
    }  # fmt: skip
    drawn = charts.lines_log(series, x="parameters", y="loss")
    return Section("Scaling law", text, [table, held], [figure(f"Loss by size, {measured[0].setting}", drawn)])


def _plain(one: Measured) -> dict[str, Any]:
    return vars(one) | {
        "test": one.test.as_dict(), "against_base": one.against_base.as_dict() if one.against_base else None,
    }  # fmt: skip


def _plain_law(law: ScalingLaw | None) -> dict[str, Any] | None:
    if law is None:
        return None
    values = {"E": law.E, "A": law.A, "alpha": law.alpha, "B": law.B, "beta": law.beta}
    return {name: value.as_dict() if value else None for name, value in values.items()}
