"""Data sets of the Hugging Face hub, or local copies of them, through `datasets`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pretune.config.source_spec import HubDataset
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError, did_you_mean

SPLIT_NAMES = {"train": "train", "validation": "validation", "dev": "validation", "valid": "validation", "test": "test"}


def read(dataset: HubDataset, folder: Path | None) -> list[tuple[str | None, Callable[[], Records]]]:
    """(split, records) of each split. Rows are streamed, because a cache could return old ones.

    `folder` holds a local copy. Raises DataError where the data set does not exist or has no such split.
    """
    if folder is None:
        os.environ |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    try:
        import datasets
    except ImportError:
        raise DataError(f"ingest.source: {dataset} needs the package datasets", "pip install 'pretune[hub]'") from None
    datasets.disable_progress_bars()
    splits: dict[str, Any] = {}
    try:
        splits = datasets.load_dataset(
            str(folder or dataset.name), dataset.config, revision=dataset.revision, streaming=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"ingest.source: {dataset}: {error}", "correct ingest.source, then: pretune run") from None
    if dataset.split is None:
        return [
            (SPLIT_NAMES.get(split), partial(_records, dataset.name, split, splits[split])) for split in sorted(splits)
        ]
    if dataset.split not in splits:
        raise DataError(f"ingest.source: {dataset} has no split {dataset.split}{did_you_mean(dataset.split, splits)}")
    return [(None, partial(_records, dataset.name, dataset.split, splits[dataset.split]))]


def _records(name: str, split: str, rows: Any) -> Records:
    import datasets

    classes = {}
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.ClassLabel):
            classes[column] = feature.names
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))  # as bytes
    try:
        for number, values in enumerate(rows, start=1):
            labels = {key: names[values[key]] for key, names in classes.items() if (values[key] or 0) >= 0}
            yield Record(f"{Path(name).name}/{split}:{number}", values | labels)
    except Exception as error:  # of the network, of a file system or of a format
        raise DataError(
            f"ingest.source: {name}, {split}: reading failed ({type(error).__name__}: {error})",
            "pretune run   (tries again)",
        ) from None
