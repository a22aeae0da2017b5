"""By which weights the parts of a mixture are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mixing:
    """given: {part: weight}, in the order of the source; {} where it is no mixture.

    temperature: in place of the weights, which then follow from the sizes of the parts.
    """

    given: Mapping[str, float]
    temperature: float | None = None

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Mixing:
        """That of a snapshot; about: the content of source.json."""
        return cls(about.get("weights", {}), about.get("temperature"))

    def only(self, names: Iterable[str]) -> Mixing:
        """That of these parts."""
        kept = set(names)
        return Mixing({name: weight for name, weight in self.given.items() if name in kept}, self.temperature)

    def weights(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """{part: weight}, relative to their sum; sizes: rows or documents of each part, none where it is missing.

        With a temperature T a part of n has the weight n^(1/T) (Raffel et al. 2020, arXiv:1910.10683, 3.5.2): at 1
        that is its size, and the higher T, the more equal the parts.
        """
        if self.temperature is None:
            return dict(self.given)
        return {name: float(sizes.get(name, 0) ** (1 / self.temperature)) for name in self.given}
