"""Benchmarks of lm-evaluation-harness: decoders on the same samples, with intervals and paired differences."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import evaluate as hub_metrics
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval import evaluator, utils
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager

from pretune.errors import DataError, PretuneError, did_you_mean
from pretune.evaluation.benchmarks import tasks
from pretune.evaluation.benchmarks.decoder import Decoder
from pretune.evaluation.metrics.bootstrap import Bootstrap, Metric, Values, Weights

if TYPE_CHECKING:
    from pretune.config.params import EvaluateParams

NO_FILTER = "none"  # of answers, where a task names none
KEPT = ("doc_id", "filter", "doc_hash", "target", "arguments", "resps", "filtered_resps")
Sample = dict[str, Any]  # as the harness logs it


def run(
    names: Sequence[str],
    resolve: Callable[[str], Path],
    models: Mapping[str, Callable[[], Decoder]],
    params: EvaluateParams,
    seed: int,
    *,
    chats: bool,
) -> tuple[dict[str, Any], dict[str, str], dict[str, int]]:
    """Ask all models, the evaluated one first; one is in memory at a time.

    resolve: to the place of a file; models: functions that load them; chats: questions are put in the chat template.
    Returns {TASK/METRIC: samples, whether higher is better, each model's estimate, gain over each of the others},
    {file: samples as JSON lines}, and how many requests to each model were cut.
    """
    with _loaded(names, resolve) as loaded:
        answered, cut = {}, {}
        for model, load in models.items():
            decoder = load()
            answered[model], cut[model] = _ask(decoder, loaded, chats=chats), decoder.cut
        results = {
            key: value
            for name, task in loaded["tasks"].items()
            for key, value in _compare(name, task, {m: answered[m][name] for m in models}, params, seed).items()
        }
        results |= _groups(loaded, answered, params, seed)
        files = {
            f"{name}.jsonl": "".join(_line(model, sample) for model in models for sample in answered[model][name])
            for name in loaded["tasks"]
        }
    return results, files, cut


def problems(names: Sequence[str]) -> tuple[list[str], str]:
    """Load tasks of the harness, which fetches their data. Why some cannot be asked, one line each; the next step."""
    found, next_step = [], ""
    for name in names:
        try:
            with _loaded([name], Path):
                pass
        except PretuneError as error:
            text = "evaluate.benchmarks: "
            found += [f"{text}{name}: {problem.removeprefix(text)}" for problem in error.problems]
            next_step = next_step or error.next_step
    return found, next_step


@contextmanager
def _loaded(names: Sequence[str], resolve: Callable[[str], Path]) -> Iterator[dict[str, Any]]:
    """The tasks with their data, as the harness loads them. Their templates run in Jinja's sandbox."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    before, sandbox = (
        utils.env,
        ImmutableSandboxedEnvironment(
            loader=utils.env.loader, undefined=utils.env.undefined, keep_trailing_newline=True
        ),
    )
    sandbox.filters |= utils.env.filters
    load, hub_metrics.load = hub_metrics.load, _refuse
    utils.env = sandbox
    try:
        with tempfile.TemporaryDirectory() as cache:
            known = TaskManager(include_defaults=not all(map(tasks.is_file, names)))
            found = [_local(name, resolve, cache) if tasks.is_file(name) else _named(known, name) for name in names]
            loaded = dict(_told("evaluate.benchmarks", lambda: known.load(found)))
            if unsafe := [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]:
                raise DataError(f"{', '.join(unsafe)}: runs generated code, which is never done", tasks.NEXT)
            yield loaded
    finally:
        utils.env, hub_metrics.load = before, load


def _refuse(name: str, *_: Any, **__: Any) -> None:
    raise DataError(f"metric {name} is code to fetch, which is never run", tasks.NEXT)


def _local(name: str, resolve: Callable[[str], Path], cache: str) -> Any:
    task = tasks.read(resolve(name), name)
    by_split = task["dataset_kwargs"]["data_files"]
    places = {path: str(resolve(path).absolute()) for path in tasks.data_files(task)}
    task["dataset_kwargs"] = {"data_files": _replaced(by_split, places), "cache_dir": cache}
    return _told(name, lambda: ConfigurableTask(config=task))


def _replaced(paths: Any, places: Mapping[str, str]) -> Any:
    if isinstance(paths, dict):
        return {split: _replaced(part, places) for split, part in paths.items()}
    return places[paths] if isinstance(paths, str) else [places[path] for path in paths]


def _named(known: TaskManager, name: str) -> str:
    if name not in known.task_index:
        raise DataError(
            f"evaluate.benchmarks: the harness has no task {name}{did_you_mean(name, known.all_tasks)}", tasks.NEXT
        )
    return name


