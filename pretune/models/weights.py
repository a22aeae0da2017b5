"""The files that hold the weights of a checkpoint: what their headers say, without loading them."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from pretune.errors import DataError

HEADER = 100_000_000  # bytes of a header at most, as safetensors itself reads
Header = dict[str, tuple[str, tuple[int, ...]]]  # name of a tensor: its type, as BF16, and its shape


def find(location: Mapping[str, Any], name: str) -> Path | None:
    """A file of the checkpoint at `location` (arguments of `from_pretrained`); None if it has none of this name."""
    options = {key: value for key, value in location.items() if key != "pretrained_model_name_or_path"}
    place = location["pretrained_model_name_or_path"]
    path = cached_file(place, name, _raise_exceptions_for_missing_entries=False, **options)
    return Path(path) if path else None


def files(location: Mapping[str, Any]) -> list[Path]:
    """The files of weights, with their index if there are several. Raises DataError if there are none."""
    if single := find(location, SAFE_WEIGHTS_NAME):
        return [single]
    index = find(location, SAFE_WEIGHTS_INDEX_NAME)
    place = location["pretrained_model_name_or_path"]
    if index is None:
        raise DataError(
            f"{place} has no {SAFE_WEIGHTS_NAME}", "only weights in safetensors are read: pickled ones can run code"
        )
    parts = _parts(index)
    found = [find(location, name) for name in parts]
    if missing := [name for name, path in zip(parts, found, strict=True) if path is None]:
        raise DataError([f"{place}: {name} is missing" for name in missing], "fetch the whole checkpoint")
    return [index, *filter(None, found)]


def _parts(index: Path) -> list[str]:
    """The names of the files in an index. DataError where it is none, or names what is no file of weights beside it.

    A name as `../../.ssh/id_rsa` would make a file of this machine a part of the model.
    """
    try:
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        wrong = [name for name in parts if Path(name).name != name or not name.endswith(".safetensors")]
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise DataError(f"{index} is no index of weights", "fetch the checkpoint again") from None
    if wrong:
        raise DataError(f"{index} names {wrong[0]}, which is no file of weights beside it", "use another model")
    return parts


def header(paths: Sequence[Path]) -> Header:
    """Type and shape of every tensor in these files. Raises DataError for one that is damaged."""
    tensors: Header = {}
    for path in paths:
        if path.suffix != ".safetensors":
            continue
        try:
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                entries = json.loads(file.read(size) if size <= HEADER else "")
            tensors |= {
                name: (entry["dtype"], tuple(entry["shape"]))
                for name, entry in entries.items()
                if name != "__metadata__"
            }
        except (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise DataError(f"{path} is no file in safetensors' format", "fetch the checkpoint again") from None
    return tensors


def dtype(tensors: Header) -> torch.dtype:
    """The type in which to save a model that was trained from these weights: bf16 if most are, else fp32.

    Not fp16: what was learnt in fp32 may exceed its range.
    """
    sizes: Counter[str] = Counter()
    for kind, shape in tensors.values():
        sizes[kind] += prod(shape)
    return torch.bfloat16 if sizes and sizes.most_common(1)[0][0] == "BF16" else torch.float32


def link(source: Path, target: Path) -> None:
    """Make `target` a symbolic link to the file: to read it from another folder for a while."""
    target.symlink_to(source.resolve())


def copy(source: Path, target: Path) -> None:
    """Copy a file. Where the file system can (btrfs, XFS), both share the blocks until one is changed.

    No hard link: an edit of the checkpoint in place would change the output, and DVC's record of it would be wrong.
    """
    if not hasattr(os, "copy_file_range"):
        shutil.copyfile(source, target)
        return
    with source.open("rb") as read, target.open("wb") as write:
        left = os.fstat(read.fileno()).st_size
        try:
            while left and (copied := os.copy_file_range(read.fileno(), write.fileno(), left)):
                left -= copied
        except OSError:  # some file systems refuse; the copy goes on where this stopped
            shutil.copyfileobj(read, write)
