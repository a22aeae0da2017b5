"""From what `pretune export MODEL FOLDER --samples` wrote to a TensorFlow SavedModel that says the same.

    .venv-tensorflow/bin/python to_tensorflow/convert.py FOLDER TARGET

Runs in an environment of its own (`make tensorflow`), without torch and without Pretune. What was written is loaded
again, compared on the rows in FOLDER/samples.npz, and kept only where no logit differs by more than TOLERANCE.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MODEL, SAMPLES = "model.onnx", "samples.npz"
TOLERANCE = 1e-3  # of a logit, in fp32
WRONG_DATA, WRONG_ENVIRONMENT = 4, 9  # exit codes, as in pretune/errors.py
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it finds no GPU, and says so
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


class RefusedError(Exception):
    """A mistake that the user can mend: what is wrong, the next command, the exit code."""

    def __init__(self, problem: str, next_step: str = "", code: int = WRONG_DATA) -> None:
        self.next_step, self.code = next_step, code
        super().__init__(problem)


def main() -> None:
    """Read the command line, convert, say what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help=f"with {MODEL} and {SAMPLES}")
    parser.add_argument("target", type=Path, help="where to write; must not exist")
    asked = parser.parse_args()
    try:
        found = convert(asked.folder, asked.target)
    except RefusedError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.next_step:
            print(f"next:  {error.next_step}", file=sys.stderr)
        sys.exit(error.code)
    print(
        f"{asked.target}: {found['megabytes']:.1f} MB; on {found['rows']} rows the largest difference of a logit is "
        f"{found['difference']:.2g}, the best class is the same on {found['agreement']:.2%}"
    )


def convert(folder: Path, target: Path) -> dict[str, Any]:
    """Write the SavedModel with its parity.json; returns what stands there."""
    for name in (MODEL, SAMPLES):
        if not (folder / name).is_file():
            raise RefusedError(f"{folder / name} is missing", f"pretune export MODEL {folder} --samples")
    if target.exists():
        raise RefusedError(f"{target} is there already", f"rm -r {target}   (or name another folder)")
    try:
        import saved_model
    except ModuleNotFoundError as error:
        raise RefusedError(f"{error.name} is missing here", "make tensorflow", WRONG_ENVIRONMENT) from None
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        try:
            saved_model.write(folder / MODEL, partial)
        except NotImplementedError as error:
            raise RefusedError(f"{folder / MODEL} cannot be brought to TensorFlow: {error}") from None
        found = compare(saved_model.load(partial), folder / SAMPLES)
        if not found["difference"] <= TOLERANCE:  # nan is refused too
            raise RefusedError(f"the converted model differs by {found['difference']:.2g} in a logit: it is not kept")
        found |= {"megabytes": sum(each.stat().st_size for each in partial.rglob("*") if each.is_file()) / 1e6}
        (partial / "parity.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def compare(answer: Any, samples: Path) -> dict[str, Any]:
    """The largest difference of a logit, the share of rows (or tokens) whose best class is the same."""
    import numpy as np

    rows, difference, same = 0, 0.0, []
    for batch in batches(samples):
        before = batch.pop("logits")
        after = answer(batch)
        rows += len(before)
        difference = np.maximum(difference, np.abs(after - before).max())  # keeps nan
        same.append((after.argmax(-1) == before.argmax(-1)).ravel())
    return {"rows": rows, "difference": float(difference), "agreement": float(np.concatenate(same).mean())}


def batches(samples: Path) -> Iterator[dict[str, np.ndarray]]:
    """What the model was asked, and as `logits` what it said: arrays are named BATCH/NAME."""
    import numpy as np

    with np.load(samples, allow_pickle=False) as arrays:
        names = [name.split("/", 1) for name in arrays.files]
        for number in dict.fromkeys(number for number, _ in names):
            yield {name: arrays[f"{number}/{name}"] for other, name in names if other == number}


if __name__ == "__main__":
    main()
