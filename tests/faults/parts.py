"""The parts of a run that are disturbed: stages, the sender, a promotion, a pipeline run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end.conftest import Clone, make_clone
from tests.faults import workspace
from tests.faults.injector import Point, environment, recorded
from tests.faults.server import MLflow
from tests.faults.workspace import Recorded

STAGES = ("ingest", "prepare", "pretrain", "finetune")
SENDER = "sender"
PROMOTION = "promotion"
ALL = (*STAGES, SENDER, PROMOTION)


@dataclass
class Reference:
    """What an undisturbed run leaves: the hashes of dvc.lock and outputs, all files, the runs in MLflow by name."""

    hashes: dict[str, str]
    files: set[str]
    runs: dict[str, Recorded]


@dataclass
class Part:
    """A command that is disturbed: here a stage. process: what its command line begins with.

    template: a workspace before it. points: what it does. reference: what it leaves.
    """

    name: str
    process: str
    template: Clone
    points: list[Point] = field(default_factory=list)
    reference: Reference = field(init=False)

    def command(self, clone: Clone) -> tuple[str, ...]:
        """Its command line."""
        return ("-m", *self.process.split())

    def run(self, clone: Clone, **faults: str) -> tuple[int | str, str]:
        """Run it; a stage of a pipeline run leaves the sending of its record to that run."""
        return workspace.run(clone, *self.command(clone), PRETUNE_PARENT_RUN="outside", **faults)

    def again(self, clone: Clone) -> tuple[int | str, str]:
        """What a user does next: run it by hand, which sends all records."""
        ended = workspace.run(clone, *self.command(clone))
        clone.wait_for_end()
        return ended

    def records(self, clone: Clone) -> list[Recorded]:
        """The runs in MLflow."""
        return workspace.records(clone.root / "mlflow.db")

    def told(self, clone: Clone, code: int | str, printed: str) -> tuple[int | str, str]:
        """The exit code that the user sees, and what there is to read of how the command ended."""
        return code, printed

    def observe(self, clone: Clone, before: set[str]) -> Reference:
        """What there is now. before: runs that there were."""
        runs = {run.name: run for run in self.records(clone) if run.id not in before}
        return Reference(self.hashes(clone), workspace.listing(clone), runs)

    def hashes(self, clone: Clone) -> dict[str, str]:
        """{file: sha256} of what it makes."""
        return clone.hashes(self.name)


class Sender(Part):
    """The sender of records, with an MLflow server at the other end; each workspace has an experiment of its own."""

    server: MLflow

    def command(self, clone: Clone) -> tuple[str, ...]:
        """Its command line."""
        return ("-m", self.process, str(clone.root), str(clone.state))

    def run(self, clone: Clone, **faults: str) -> tuple[int | str, str]:
        """Run it."""
        ended = workspace.run(clone, *self.command(clone), **self.server.environment(clone), **faults)
        clone.wait_for_end()
        return ended

    def again(self, clone: Clone) -> tuple[int | str, str]:
        """The sender of the next run."""
        return self.run(clone)

    def records(self, clone: Clone) -> list[Recorded]:
        """The runs in MLflow."""
        return workspace.records(self.server.database, clone.root.parent.name)

    def told(self, clone: Clone, code: int | str, printed: str) -> tuple[int | str, str]:
        """A run whose sender fails goes on, with a warning that quotes the sender's note."""
        notes = [*(clone.state / "logs").glob("sender-error.txt"), *(clone.state / "journal").glob("*.refused.txt")]
        text = "\n".join(note.read_text(encoding="utf-8") for note in notes)
        return (9 if code == 1 and text else code), text or printed

    def hashes(self, clone: Clone) -> dict[str, str]:
        """It makes no output."""
        return {}


class Promotion(Part):
    """`pretune promote`, on records and a registry in SQLite. What it makes is the state of the registry."""

    def again(self, clone: Clone) -> tuple[int | str, str]:
        """The same command."""
        return self.run(clone)

    def hashes(self, clone: Clone) -> dict[str, str]:
        """{what: a text} of all models, versions, tags and aliases; locks are models, too."""
        return workspace.registry(clone.root / "mlflow.db")


def first_clone(folder: Path) -> Clone:
    """A clone that saves a checkpoint whenever the last one is written."""
    clone = make_clone(folder)
    code = clone.root / "pretune" / "training" / "checkpoint.py"
    text = code.read_text(encoding="utf-8")
    for old, new in {"\nEVERY = 60.0": "\nEVERY = 0.0", "\nCOST = 0.01": "\nCOST = 1e9"}.items():
        assert old in text
        text = text.replace(old, new)
    code.write_text(text, encoding="utf-8")
    clone.git("commit", "--quiet", "--all", "--message", "checkpoints at every step")
    return clone


def stages(folder: Path, wanted: set[str]) -> list[Part]:
    """The parts of single stages. Before each one its outputs are those of another seed: a mixture would be seen."""
    clone = first_clone(folder / "first")
    names = list(clone.stages())
    last = max(names.index(name) for name in wanted)
    for seed in (1, 0):
        clone.set(seed=seed)
        found = []
        for name in names[: last + 1]:
            if seed == 0 and name in wanted:
                found.append(Part(name, f"tasks {name}", workspace.copy(clone, folder / name)))
            clone.run("-m", "tasks", name)
    clone.wait_for_end()
    return found


def make(folder: Path, wanted: set[str], server: MLflow | None) -> list[Part]:
    """The parts of these names. server: for the sender."""
    found = stages(folder, wanted & set(STAGES)) if wanted & set(STAGES) else []
    found += [sender(folder, server)] if server else []
    return [*found, promotion(folder)] if PROMOTION in wanted else found


def sender(folder: Path, server: MLflow) -> Part:
    """The sender, where the records of two stages wait, one of them with a model."""
    clone = first_clone(folder / SENDER)
    for name in ("ingest", "prepare", "pretrain"):
        clone.run("-m", "tasks", name, PRETUNE_PARENT_RUN="outside")
    (clone.state / "logs").mkdir()  # where a run that starts a sender keeps its log
    server.wait()
    part = Sender(SENDER, "pretune.tracking.sender", clone)
    part.server = server
    return part


def promotion(folder: Path) -> Part:
    """A promotion, after a whole pipeline; any model that is no worse than others passes the gate."""
    clone = first_clone(folder / PROMOTION)
    clone.set(gate__baselines=False)
    for name in clone.stages():
        clone.run("-m", "tasks", name)
    clone.wait_for_end()
    return Promotion(PROMOTION, "cli.app promote", clone)


def record(part: Part, folder: Path) -> None:
    """Run the part undisturbed and note its points, then what a user does next, and note what is left."""
    clone = workspace.copy(part.template, folder)
    path = folder / "record"
    before = {run.id for run in part.records(clone)}
    code, printed = part.run(clone, **environment(part.process, folder, record=path))
    assert code == 0, printed
    part.points = recorded(path)
    part.again(clone)
    part.reference = part.observe(clone, before)
