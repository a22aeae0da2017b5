"""Which keys of a space depend on which others."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pretune.errors import did_you_mean
from pretune.studies.dimensions import Dimension, written


def relations(dimensions: Mapping[str, Dimension], failed: Collection[str]) -> list[str]:
    """What is wrong between keys: conditions, and keys within others."""
    problems = []
    for key, dimension in dimensions.items():
        problems += [f"{key}: lies in {other}; vary one of them" for other in dimensions if key.startswith(f"{other}.")]
        condition = dimension.condition
        if condition is None or condition.key in failed:
            continue
        other = condition.key
        if other not in dimensions:
            problems.append(
                f"{key}: its condition names {other}, which is no key of the space{did_you_mean(other, dimensions)}"
            )
            continue
        for value in condition.values:
            if not dimensions[other].contains(value):
                words = [word for word in dimensions[other].ends if isinstance(word, str)]
                problems.append(f"{key}: {other} is never {written(value)}{did_you_mean(str(value), words)}")
    circle = [key for key in dimensions if key not in in_order(dimensions)]
    if circle and not problems and not failed:
        problems.append(f"{', '.join(circle)}: their conditions depend on each other in a circle")
    return problems


def in_order(dimensions: Mapping[str, Dimension]) -> list[str]:
    """The keys, each after the one it depends on; those that depend on each other in a circle are left out."""
    order: list[str] = []
    waiting = list(dimensions)
    while waiting:
        ready = [key for key in waiting if (of := dimensions[key].condition) is None or of.key in order]
        if not ready:
            break
        order.append(ready[0])
        waiting.remove(ready[0])
    return order
