"""The corpus for pretraining where it is no text: one array, memory-mapped, with a sample in each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pretune.data.loading.corpus import drawn
from pretune.errors import DataError


class Samples:
    """The rows of `array`: all, or those that are `chosen`."""

    def __init__(self, array: npt.NDArray[Any], chosen: npt.NDArray[np.int64] | None = None) -> None:
        self._array = array
        self._chosen = np.arange(len(array)) if chosen is None else chosen

    @classmethod
    def open(cls, path: Path) -> Self:
        """The rows of a .npy file. DataError where it is missing."""
        if not path.is_file():
            raise DataError(
                f"{path.name} is not in the corpus: the data are of another kind than pretrain.objective needs",
                "name another pretrain.objective in params.yaml, or other data",
            )
        return cls(np.load(path, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self._chosen)

    def rows(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """These rows: (samples, ...)."""
        return np.asarray(self._array[self._chosen[samples]])

    def divide(self, validation_rows: int, seed: int) -> tuple[Samples, Samples | None]:
        """The rows to train on, and `validation_rows` drawn to be kept out of training; None for none."""
        if not validation_rows:
            return self, None
        kept, held_out = drawn(self._chosen, validation_rows, seed, ("rows", "rows"))
        return Samples(self._array, kept), Samples(self._array, held_out)


class Columns:
    """The names of the numbers that a model reads (x) and foretells (y)."""

    FILE = "columns.json"

    def __init__(self, x: list[str], y: list[str]) -> None:
        self.x, self.y = x, y

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save_pretrained` left in `folder`."""
        return cls(**json.loads((folder / cls.FILE).read_text(encoding="utf-8")))

    def save_pretrained(self, folder: Path) -> None:
        """Write columns.json."""
        content = json.dumps({"x": self.x, "y": self.y}, indent=1, ensure_ascii=False)
        (folder / self.FILE).write_text(content + "\n", encoding="utf-8")
