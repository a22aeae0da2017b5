"""Data sets by name, through `datasets`: `hub:NAME?config=C&revision=R&split=S`, or a local copy of one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError, did_you_mean

KEYS = ("config", "revision", "split")
SPLIT_NAMES = {"train": "train", "validation": "validation", "dev": "validation", "valid": "validation", "test": "test"}
COMMIT = re.compile(r"[0-9a-f]{40}")


def read(place: str, folder: Path | None) -> list[tuple[str | None, Callable[[], Records]]]:
    """(split, records) for each split; rows are streamed, so that no cache can answer with old ones.

    `folder` is where a local copy lies. Raises DataError for what is not pinned or not there.
    """
    name, options = _taken_apart(place, pinned=folder is None)
    if folder is None:
        os.environ |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    try:
        import datasets
    except ImportError:
        raise DataError(f"ingest.source: {place} needs the package datasets", "pip install 'pretune[hub]'") from None
    datasets.disable_progress_bars()
    found: dict[str, Any] = {}
    try:
        found = datasets.load_dataset(
            str(folder or name), options.get("config"), revision=options.get("revision"), streaming=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"ingest.source: {place}: {error}", "mend ingest.source, then: pretune run") from None
    wanted = [options["split"]] if "split" in options else sorted(found)
    missing = [split for split in wanted if split not in found]
    if missing:
        raise DataError(f"ingest.source: {place} has no split {missing[0]}{did_you_mean(missing[0], found)}")
    return [
        (
            None if "split" in options else SPLIT_NAMES.get(split),
            partial(_records, name, split, found[split]),
        )
        for split in wanted
    ]


def _taken_apart(place: str, *, pinned: bool) -> tuple[str, dict[str, str]]:
    name, _, query = place.removeprefix("hub:").partition("?")
    options = dict(parse_qsl(query))
    problems = [f"ingest.source: {place}: {key}{did_you_mean(key, KEYS)}" for key in options if key not in KEYS]
    steps = [f"the keys after `?` are {', '.join(KEYS)}"] if problems else []
    if pinned and not COMMIT.fullmatch(options.get("revision", "")):
        problems.append(f"ingest.source: {place}: a data set of the hub needs revision=COMMIT, 40 hexadecimal digits")
        steps.append("copy the commit from the data set's page under `Files and versions`")
    if problems:
        raise DataError(problems, "; ".join(steps))
    return name, options


def _records(name: str, split: str, rows: Any) -> Records:
    import datasets

    classes = {}
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.ClassLabel):
            classes[column] = feature.names
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))  # bytes: we open images ourselves
    try:
        for number, values in enumerate(rows, start=1):
            named = {key: names[values[key]] for key, names in classes.items() if (values[key] or 0) >= 0}
            yield Record(f"{Path(name).name}/{split}:{number}", values | named)
    except Exception as error:  # of the network, of the file system behind it, of a format
        raise DataError(
            f"ingest.source: {name}, {split}: broke off ({type(error).__name__}: {error})", "pretune run   (once more)"
        ) from None
