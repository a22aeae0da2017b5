"""What `ingest.source` may say: which files, for which split, side by side for which column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BUILT_IN = ("pydocs", "digits")
SPLITS = ("train", "validation", "test", "corpus")  # `corpus`: for pretraining only
SQLITE = "sqlite:///"
REMOTE = ("http://", "https://", "s3://", "gs://", "az://", "hf://")


@dataclass(frozen=True)
class Part:
    """Places that are read one after the other, or, `aligned`, side by side: {column: place}.

    `split` is None where rows are to be divided by `prepare`.
    """

    split: str | None
    places: tuple[str, ...] = ()
    aligned: tuple[tuple[str, str], ...] = ()

    @property
    def all_places(self) -> tuple[str, ...]:
        """Every place that is named."""
        return self.places or tuple(place for _, place in self.aligned)


def parts(source: Any) -> list[Part]:
    """Take `ingest.source` apart. Raises ValueError where it is of no known shape.

    A place, a list of places, {column: place}, or {split: any of these}.
    """
    if isinstance(source, dict) and source and set(source) <= set(SPLITS):
        return [_part(split, value) for split, value in source.items()]
    return [_part(None, source)]


def _part(split: str | None, source: Any) -> Part:
    if isinstance(source, str) and source:
        return Part(split, places=(source,))
    if isinstance(source, list) and source and all(isinstance(place, str) and place for place in source):
        return Part(split, places=tuple(source))
    if isinstance(source, dict) and source and all(isinstance(place, str) and place for place in source.values()):
        return Part(split, aligned=tuple((str(column), place) for column, place in source.items()))
    raise ValueError(
        "a source is a place (file, folder, glob or address), a list of places, {column: place} for files "
        f"side by side, or {{split: source}} with the splits {', '.join(SPLITS)}, got {source!r}"
    )


def scheme(place: str) -> str:
    """What kind of place it is: `built-in`, `hub`, `sql`, `remote` or `local`."""
    if place in BUILT_IN:
        return "built-in"
    if place.startswith("hub:"):
        return "hub"
    if place.startswith(REMOTE):
        return "remote"
    return "sql" if "://" in place else "local"


def local_paths(source: Any) -> Iterator[str]:
    """The files, folders and fixed beginnings of globs in the workspace: what dvc.yaml has to list under `deps`."""
    for part in parts(source):
        for place in part.all_places:
            if path := local_path(place):
                yield path


def local_path(place: str) -> str | None:
    """The file or folder that a place is read from, None where it is none of this machine."""
    if place.startswith(SQLITE):
        return place.removeprefix(SQLITE).partition("#")[0]
    if place.startswith(("hub:./", "hub:../", "hub:/")):
        return place.removeprefix("hub:").partition("?")[0]
    return fixed(place) if scheme(place) == "local" else None


def fixed(place: str) -> str:
    """The part of a path before its first pattern: `a/b` of `a/b/*.csv`."""
    kept: list[str] = []
    for name in place.rstrip("/").split("/"):
        if any(mark in name for mark in "*?["):
            break
        kept.append(name)
    return "/".join(kept) or "."
