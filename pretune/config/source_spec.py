"""The grammar of `ingest.source`: which places are read, for which split, and for which column."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pretune.errors import did_you_mean

BUILT_IN = ("pydocs", "digits")
SPLITS = ("train", "validation", "test", "corpus")  # `corpus`: for pretraining only
SPLIT_ALIASES = {"dev": "validation", "valid": "validation", "val": "validation"}  # in columns of tables
SQLITE = "sqlite:///"
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
REMOTE = ("http://", "https://", "s3://", "gs://", "az://", "hf://")
TEMPERATURE = "temperature"  # of a mixture, beside its parts
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # of a part of a mixture, which names metrics
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face hub at a commit, or a local copy of one, which `name` then gives the path of."""

    name: str
    config: str | None = None
    revision: str | None = None
    split: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether `name` is a path: `./copy`, `../copy` or `/copy`."""
        return self.name.startswith(("./", "../", "/"))

    def __str__(self) -> str:
        return f"hub data set {self.name}"


Place = str | HubDataset


@dataclass(frozen=True)
class Part:
    """Places that are read one after the other, or in parallel: `aligned`, as (column, place).

    `split` is None where `prepare` assigns the rows to splits. name, weight: of the part of a mixture, "" and 0 where
    the source is none; the weight is 0 also where the mixture has a temperature.
    """

    split: str | None
    places: tuple[Place, ...] = ()
    aligned: tuple[tuple[str, str], ...] = ()
    name: str = ""
    weight: float = 0.0

    @property
    def all_places(self) -> tuple[Place, ...]:
        """Every place of the part."""
        return self.places or tuple(place for _, place in self.aligned)


def parts(source: Any) -> list[Part]:
    """Parse `ingest.source`: a place, a list of places, {column: place}, {split: any of these}, or a mixture.

    A mixture is {name: {path: any of the others, weight: a number}}, or {temperature: a number, name: {path: …}}. A
    place is a string, or {type: hub, name: NAME, …} for a data set of the hub. Raises ValueError for anything else.
    """
    if isinstance(source, dict) and any(isinstance(value, dict) and "path" in value for value in source.values()):
        weighted = TEMPERATURE not in source
        return _collected(source.items(), lambda name, value: _mixed(name, value, weighted=weighted))
    by_split = isinstance(source, dict) and source and set(source) <= set(SPLITS)
    return _collected(source.items() if by_split else [(None, source)], lambda split, value: [_part(split, value)])


def weights(source: Any) -> dict[str, float]:
    """{name: weight} of the parts of a mixture, 0 where a temperature is in their place; {} for any other source."""
    return {part.name: part.weight for part in parts(source) if part.name}


def temperature(source: Any) -> float | None:
    """That of a mixture whose weights follow from the sizes of its parts; None of any other source."""
    return float(source[TEMPERATURE]) if any(weight == 0 for weight in weights(source).values()) else None


def for_pretraining(source: Any) -> list[str]:
    """The parts of a mixture all of whose texts are of the split `corpus`."""
    labelled = {part.name for part in parts(source) if part.split != "corpus"}
    return [name for name in weights(source) if name not in labelled]


def _collected(items: Iterable[tuple[Any, Any]], parse: Callable[[Any, Any], list[Part]]) -> list[Part]:
    """The parts of all items. Raises ValueError with every problem."""
    parsed, problems = list[Part](), []
    for key, value in items:
        try:
            parsed += parse(key, value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    return parsed


def _mixed(name: Any, value: Any, *, weighted: bool) -> list[Part]:
    """The parts of one entry of a mixture: {path, weight}; {path} or the temperature itself if it is not `weighted`."""
    if name == TEMPERATURE:
        if not _is_number(value) or not 1 <= value < math.inf:
            raise ValueError(f"{TEMPERATURE}: that of a mixture is a number of 1 or more, got {value!r}")
        return []
    form = "{path: source, weight: number}" if weighted else f"{{path: source}} where the mixture has a {TEMPERATURE}"
    if not isinstance(value, dict) or set(value) != ({"path", "weight"} if weighted else {"path"}):
        raise ValueError(f"{name}: a part of a mixture is {form}, got {value!r}")
    if not NAME.fullmatch(str(name)) or name in SPLITS:
        raise ValueError(f"{name}: the name of a part is a word other than {', '.join(SPLITS)}")
    weight = value.get("weight", 0)
    if weighted and (not _is_number(weight) or not 0 < weight < math.inf):
        raise ValueError(f"{name}: a weight is a number above 0, got {weight!r}")
    inner = parts(value["path"])
    if any(part.name for part in inner):
        raise ValueError(f"{name}: a mixture in a mixture")
    return [replace(part, name=str(name), weight=float(weight)) for part in inner]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _part(split: str | None, source: Any) -> Part:
    if _is_place(source):
        return Part(split, places=(_place(source),))
    if isinstance(source, list) and source and all(_is_place(place) for place in source):
        return Part(split, places=tuple(_place(place) for place in source))
    if isinstance(source, dict) and source and all(isinstance(place, str) and place for place in source.values()):
        return Part(split, aligned=tuple((str(column), place) for column, place in source.items()))
    raise ValueError(
        "a source is a place (file, folder, glob or address, or {type: hub, name: NAME, revision: COMMIT}), a list of "
        "places, {column: place} for files that are read in parallel, {split: source} with the splits "
        f"{', '.join(SPLITS)}, or a mixture {{name: {{path: source, weight: number}}}}, got {source!r}"
    )


def _is_place(value: Any) -> bool:
    return bool(value) and (isinstance(value, str) or (isinstance(value, dict) and "type" in value))


def _place(value: str | Mapping[str, Any]) -> Place:
    """A string as it is, a mapping as a HubDataset. Raises ValueError with all that is wrong in the mapping."""
    if isinstance(value, str):
        if value.startswith("hub:"):
            raise ValueError(f"{value}: write a data set of the hub as {{type: hub, name: NAME, revision: COMMIT}}")
        return value
    allowed = [field.name for field in fields(HubDataset)]
    keys = {str(key): text for key, text in value.items() if key != "type"}
    problems = [] if value["type"] == "hub" else [f"the type of a source is hub, got {value['type']!r}"]
    problems += [f"unknown key {key}{did_you_mean(key, allowed)}" for key in keys if key not in allowed]
    problems += [
        f"{key} is a text, got {text!r}" for key, text in keys.items() if not isinstance(text, str) or not text
    ]
    dataset = HubDataset(**{"name": ""} | {key: text for key, text in keys.items() if key in allowed})
    if "name" not in keys:
        problems.append("a data set of the hub needs a name")
    elif not problems and not dataset.is_local and not COMMIT.fullmatch(dataset.revision or ""):
        problems.append(
            "a data set of the hub needs revision: COMMIT of 40 hexadecimal digits, "
            "which its page shows under `Files and versions`"
        )
    if problems:
        raise ValueError(f"{dict(value)}: {'; '.join(problems)}")
    return dataset


def scheme(place: Place) -> str:
    """The kind of a place: `built-in`, `hub`, `sql`, `remote` or `local`."""
    if isinstance(place, HubDataset):
        return "hub"
    if place in BUILT_IN:
        return "built-in"
    if place.startswith(REMOTE):
        return "remote"
    return "sql" if "://" in place else "local"


def local_paths(source: Any, root: Path) -> Iterator[str]:
    """The paths in the workspace `root` that dvc.yaml has to list under `deps`.

    Files, folders, and the part of a glob before its pattern; a path that exists is no glob, whatever is in its name.
    """
    for part in parts(source):
        for place in part.all_places:
            if path := local_path(place):
                yield str(place).rstrip("/") if scheme(place) == "local" and (root / str(place)).exists() else path


def local_path(place: Place) -> str | None:
    """The file or folder that a place is read from; None where it is not on this machine."""
    if isinstance(place, HubDataset):
        return place.name if place.is_local else None
    if place.startswith(SQLITE):
        return place.removeprefix(SQLITE).partition("#")[0]
    return fixed_prefix(place) if scheme(place) == "local" else None


def fixed_prefix(place: str) -> str:
    """The part of a path before its first pattern, or up to an archive: `a/b` of `a/b/*.csv`, `a.zip` of `a.zip/b`."""
    names: list[str] = []
    for name in place.rstrip("/").split("/"):
        if any(wildcard in name for wildcard in "*?["):
            break
        names.append(name)
        if name.lower().endswith(ARCHIVES):
            break
    return "/".join(names) or "."
