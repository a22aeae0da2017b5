"""The corpus for pretraining on images or numbers: one memory-mapped array with a sample in each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pretune.data.loading.corpus import hold_out
from pretune.errors import DataError


class Samples:
    """The rows of `array`: all, or those with these `numbers`."""

    def __init__(self, array: npt.NDArray[Any], numbers: npt.NDArray[np.int64] | None = None) -> None:
        self._array = array
        self._numbers = np.arange(len(array)) if numbers is None else numbers

    @classmethod
    def open(cls, path: Path) -> Self:
        """The rows of a .npy file. DataError where it is missing."""
        if not path.is_file():
            raise DataError(
                f"{path.name} is not in the corpus: pretrain.objective needs another kind of data",
                "change pretrain.objective or ingest.source in params.yaml, then: pretune run",
            )
        return cls(np.load(path, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self._numbers)

    def rows(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """These rows: (samples, ...)."""
        return np.asarray(self._array[self._numbers[samples]])

    def divide(self, validation_rows: int, seed: int) -> tuple[Samples, Samples | None]:
        """Split off `validation_rows` random rows: (training rows, validation rows or None for 0)."""
        if not validation_rows:
            return self, None
        training, validation = hold_out(self._numbers, validation_rows, seed, ("rows", "rows"))
        return Samples(self._array, training), Samples(self._array, validation)


class Columns:
    """The names of the numbers that a model reads (x) and predicts (y)."""

    FILE = "columns.json"

    def __init__(self, x: list[str], y: list[str]) -> None:
        self.x, self.y = x, y

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read columns.json of a folder."""
        return cls(**json.loads((folder / cls.FILE).read_text(encoding="utf-8")))

    def save_pretrained(self, folder: Path) -> None:
        """Write columns.json."""
        content = json.dumps({"x": self.x, "y": self.y}, indent=1, ensure_ascii=False)
        (folder / self.FILE).write_text(content + "\n", encoding="utf-8")
