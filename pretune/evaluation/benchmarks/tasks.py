"""The tasks that `evaluate.benchmarks` names: files of the workspace, which run no code, and those of the harness.

Everything here is checked before any stage works: neither torch nor the harness is imported.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import YAMLError

from pretune.errors import DataError, ParamsError, PretuneError, WorkspaceError, did_you_mean

DOWNLOAD = "PRETUNE_DOWNLOAD"  # 1 allows fetching the data of the harness's own tasks
PACKAGE = "lm_eval"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
READERS = ("json", "csv", "parquet", "text")  # of datasets: they need no network and run no code of the data
REQUIRED = ("task", "dataset_path", "dataset_kwargs", "output_type", "doc_to_text", "doc_to_target")
KEYS = {
    *REQUIRED, "task_alias", "tag", "training_split", "validation_split", "test_split", "fewshot_split",
    "doc_to_choice", "description", "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot",
    "metric_list", "generation_kwargs", "filter_list", "gen_prefix", "metadata",
}  # fmt: skip
OUTPUTS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
METRICS = {  # of the harness; under another name it would fetch a metric, which is code
    "acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "bleu", "brier_score",
    "byte_perplexity", "chrf", "chrf++", "exact_match", "f1", "likelihood", "mcc", "perplexity", "ter",
    "word_perplexity",
}  # fmt: skip
AGGREGATIONS = {
    "bits_per_byte", "bleu", "brier_score", "chrf", "chrf++", "f1", "matthews_corrcoef", "mean", "median", "nanmean",
    "perplexity", "ter", "weighted_perplexity",
}  # fmt: skip
NEXT = "correct evaluate.benchmarks or the file (docs/evaluation.md), then run again"

FETCH = f"{DOWNLOAD}=1 pretune run   (with network, once: the data stay), or name files of the workspace"


def is_file(name: str) -> bool:
    """Whether a benchmark is a file of the workspace, not the name of one of the harness's tasks."""
    return name.endswith((".yaml", ".yml"))


def check(names: Sequence[str], root: Path, declared: Iterable[str]) -> None:
    """Raise the error of benchmarks that cannot run, with all that is wrong.

    declared: the deps of the stage evaluate, which have to name each file and its data.
    """
    check_environment(names)
    errors, deps = [], set(declared)
    for name in filter(is_file, names):
        try:
            paths = [name, *data_files(read(root / name, name))]
        except PretuneError as error:
            errors += error.problems
            continue
        errors += [f"{name} names {path}: no such file" for path in paths[1:] if not (root / path).is_file()]
        missing = [path for path in paths if not deps & {path, *map(str, Path(path).parents)}]
        errors += [f"{path} is not in dvc.yaml: pretune data declare '{path}' --stage evaluate" for path in missing]
    if errors:
        raise DataError(errors, NEXT)


def check_environment(names: Sequence[str]) -> None:
    """Raise the error if the harness is not installed, or the data of its own tasks may not be fetched."""
    if names and find_spec(PACKAGE) is None:
        raise WorkspaceError("evaluate.benchmarks needs the package lm-eval", "pip install 'pretune[lm-eval]'")
    hub = [name for name in names if not is_file(name)]
    if hub and os.environ.get(DOWNLOAD) != "1":
        raise ParamsError(
            [f"evaluate.benchmarks: {name} is a task of the harness, whose data come from the hub" for name in hub],
            FETCH,
        )


def fetch(names: Sequence[str], start: Callable[..., Any]) -> None:
    """Fetch the data of the harness's own tasks; DataError for those that are unknown or out of reach.

    start: starts a module as a process, for the harness takes seconds to import.
    """
    hub = [name for name in names if not is_file(name)]
    if not hub:
        return
    with start("pretune.evaluation.benchmarks.harness", *hub) as child:
        output = child.stdout.read()
    if child.returncode:
        raise SystemExit(output)
    problems, next_step = json.loads(output.splitlines()[-1])  # others are the harness's own
    if problems:
        raise DataError(problems, next_step)


def paths(names: Sequence[str], root: Path) -> list[str]:
    """The files of the workspace that benchmarks read: those of tasks, and of their data if they can be read."""
    found = []
    for name in filter(is_file, names):
        with suppress(PretuneError):
            found += [name]
            found += data_files(read(root / name, name))
    return list(dict.fromkeys(found))


def read(path: Path, name: str) -> dict[str, Any]:
    """The task in a file; DataError with everything that is refused. name: the file's, in messages."""
    try:
        task = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: {getattr(error, 'strerror', None) or 'not UTF-8'}", NEXT) from None
    except ConstructorError as error:  # of a tag, as `!function`
        raise DataError(f"{name}: {error.problem}: such tags would run code, which is never done", NEXT) from None
    except YAMLError as error:
        raise DataError(f"{name}: {' '.join(str(error).split())}", NEXT) from None
    if not isinstance(task, dict):
        raise DataError(f"{name}: not a task of lm-evaluation-harness", NEXT)
    if errors := [f"{name}: {error}" for error in _problems(task)]:
        raise DataError(errors, NEXT)
    return task


def data_files(task: dict[str, Any]) -> list[str]:
    """The files, relative to the workspace, that a task reads."""
    by_split = task["dataset_kwargs"]["data_files"]
    groups = by_split.values() if isinstance(by_split, dict) else [by_split]
    return [path for group in groups for path in ([group] if isinstance(group, str) else group)]


def _problems(task: dict[str, Any]) -> list[str]:
    """What is refused in a task, one line each."""
    errors = [f"{key} is missing" for key in REQUIRED if key not in task]
    errors += [
        f"{key} is not allowed: it can run code, or does not apply here{did_you_mean(str(key), KEYS)}"
        for key in task
        if key not in KEYS
    ]
    if errors:
        return errors
    if not NAME.fullmatch(str(task["task"])):
        errors.append(f"task `{task['task']}`: letters, digits, `_`, `.` and `-` only")
    if task["dataset_path"] not in READERS:
        errors.append(f"dataset_path {task['dataset_path']}: a file of the workspace is read by {', '.join(READERS)}")
    if task["output_type"] not in OUTPUTS:
        errors.append(f"output_type {task['output_type']}: one of {', '.join(OUTPUTS)}")
    return errors + _data_problems(task["dataset_kwargs"]) + _scoring_problems(task)


def _data_problems(options: Any) -> list[str]:
    if not isinstance(options, dict) or set(options) != {"data_files"}:
        return ["dataset_kwargs: `data_files` and nothing else (trust_remote_code would run code)"]
    paths = data_files({"dataset_kwargs": options})
    return [
        f"data_files: {path} is not a path within the workspace"
        for path in paths
        if not isinstance(path, str) or "://" in path or "*" in path or Path(path).is_absolute() or ".." in path
    ]


def _scoring_problems(task: dict[str, Any]) -> list[str]:
    errors = []
    for entry in task.get("metric_list") or []:
        metric, aggregation = entry.get("metric"), entry.get("aggregation", "mean")
        if metric not in METRICS or entry.get("hf_evaluate"):
            errors.append(f"metric {metric} is not the harness's own, but code to fetch{did_you_mean(metric, METRICS)}")
        if aggregation not in AGGREGATIONS:
            errors.append(f"aggregation {aggregation}{did_you_mean(aggregation, AGGREGATIONS)}")
    return errors
