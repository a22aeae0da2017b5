"""The name of a pipeline run in MLflow and Prefect: what changed, its data set and its model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pretune.config import source_spec
from pretune.config.files import write_atomically
from pretune.lineage.code_folders import CODE
from pretune.lineage.plan import Decision

if TYPE_CHECKING:
    from pretune.config.params import Params

MAX_CHANGES = 4  # in a name; the others are counted
GENERIC = {"train", "test", "validation", "valid", "dev", "data", "corpus"}  # file names that do not name a data set
LAST = "last-params.json"  # in the state folder: the params of the last run of the workspace


def run_name(params: Params, changes: list[str]) -> str:
    """As `seed=1 finetune.learning_rate=3e-4 · pydocs modernbert`. Lists cut names, so the changes come first."""
    more = [f"and {len(changes) - MAX_CHANGES} more"] if len(changes) > MAX_CHANGES else []
    subject = f"{data_name(params.ingest.source)} {model_name(params)}"
    return " · ".join([*([" ".join([*changes[:MAX_CHANGES], *more])] if changes else []), subject])


def data_name(source: Any) -> str:
    """A short name for `ingest.source`: its file without suffixes, or its folder if the file has a generic name."""
    place = source_spec.parts(source)[0].all_places[0]
    if place in source_spec.BUILT_IN:
        return place
    if isinstance(place, source_spec.HubDataset):
        return PurePosixPath(place.name).name
    path = PurePosixPath(
        source_spec.fixed_prefix(place.partition("#")[0].partition("?")[0].partition("://")[2] or place)
    )
    stem = path.name.split(".")[0]
    return path.parent.name if stem in GENERIC and path.parent.name else stem or place


def model_name(params: Params) -> str:
    """The name of the checkpoint in `model.init`, else the model's type."""
    checkpoint = params.model.init
    return PurePosixPath(checkpoint.partition("@")[0]).name if checkpoint else params.model.type


def changed_params(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """KEY=VALUE of each parameter that changed; both are flat, by dotted name."""
    return [f"{key}={_short(value)}" for key, value in new.items() if old.get(key) != value]


def changed_inputs(plan: Iterable[Decision], outs: set[str]) -> list[str]:
    """`code` and `data`, if stages run again because they changed. outs: paths that stages write."""
    paths = [reason.partition(": ")[0] for decision in plan for reason in decision.reasons]
    code = any(path.startswith(CODE) for path in paths)
    data = any(Path(path).suffix or "/" in path for path in paths if not path.startswith((*CODE, "params ", *outs)))
    return [*(["code"] if code else []), *(["data"] if data else [])]


def last_params(state: Path) -> dict[str, Any]:
    """The flat params of the workspace's last run; {} before the first."""
    path = state / LAST
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def remember_params(state: Path, params: Mapping[str, Any]) -> None:
    """Store the flat params for the name of the next run."""
    write_atomically(state / LAST, json.dumps(dict(params)))


def _short(value: Any) -> str:
    """A value as text; numbers in their shorter form: 0.0003 as 3e-4."""
    if not isinstance(value, float):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    digits, _, exponent = f"{value:e}".partition("e")
    scientific = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return min(repr(value), scientific, key=len)
