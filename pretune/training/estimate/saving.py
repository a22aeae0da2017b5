"""The time that a stage takes to leave its trained model: measured on a part of it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from pretune.adaptation import adapters, lora, quantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MERGED = 7  # layers of adapters, those of a transformer's layer
WRITTEN = 2**26  # bytes


def timed(model: PreTrainedModel, folder: Path) -> float:
    """Seconds to merge the adapters of `model`, and to write and hash its weights on the disk of `folder`.

    This merges some of its adapters.
    """
    size = 4 * quantization.parameters(model)
    return _merging(model, folder) + _writing(min(size, WRITTEN), folder) * size / min(size, WRITTEN)


def _merging(model: PreTrainedModel, folder: Path) -> float:
    """Seconds to merge all adapters, extrapolated from the first ones by the size of their matrices."""
    began = time.perf_counter()
    lora.unfuse(model)
    unfused = time.perf_counter()
    layers = adapters.tuners(model)
    sizes = [module.get_base_layer().weight.numel() for module in layers.values()]
    for module in islice(layers.values(), MERGED):
        adapters.merge_layer(module, folder)
    share = sum(sizes[:MERGED]) / sum(sizes) if sizes else 1.0
    return unfused - began + (time.perf_counter() - unfused) / share


def _writing(size: int, folder: Path) -> float:
    """Seconds to write so many bytes to a file, and to hash them as DVC does."""
    tensor = torch.zeros(size // 4)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "part.safetensors"
        began = time.perf_counter()
        save_file({"part": tensor}, path)
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        return time.perf_counter() - began