def _told(name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; its errors become messages: tasks fail in many ways."""
    try:
        return make()
    except PretuneError:
        raise
    except ConnectionError as error:
        raise DataError(f"{name}: {' '.join(str(error).split())}", tasks.FETCH) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: {type(error).__name__}: {reason}", tasks.NEXT) from error


def _ask(decoder: Decoder, loaded: Mapping[str, Any], *, chats: bool) -> dict[str, list[Sample]]:
    """The samples of each task, in the order of its rows."""
    for task in loaded["tasks"].values():
        task.set_config("num_fewshot", task.get_config("num_fewshot") or 0)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)  # the harness's own: the examples of published results
    options = {"bootstrap_iters": 0, "apply_chat_template": chats, "fewshot_as_multiturn": chats}
    found = _told("evaluate.benchmarks", lambda: evaluator.evaluate(lm=decoder, task_dict=dict(loaded), **options))
    return {name: list(samples) for name, samples in found["samples"].items()}


def _compare(
    name: str, task: Any, answered: Mapping[str, list[Sample]], params: EvaluateParams, seed: int
) -> dict[str, dict[str, Any]]:
    """{TASK/METRIC: its estimates}; of a metric of filtered answers TASK/METRIC/FILTER."""
    aggregations, higher = task.aggregation(), task.higher_is_better()
    evaluated = next(iter(answered))
    results = {}
    for filter_name in dict.fromkeys(sample["filter"] for sample in answered[evaluated]):
        by_model = {m: [s for s in samples if s["filter"] == filter_name] for m, samples in answered.items()}
        bootstrap = Bootstrap(len(by_model[evaluated]), params.bootstrap_samples, params.confidence, seed)
        for metric in by_model[evaluated][0]["metrics"]:
            if metric not in aggregations:
                continue
            metrics = {
                model: Metric(_measure([s[metric] for s in samples], aggregations[metric]), higher.get(metric, True))
                for model, samples in by_model.items()
            }
            key = f"{name}/{metric}" if filter_name == NO_FILTER else f"{name}/{metric}/{filter_name}"
            results[key] = _estimates(metrics, bootstrap)
    return results


def _groups(
    loaded: Mapping[str, Any], answered: Mapping[str, Mapping[str, list[Sample]]], params: EvaluateParams, seed: int
) -> dict[str, dict[str, Any]]:
    """{GROUP/METRIC: its estimates} over the samples of all tasks of a group, for means that weigh tasks by size."""
    results: dict[str, dict[str, Any]] = {}
    for group in loaded["groups"].values():
        metrics = {entry.metric for entry in group.aggregate_metric_list or [] if entry.weight_by_size}
        members = group.get_all_tasks()
        pooled = {model: [s for task in members for s in own[task.task_name]] for model, own in answered.items()}
        found = _compare(group.name, members[0], pooled, params, seed) if metrics else {}
        results |= {key: value for key, value in found.items() if key.split("/")[1] in metrics}
    return results


def _estimates(metrics: Mapping[str, Metric], bootstrap: Bootstrap) -> dict[str, Any]:
    own, *others = metrics
    estimates = bootstrap.estimates({model: metric.measure for model, metric in metrics.items()})
    gains = {
        other: bootstrap.difference(metrics[own].measure, metrics[other].measure, sign=metrics[own].sign)
        for other in others
    }
    return {
        "samples": bootstrap.rows,
        "higher_is_better": metrics[own].higher,
        **{model: estimate.as_dict() for model, estimate in estimates.items()},
        "gain": {other: gain.as_dict() for other, gain in gains.items()},
    }


def _measure(items: Sequence[Any], aggregate: Callable[[list[Any]], float]) -> Callable[[Weights], Values]:
    """The harness's aggregation of the samples, each as often as it was drawn."""
    if aggregate is mean:
        values = np.array(items, dtype=np.float64)
        return lambda weights: (weights @ values) / weights.sum(axis=1)

    def measure(weights: Weights) -> Values:
        draws = (np.repeat(np.arange(len(items)), row.astype(int)) for row in weights)
        return np.array([aggregate([items[index] for index in draw.tolist()]) for draw in draws], dtype=np.float64)

    return measure


def _line(model: str, sample: Sample) -> str:
    kept = {"model": model} | {name: sample[name] for name in KEPT} | {name: sample[name] for name in sample["metrics"]}
    return json.dumps(kept, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """A value of numpy, or a set, as JSON has it."""
    return sorted(value) if isinstance(value, set | frozenset) else value.tolist()


def main(names: list[str]) -> int:
    """Print `problems` of these tasks as JSON."""
    print(json.dumps(problems(names)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
