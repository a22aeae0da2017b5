"""What everything but stage work costs: `make bench-overhead`.

Times the commands whose speed is promised, in a fresh copy of the project with the pipeline run
once; prints the median and the best of several calls beside the target. Run it on an idle machine.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from flows import schedule
from pretune.config.params import load

ROOT = Path(__file__).parent.parent
REPEATS = 5
BIN = Path(sys.executable).parent
COMMANDS = {
    "pretune run --help": ([sys.executable, "-m", "cli.app", "run", "--help"], 0.5),
    "dvc repro, nothing to do": ([str(BIN / "dvc"), "repro"], 1.0),
    "pretune run, nothing to do": ([sys.executable, "-m", "cli.app", "run"], 5.0),
    "pretune run --no-prefect, nothing to do": ([sys.executable, "-m", "cli.app", "run", "--no-prefect"], 1.5),
}
TRIAL = 2.0  # seconds of a trial of a sweep that may be anything but stage work
TRIALS = (2, 8)  # of two sweeps, whose difference leaves out what a sweep does once
FIRST_RUN = 15.0  # seconds of a full first run that may be anything but stage work


def main() -> None:
    """Run the pipeline once, then time what finds nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = copy_project(Path(folder) / "pretune")
        print("running the whole pipeline once (about two minutes) ...", flush=True)
        began = time.perf_counter()
        call([sys.executable, "-m", "cli.app", "run"], workspace)
        whole = time.perf_counter() - began
        print(f"{'':<42}{'median':>9}{'best':>9}{'target':>9}   seconds")
        show("first run, all but stage work", [whole - critical_path(workspace)], FIRST_RUN)
        for what, (command, target) in COMMANDS.items():
            call(command, workspace)
            show(what, [timed(command, workspace) for _ in range(REPEATS)], target)
        show("a trial of a sweep, all but stage work", [trial(workspace)], TRIAL)


def trial(workspace: Path) -> float:
    """Seconds that a trial takes beyond finetuning: of the time by which a longer sweep takes longer."""
    walls, stages = [], []
    for sweep, count in enumerate(TRIALS):
        rates = ",".join(f"{1e-4 * (1 + number + 100 * sweep):.4g}" for number in range(count))
        began = time.perf_counter()
        command = [sys.executable, "-m", "cli.app", "sweep", f"finetune.learning_rate={rates}", "--json"]
        done = json.loads(call([*command, "--name", f"overhead-{count}", "--parallel", "1"], workspace))
        walls.append(time.perf_counter() - began)
        stages.append(sum(seed["costs"]["finetune.seconds"] for one in done["trials"] for seed in one["seeds"]))
    return (walls[1] - walls[0] - (stages[1] - stages[0])) / (TRIALS[1] - TRIALS[0])


def copy_project(target: Path) -> Path:
    """The project's files as a git repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(lambda name: (ROOT / name).is_file() and name != "dvc.lock", listed.stdout.splitlines()):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    for arguments in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "--message", "start"]):
        subprocess.run(["git", *arguments], cwd=target, check=True)
    return target


def change(workspace: Path, values: dict) -> None:
    """Write values into params.yaml."""
    yaml = YAML()
    params = yaml.load(workspace / "params.yaml")
    for section, value in values.items():
        if isinstance(value, dict):
            (params["model"]["config"] if section == "model" else params[section]).update(value)
        else:
            params[section] = value
    yaml.dump(params, workspace / "params.yaml")


def critical_path(workspace: Path) -> float:
    """Seconds of stage work that nothing can run beside: branches share the time, where there are cores for both."""
    state = workspace / ".pretune" / "stages"
    seconds = {path.stem: json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in state.glob("*.json")}
    pretrained = seconds["pretrain"] + max(seconds["finetune"], seconds["label_efficiency"])
    several = schedule.cores() >= 2 * load(workspace / "params.yaml").threads
    branches = max(pretrained, seconds["scratch"]) if several else pretrained + seconds["scratch"]
    return float(seconds["ingest"] + seconds["prepare"] + branches + seconds["evaluate"])


def timed(command: list[str], workspace: Path) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    call(command, workspace)
    seconds = time.perf_counter() - began
    while list((workspace / ".pretune" / "journal").glob("*.jsonl")):  # the records of that run: not of the next call
        time.sleep(0.1)
    return seconds


def call(command: list[str], workspace: Path) -> str:
    """Run a command in the workspace; returns its standard output. All of its output is shown if it fails."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def show(what: str, seconds: list[float], target: float) -> None:
    """One line of the table."""
    median, best = statistics.median(seconds), min(seconds)
    print(f"{what:<42}{median:9.2f}{best:9.2f}{target:9.1f}   {'' if median <= target else 'missed'}", flush=True)


if __name__ == "__main__":
    main()
