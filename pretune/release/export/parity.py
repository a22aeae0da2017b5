"""What an exported file is worth: its outputs beside those of the model that was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pretune.config.files import permit
from pretune.errors import DataError


@dataclass(frozen=True)
class Parity:
    """An exported file against the original model.

    difference: the largest one of a logit; of a decoder that of a row, the mean over its tokens of the difference of
    their log-probabilities, in nats. tolerance: the largest one allowed, None for no bound. agreement: share of rows
    (or tokens) with the same best class. accuracy: of models that classify. texts: share of rows that a decoder
    continues with the same text, by greedy search. rendered: share of conversations that its chat template writes as
    in training when they are passed on as they come.
    """

    file: str
    megabytes: float
    rows: int
    difference: float
    agreement: float
    tolerance: float | None = None
    accuracy: float | None = None
    accuracy_before: float | None = None
    texts: float | None = None
    rendered: float | None = None


@contextmanager
def kept(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` if nothing is raised; DataError if that exists."""
    if target.exists():
        raise DataError(f"{target} already exists", f"rm -r {target}   (or name another folder)")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        permit(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def record(parities: Sequence[Parity], folder: Path) -> None:
    """Write `parity.json`; DataError if a file differs by more than its tolerance."""
    for parity in parities:
        if parity.tolerance is not None and not parity.difference <= parity.tolerance:  # nan is no number
            kind = "a logit" if parity.texts is None else "the log-probability of the tokens of a row"
            raise DataError(
                f"{parity.file} differs by {parity.difference:.2g} in {kind}, at most {parity.tolerance:g} is "
                "allowed: it is not kept"
            )
    text = json.dumps([asdict(parity) for parity in parities], indent=1)
    (folder / "parity.json").write_text(text + "\n", encoding="utf-8")


def megabytes(path: Path) -> float:
    """The size of a file and those whose names begin with its name, or of a folder."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(path.name + "*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6
