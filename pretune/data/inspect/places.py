"""What a person names on the command line, as `ingest.source`: files, folders and globs, by split."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from pretune.config import source_spec
from pretune.data.ingest.sources import hub, images
from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.read import ENDINGS
from pretune.data.inspect.names import LANGUAGES
from pretune.errors import DataError, did_you_mean

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("corpus", "unlabeled", "unlabelled", "unsup", "unsupervised"), "corpus"),
}
ABOUT = re.compile(r"(readme|license|licence|copying|changelog|citation|notice)(\..*)?", re.IGNORECASE)
JUNK = {"thumbs.db", "desktop.ini", "__macosx"}
TEXTS = {".txt", ".md", ".text"}
SHOWN = 5  # files in a message
HUB = "hub:"
PARALLEL = {"idx", "texts in several languages"}  # kinds of files of which two belong together
FOLDER_LABELS = 2  # folders of texts from which they are labels


@dataclass
class Source:
    """One place of `ingest.source`. files: those that it stands for, on this machine; none for hub and network.

    aligned: {our column: place} of files that are read in parallel; `place` is then the first of them.

    layout: `images`, `folders` (a text per file, the folder its label) or "" where the endings determine the format.
    """

    split: str | None
    place: str | dict[str, Any]
    files: list[Path] = field(default_factory=list)
    aligned: dict[str, str] = field(default_factory=dict)
    layout: str = ""
    why: str = ""

    @property
    def name(self) -> str:
        """The place in a message."""
        return self.place if isinstance(self.place, str) else f"{HUB}{self.place['name']}"

    @property
    def is_outside(self) -> bool:
        """Whether it lies outside the workspace."""
        path = source_spec.local_path(self.place) if isinstance(self.place, str) else str(self.place["name"])
        return path is not None and path.startswith(("/", "../"))

    @property
    def is_remote(self) -> bool:
        """Whether it is read over the network."""
        if isinstance(self.place, dict):
            return not self.place["name"].startswith(("./", "../", "/"))
        return source_spec.scheme(self.place) == "remote"


def find(root: Path, here: Path, named: list[tuple[str | None, str]]) -> list[Source]:
    """The places that were named, as (split or None, text); paths are relative to `here`, the result to `root`.

    Splits that files and folders already have are found by their names. DataError lists all that cannot be used.
    """
    sources: list[Source] = []
    problems: list[str] = []
    for split, text in named:
        try:
            sources += _find(root, here, split, text)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(
            problems, "pretune init FILE…   (a file, a folder, a glob, or hub:NAME; see pretune init --help)"
        )
    if all(source.split is None for source in sources) and len(sources) > 1:
        _split_by_names(sources)
    return _in_parallel(sources)


def _in_parallel(sources: list[Source]) -> list[Source]:
    """Make one source of two files of a split that hold images and labels (IDX), or texts in two languages."""
    by_split: dict[str | None, list[Source]] = {}
    for source in sources:
        by_split.setdefault(source.split, []).append(source)
    merged = []
    for split, members in by_split.items():
        columns = {_column_of(member, number): member for number, member in enumerate(members)}
        if len(members) == 2 and set(columns) in ({"image", "label"}, {"text", "target"}):
            places = {
                column: str(columns[column].place)
                for column in sorted(columns, key=("image", "text", "label", "target").index)
            }
            files = [columns[column].files[0] for column in places]
            merged.append(
                Source(
                    split,
                    next(iter(places.values())),
                    files,
                    places,
                    why="line by line, the text first" if "text" in places else "one by one",
                )
            )
        else:
            merged += members
    return merged


def _column_of(source: Source, number: int) -> str:
    """The column that a file in parallel with others holds; its place if it is not of that kind."""
    if len(source.files) != 1 or source.layout:
        return str(source.place)
    name, ending = source.files[0].name.lower(), File(source.files[0].name, source.files[0].open).ending
    if ending == ".idx":
        return "image" if "image" in name else "label" if "label" in name else str(source.place)
    return ("text", "target")[number % 2] if ending.removeprefix(".") in LANGUAGES else str(source.place)


def _split_by_names(sources: list[Source]) -> None:
    """Give sources the splits that their names say, if all names say one and `train` is among them."""
    splits = [split_of(str(source.place)) for source in sources]
    if None not in splits and "train" in splits and len(set(splits)) > 1:
        for source, split in zip(sources, splits, strict=True):
            source.split, source.why = split, "by the names of the files"


def split_of(path: str) -> str | None:
    """The split that the name of a file or folder says: `validation` of `sst2/dev-00000.tsv`; None if it says none."""
    words = re.split(r"[^a-z]+", PurePosixPath(path.rstrip("/")).name.lower().replace("t10k-", "test-"))
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def _find(root: Path, here: Path, split: str | None, text: str) -> list[Source]:
    path = here / Path(text).expanduser()
    if text.startswith(HUB) or (path.is_dir() and hub.is_saved(path)):
        return [_hub(root, here, split, text.removeprefix(HUB) if text.startswith(HUB) else str(absolute(path)))]
    if text in source_spec.BUILT_IN or "://" in text:
        return [Source(split, text)]
    if path.is_dir():
        return _folder(root, split, path)
    if path.is_file():
        return [Source(split, place_of(root, path), [path])]
    if any(wildcard in text for wildcard in "*?["):
        return [_glob(root, here, split, str(Path(text).expanduser()))]
    near = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"{text}: no such file or folder{did_you_mean(path.name, near)}")


def _glob(root: Path, here: Path, split: str | None, text: str) -> Source:
    start, pattern = here / source_spec.fixed_prefix(text), text.removeprefix(source_spec.fixed_prefix(text)).strip("/")
    files = sorted(file for file in start.glob(pattern) if file.is_file() and _is_data(file))
    if not files:
        raise DataError(f"{text}: no file matches")
    return Source(split, f"{place_of(root, start)}/{pattern}", files, layout=_layout(start, files))


def _hub(root: Path, here: Path, split: str | None, name: str) -> Source:
    """hub:NAME, hub:NAME@REVISION, hub:NAME:CONFIG or hub:./copy; without a revision it is resolved later."""
    if name.startswith((".", "/", "~")):
        folder = here / Path(name).expanduser()
        if not folder.is_dir():
            raise DataError(f"{HUB}{name}: no such folder")
        relative = place_of(root, folder)
        return Source(
            split, {"type": "hub", "name": relative if relative.startswith(("/", "../")) else f"./{relative}"}
        )
    name, _, revision = name.partition("@")
    name, _, config = name.partition(":")
    place = {"type": "hub", "name": name, "config": config, "revision": revision}
    return Source(split, {key: value for key, value in place.items() if value})


def place_of(root: Path, path: Path) -> str:
    """A path as `ingest.source` names it: within the workspace from there, otherwise as an absolute one."""
    whole = absolute(path)
    base = next((folder for folder in (absolute(root), root.resolve()) if whole.is_relative_to(folder)), None)
    return str(whole.relative_to(base)) if base else str(whole)


def absolute(path: Path) -> Path:
    """The absolute path, in normal form. Links stay: DVC may keep a file as a link into its cache."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps `..`


