"""The gate: the checks that a model has to pass before it becomes champion, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretune.errors import did_you_mean
from pretune.evaluation.metrics import compute
from pretune.pages.units import interval
from pretune.release.compare import Comparison

if TYPE_CHECKING:
    from pretune.config.params import GateParams
    from pretune.evaluation.metrics.bootstrap import Metric
    from pretune.objectives.predictions import Predictions

LATENCY, SIZE = "latency_p99", "model_megabytes"  # metrics of the evaluation's run


@dataclass(frozen=True)
class Check:
    """One check of the gate. what: its name."""

    what: str
    passed: bool
    reason: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.what}: {self.reason}"


def examine(
    model: str,
    predictions: Predictions,
    run_metrics: Mapping[str, float],
    params: GateParams,
    *,
    champion: Comparison | None,
    gaps: list[str],
) -> list[Check]:
    """All checks.

    model: the name of the evaluated model; predictions: its predictions; run_metrics: of the evaluation's run;
    champion: the comparison with it, None if there is no other model; gaps: in the lineage.
    """
    metrics = compute.metrics(predictions)
    checks = [_threshold(model, metrics, run_metrics, name, bound) for name, bound in params.thresholds.items()]
    checks += _baselines(run_metrics) if params.baselines else []
    checks.append(_champion(champion, next(iter(metrics)), params.margin))
    if params.forgetting is not None:
        checks.append(_forgetting(run_metrics, params.forgetting))
    checks.append(_limit("latency", run_metrics.get(LATENCY), params.latency, "s"))
    checks.append(_limit("size", run_metrics.get(SIZE), params.size, "MB"))
    if params.lineage:
        checks.append(Check("lineage", not gaps, "; ".join(gaps) or "complete"))
    return checks


def _limit(name: str, value: float | None, limit: float, unit: str) -> Check:
    measured = "unknown" if value is None else f"{value:.4g} {unit}"
    return Check(name, value is not None and value <= limit, f"{measured}, at most {limit:g} {unit}")


def _threshold(
    model: str, metrics: Mapping[str, Metric], run_metrics: Mapping[str, float], name: str, bound: float
) -> Check:
    directions = {metric: own.higher for metric, own in metrics.items() if f"{model}.{metric}" in run_metrics}
    directions |= _benchmarks(run_metrics)
    if name not in directions:
        return Check(name, passed=False, reason=f"no such metric{did_you_mean(name, directions)}")
    measured = f"benchmarks.{name}.{model}" if "/" in name else f"{model}.{name}"
    low, high = (run_metrics[f"{measured}.{end}"] for end in ("low", "high"))
    passed = low >= bound if directions[name] else high <= bound
    words = "at least" if directions[name] else "at most"
    return Check(name, passed, f"interval {low:.4g} to {high:.4g}, {words} {bound:g}")


def _benchmarks(run_metrics: Mapping[str, float]) -> dict[str, bool]:
    """{TASK/METRIC: whether higher is better} of the benchmarks that were measured."""
    ends = ("benchmarks.", ".higher_is_better")
    return {
        key.removeprefix(ends[0]).removesuffix(ends[1]): bool(value)
        for key, value in run_metrics.items()
        if key.startswith(ends[0]) and key.endswith(ends[1])
    }


def _baselines(run_metrics: Mapping[str, float]) -> Iterator[Check]:
    for key, value in run_metrics.items():
        prefix, _, name = key.partition(".")
        if prefix == "gain" and "." not in name:
            low, high = run_metrics[f"{key}.low"], run_metrics[f"{key}.high"]
            yield Check(f"better than {name}", low > 0, f"by {interval(value, low, high, sign=True)}")


def _forgetting(run_metrics: Mapping[str, float], limit: float) -> Check:
    """The largest increase: of all held-out texts, or of a part of a mixture."""
    increases = [key for key in run_metrics if key.startswith("forgetting.") and key.endswith(".increase")]
    if not increases:
        return Check("forgetting", passed=False, reason="not measured: it needs a decoder and held-out texts")
    worst = max(increases, key=lambda key: run_metrics[f"{key}.high"])
    value, low, high = (run_metrics[f"{worst}{end}"] for end in ("", ".low", ".high"))
    part = worst.removeprefix("forgetting.").removeprefix("parts.").removesuffix("increase").rstrip(".")
    by = f"{interval(value, low, high, sign=True)} bits per byte on held-out text{f' of {part}' if part else ''}"
    return Check("forgetting", high <= limit, f"{by}, at most {limit:+g}")


def _champion(comparison: Comparison | None, headline: str, margin: float) -> Check:
    name = "better than the champion"
    if comparison is None:
        return Check(name, passed=True, reason="there is no other champion")
    if not comparison.rows:
        return Check(name, passed=False, reason=f"not comparable: {comparison.reason}")
    gain = next(iter(comparison.gains.values()))[headline]
    by = f"{headline} {interval(gain.value, gain.low, gain.high, sign=True)} on {comparison.rows} rows of both"
    return Check(name, gain.low > margin, f"{by}, required: significantly more than {margin:+g}")
