"""Files in a folder of data that are not data: left out with a warning that names them."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from pretune.data.ingest.sources.files import SHOWN, File

KINDS = {"images": "images", "idx": "arrays"} | dict.fromkeys(("text", "lines", "blocks", "folders"), "texts")
KINDS |= dict.fromkeys(("csv", "tsv", "jsonl", "json", "parquet", "arrow", "conll", "xlsx"), "tables")
ABOUT = {"readme", "license", "licence", "copying", "changelog", "citation", "md5sums", "sha256sums", "checksums"}
OF_SYSTEMS = {"thumbs.db", "desktop.ini"}


def leave_out(matches: list[File], by_ending: list[str], chosen: str) -> tuple[list[File], str]:
    """The files of a folder or glob that are data, and a warning that names the others or doubts the labels.

    by_ending: the format of each file, "" for an unknown ending; chosen: `ingest.format`. With `auto`, the files of the
    most frequent kind are data, with another format all but those about the data. All are if no kind is known.
    """
    kinds = [_kind(file, ending, chosen) for file, ending in zip(matches, by_ending, strict=True)]
    if not any(kinds):
        return matches, ""
    main = Counter(filter(None, kinds)).most_common(1)[0][0]
    kept = [file for file, kind in zip(matches, kinds, strict=True) if kind == main]
    strays = [file.name for file, kind in zip(matches, kinds, strict=True) if kind != main]
    warnings = [_doubts(kept, main, chosen)]
    if strays:
        warnings.append(
            f"{len(strays)} of {len(matches)} files are left out, as the others are {main}: {_listed(strays)}"
        )
    return kept, "; ".join(filter(None, warnings))


def _kind(file: File, by_ending: str, chosen: str) -> str:
    """What a file is: texts, tables, images or arrays; "" if its ending is unknown or it is about the data."""
    kind = KINDS.get(by_ending, "")
    name = PurePosixPath(file.name.lower())
    if name.name in OF_SYSTEMS or (name.stem in ABOUT and kind in {"", "texts"}):
        return ""
    return kind if chosen == "auto" else KINDS[chosen]


def _doubts(files: list[File], kind: str, chosen: str) -> str:
    """A warning where the names of folders may be labels and are not, or are labels and may be none."""
    folders = sorted({PurePosixPath(file.name).parent.name for file in files})
    if kind == "texts" and chosen == "auto":
        hint = f"the texts lie in the folders {_listed(folders)}; ingest.format: folders makes these their labels"
        return hint if len(folders) > 1 else ""
    if kind != "images" and chosen != "folders":
        return ""
    depths = [len(PurePosixPath(file.name).parts) for file in files]
    usual = Counter(depths).most_common(1)[0][0]
    others = [file.name for file, depth in zip(files, depths, strict=True) if depth != usual]
    where = f"{len(others)} of {len(files)} files lie higher or deeper than the others: {_listed(others)}"
    return f"labels are the names of folders, and {where}" if others else ""


def _listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
