"""The folders of code that stages depend on. DVC keeps one hash of each; here it is known which files they held."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pretune.config.files import write_atomically
from pretune.lineage import provenance

CODE = ("flows/", "tasks/", "pretune/")


def remember_code(root: Path, state: Path, entry: dict[str, Any]) -> None:
    """Note which files are in the folders of code that a stage reads, once for each hash of a folder."""
    for path, md5 in entry["deps"].items():
        note = _note(state, md5)
        if path.startswith(CODE) and (root / path).is_dir() and not note.is_file():
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps(_hashes(root / path)))


def changed_files(root: Path, state: Path, folder: str, md5: str) -> dict[str, str]:
    """{path: new, deleted or modified} of the files in `folder` that changed since its hash was `md5`.

    If the stage did not run on this machine, the changes are those since the commit of dvc.lock.
    """
    note = _note(state, md5)
    if not note.is_file():
        return provenance.changed_since(root, "dvc.lock", folder)
    old, new = json.loads(note.read_text(encoding="utf-8")), _hashes(root / folder)
    changes = dict.fromkeys(new.keys() - old.keys(), "new")
    changes |= dict.fromkeys(old.keys() - new.keys(), "deleted")
    changes |= {name: "modified" for name in new.keys() & old.keys() if new[name] != old[name]}
    return {f"{folder}/{name}": changes[name] for name in sorted(changes)}


def _hashes(folder: Path) -> dict[str, str]:
    """{path in the folder: md5} of the files that DVC hashes (see .dvcignore)."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.match("*.py[co]")]
    return {path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() for path in paths}  # noqa: S324 - as DVC does


def _note(state: Path, md5: str) -> Path:
    return state / "code" / f"{md5}.json"
