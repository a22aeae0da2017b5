"""Data sets of the Hugging Face hub, local copies of them, and folders of `save_to_disk`, through `datasets`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pretune.config.source_spec import HubDataset
from pretune.data.ingest.sources import columnar
from pretune.data.ingest.sources.record import Records
from pretune.errors import DataError, did_you_mean

SPLIT_NAMES = {"train": "train", "validation": "validation", "dev": "validation", "valid": "validation", "test": "test"}

Splits = list[tuple[str | None, Callable[[], Records]]]


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder: a Dataset, or a DatasetDict."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def read(dataset: HubDataset, folder: Path | None) -> Splits:
    """(split, records) of each split. Rows are streamed, because a cache could return old ones.

    `folder` holds a local copy, or what `save_to_disk` wrote. A Dataset that was saved alone has no split. Raises
    DataError where the data set does not exist or has no such split.
    """
    if folder is None:
        os.environ |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    import datasets

    datasets.disable_progress_bars()
    try:
        splits = _saved(dataset, folder) if folder and is_saved(folder) else _streamed(dataset, folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"ingest.source: {dataset}: {error}", "correct ingest.source, then: pretune run") from None
    if isinstance(splits, datasets.Dataset):
        splits = {"": splits}
    if dataset.split is None:
        return [
            (
                SPLIT_NAMES.get(split),
                partial(_records, dataset.name, split, splits[split], warning=_doubt(split)),
            )
            for split in sorted(splits)
        ]
    if dataset.split not in splits:
        raise DataError(f"ingest.source: {dataset} has no split {dataset.split}{did_you_mean(dataset.split, splits)}")
    return [(None, partial(_records, dataset.name, dataset.split, splits[dataset.split]))]


def _streamed(dataset: HubDataset, folder: Path | None) -> Mapping[str, Any]:
    """{split: rows}. Raises DataError for files of Arrow that are truncated.

    `datasets` makes locks in its cache even where it does not use it: this one is temporary.
    """
    import datasets

    for path in sorted(folder.rglob("*.arrow")) if folder else []:
        columnar.check_stream(path)
    with tempfile.TemporaryDirectory() as cache:
        found: Mapping[str, Any] = datasets.load_dataset(
            str(folder or dataset.name), dataset.config, revision=dataset.revision, streaming=True, cache_dir=cache
        )
    return found


def _saved(dataset: HubDataset, folder: Path) -> Any:
    """A Dataset or DatasetDict, mapped into memory. Raises DataError for files that are truncated."""
    import datasets

    if dataset.config is not None:
        raise DataError(f"ingest.source: {dataset} was written by save_to_disk, which has no config", "remove config")
    saved = datasets.load_from_disk(str(folder))
    parts = [saved] if isinstance(saved, datasets.Dataset) else saved.values()
    for path in sorted(file["filename"] for part in parts for file in part.cache_files):
        columnar.check_stream(Path(path))
    return saved


def _doubt(split: str) -> str:
    """A warning for a split of another name, whose rows are divided like those of a data set without splits."""
    if not split or split in SPLIT_NAMES:
        return ""
    return (
        f"the split {split} is none of train, validation, test: its rows are divided anew; split: NAME reads one only"
    )


def _records(name: str, split: str, rows: Any, warning: str = "") -> Records:
    label = "/".join(filter(None, [Path(name).name, split]))
    try:
        for record in columnar.records(label, _batches(rows), dict(rows.features or {})):
            yield replace(record, warning=warning) if warning else record
            warning = ""
    except DataError:
        raise
    except Exception as error:  # of the network, of a file system or of a format
        raise DataError(
            f"ingest.source: {name}{', ' * bool(split)}{split}: reading failed ({type(error).__name__}: {error})",
            "pretune run   (tries again)",
        ) from None


def _batches(rows: Any) -> Iterator[Any]:
    """The rows as tables of Arrow, the images of a folder in them."""
    import datasets
    from datasets.table import embed_table_storage

    tables = rows.with_format("arrow").iter(columnar.BATCH)
    in_files = isinstance(rows, datasets.IterableDataset) and rows.info.builder_name == "imagefolder"
    return map(embed_table_storage, tables) if in_files else tables
