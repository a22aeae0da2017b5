"""Mixtures: samples of several parts, each drawn in proportion to its weight, not to its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pretune.errors import DataError

if TYPE_CHECKING:
    from pretune.data.loading.corpus import Sequences
    from pretune.data.rows import Row
    from pretune.objectives.base import FinetuningObjective, ObjectiveContext


@dataclass(frozen=True)
class Mixture:
    """Parts of the samples, which lie one after the other. sizes: samples by part; weights: of each part.

    blocks: {part: the samples in each of its shards in storage, in order}, {} where the samples lie on this disk.
    """

    sizes: dict[str, int]
    weights: dict[str, float]
    blocks: dict[str, list[int]] = field(default_factory=dict)

    def draws(self) -> dict[str, int]:
        """Samples of each part that are drawn in an epoch: as many as there are in all, by the largest remainder."""
        total, weight = sum(self.sizes.values()), sum(self.weights[name] for name in self.sizes)
        exact = {name: total * self.weights[name] / weight for name in self.sizes}
        draws = {name: int(value) for name, value in exact.items()}
        by_remainder = sorted(exact, key=lambda name: draws[name] - exact[name])
        return draws | {name: draws[name] + 1 for name in by_remainder[: total - sum(draws.values())]}


def parts_of(rows: Sequence[Row], weights: Mapping[str, float]) -> dict[str, list[Row]]:
    """{part: its rows} of a mixture, in the order of `weights`; {} without weights."""
    return {name: [row for row in rows if row.get("part") == name] for name in weights}


def of(
    rows: Sequence[Row], weights: Mapping[str, float], training: FinetuningObjective, context: ObjectiveContext
) -> Mixture | None:
    """The parts of the samples of `training`, which is made of `rows`; None without weights.

    A row may have several samples or none, so each part is asked for their number. Raises DataError for a part
    without any.
    """
    if not weights:
        return None
    objective = type(training)
    sizes = {name: len(objective(part, context)) if part else 0 for name, part in parts_of(rows, weights).items()}
    _check(sizes, len(training), "row", "add rows, raise prepare.train_rows")
    return Mixture(sizes, dict(weights))


def of_corpus(sequences: Sequences) -> Mixture | None:
    """The parts of a corpus; None without a mixture, unless the corpus lies in storage: then there is one part, "".

    Raises DataError for a part without any sequence.
    """
    stored = sequences.blocks()
    if not sequences.parts:
        return Mixture({"": len(sequences)}, {"": 1.0}, {"": stored}) if stored else None
    parts = sequences.by_part()
    sizes = {name: len(part) for name, part in parts.items()}
    _check(sizes, len(sequences), "sequence", "add texts, lower pretrain.validation_rows")
    blocks = {name: part.blocks() for name, part in parts.items()} if stored else {}
    return Mixture(sizes, {name: part.weight for name, part in sequences.parts.items()}, blocks)


def _check(sizes: Mapping[str, int], samples: int, kind: str, remedy: str) -> None:
    if empty := [name for name, size in sizes.items() if not size]:
        raise DataError(
            [f"ingest.source.{name}: no {kind} of this part is left to train on" for name in empty],
            f"{remedy}, or leave the part out; then: pretune run",
        )
    assert sum(sizes.values()) == samples, "the parts of a mixture lie one after the other"
