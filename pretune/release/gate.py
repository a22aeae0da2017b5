"""The gate: what a model has to show before it goes out, each point with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretune.errors import did_you_mean
from pretune.evaluation.metrics import compute
from pretune.release.compare import Comparison

if TYPE_CHECKING:
    from pretune.config.params import GateParams
    from pretune.evaluation.metrics.bootstrap import Metric
    from pretune.objectives.predictions import Predictions

LATENCY, SIZE = "latency_p99", "model_megabytes"  # metrics of the run that evaluated


@dataclass(frozen=True)
class Check:
    """One point of the gate."""

    what: str
    passed: bool
    reason: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.what}: {self.reason}"


def examine(
    said: Predictions,
    measured: Mapping[str, float],
    gate: GateParams,
    *,
    champion: Comparison | None,
    gaps: list[str],
) -> list[Check]:
    """All points.

    measured: metrics of the evaluation's run; champion: compared with it, None where it is no other model; gaps: in
    the lineage.
    """
    known = compute.metrics(said)
    checks = [_threshold(known, measured, name, bound) for name, bound in gate.thresholds.items()]
    checks += _baselines(measured) if gate.baselines else []
    checks.append(_champion(champion, next(iter(known)), gate.margin))
    for what, name, most, unit in (("latency", LATENCY, gate.latency, "s"), ("size", SIZE, gate.size, "MB")):
        value = measured.get(name)
        fits = value is not None and value <= most
        checks.append(
            Check(what, fits, f"{'unknown' if value is None else f'{value:.4g} {unit}'}, at most {most:g} {unit}")
        )
    if gate.lineage:
        checks.append(Check("lineage", not gaps, "; ".join(gaps) or "complete"))
    return checks


def _threshold(known: Mapping[str, Metric], measured: Mapping[str, float], name: str, bound: float) -> Check:
    if name not in known or f"finetuned.{name}" not in measured:
        return Check(name, passed=False, reason=f"no such metric{did_you_mean(name, known)}")
    low, high = (measured[f"finetuned.{name}.{end}"] for end in ("low", "high"))
    passed = low >= bound if known[name].higher else high <= bound
    word = "at least" if known[name].higher else "at most"
    return Check(name, passed, f"interval {low:.4g} to {high:.4g}, {word} {bound:g}")


def _baselines(measured: Mapping[str, float]) -> Iterator[Check]:
    for key in measured:
        prefix, _, name = key.partition(".")
        if prefix == "gain" and "." not in name:
            low, high = measured[f"{key}.low"], measured[f"{key}.high"]
            yield Check(f"better than {name}", low > 0, f"by {measured[key]:+.4g} ({low:+.4g} to {high:+.4g})")


def _champion(compared: Comparison | None, headline: str, margin: float) -> Check:
    what = "better than the champion"
    if compared is None:
        return Check(what, passed=True, reason="there is no other")
    if not compared.rows:
        return Check(what, passed=False, reason=f"not comparable: {compared.reason}")
    gain = next(iter(compared.gains.values()))[headline]
    found = f"{headline} {gain.value:+.4g} ({gain.low:+.4g} to {gain.high:+.4g}) on {compared.rows} rows of both"
    return Check(what, gain.low > margin, f"{found}, asked for: more than {margin:+g} surely")