def _is_data(path: Path) -> bool:
    return not (path.name.startswith(".") or ABOUT.fullmatch(path.name) or path.name.lower() in JUNK)


def _folder(root: Path, split: str | None, folder: Path) -> list[Source]:
    """The sources of a folder: itself, or a part for each split that it holds.

    Raises DataError for an empty folder, and for one that holds files of several kinds.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not _hidden(folder, file)]
    data = [file for file in files if _is_data(file)]
    if not data:
        raise DataError(f"{folder}: holds no files")
    kinds = Counter(_kind(file) for file in data)
    if len(kinds) > 1:
        found = "; ".join(
            f"{count} x {kind} ({', '.join(_first(folder, data, kind))})" for kind, count in kinds.most_common()
        )
        raise DataError(f"{folder}: files of several kinds: {found}. Name the files to use, as '{folder}/*.csv'")
    children = sorted({folder / file.relative_to(folder).parts[0] for file in data})
    if len(children) == 1 and children[0].is_dir() and split_of(children[0].name) == "train":
        return _folder(root, split, children[0])
    splits = {child: split_of(child.name) for child in children}
    if set(kinds) <= PARALLEL:
        named = "train" in splits.values()
        return [Source(split or (splits[file] if named else None), place_of(root, file), [file]) for file in children]
    if split is None and "train" in splits.values() and len(set(splits.values())) > 1 and None not in splits.values():
        parts: dict[str | None, list[Path]] = {}
        for child, name in splits.items():
            parts.setdefault(name, []).append(child)
        return [
            Source(name, place_of(root, child), own, layout=_layout(child, own), why="by names within the folder")
            for name, members in parts.items()
            for child in members
            if (own := [file for file in data if file == child or file.is_relative_to(child)])
        ]
    place = place_of(root, folder)
    endings = {File(file.name, file.open).ending for file in data}
    if len(data) < len(files) and len(endings) == 1:  # strays, as README.md
        suffixes = {
            "".join(file.suffixes[-2:]) if file.suffix in {".gz", ".bz2", ".zst", ".xz"} else file.suffix
            for file in data
        }
        place = f"{place}/**/*{suffixes.pop()}" if len(suffixes) == 1 else place
    return [Source(split, place, data, layout=_layout(folder, data))]


def _hidden(folder: Path, file: Path) -> bool:
    return any(part.startswith(".") or part.lower() in JUNK for part in file.relative_to(folder).parts)


def _kind(file: Path) -> str:
    ending = File(file.name, file.open).ending
    if ending in images.ENDINGS:
        return "images"
    if ending.removeprefix(".") in LANGUAGES:
        return "texts in several languages"
    return ENDINGS.get(ending, f"{ending or 'files without an ending'}")


def _first(folder: Path, data: list[Path], kind: str) -> list[str]:
    chosen = list(islice((str(file.relative_to(folder)) for file in data if _kind(file) == kind), SHOWN))
    return [*chosen[:2], "…"] if len(chosen) > 2 else chosen


def _layout(folder: Path, files: list[Path]) -> str:
    """What the arrangement of the files says: a folder for each label, of images or of texts."""
    endings = {File(file.name, file.open).ending for file in files}
    if endings <= set(images.ENDINGS):
        return "images"
    parents = Counter(file.parent for file in files)
    labels = len(parents) >= FOLDER_LABELS and all(parent.parent == folder for parent in parents)
    return "folders" if endings <= TEXTS and labels and min(parents.values()) > 1 else ""
