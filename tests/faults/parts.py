"""The parts of a run that are disturbed: stages, the sender, a promotion, a pipeline run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end.conftest import Clone, copy_clone, make_clone
from tests.faults import workspace
from tests.faults.injector import Point, environment, recorded

STAGES = ("ingest", "prepare", "pretrain", "finetune")
ALL = STAGES
NO_SENDER = {"PRETUNE_PARENT_RUN": "outside"}  # a stage of a pipeline run leaves the sending to it


@dataclass
class Part:
    """A command that is disturbed. process: what its command line begins with.

    template: a workspace before it. again: what a user does next. env: of the first command.
    """

    name: str
    process: str
    template: Clone
    command: tuple[str, ...]
    again: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    reference: Reference = field(init=False)
    stages: tuple[str, ...] = ()

    def set_up(self, clone: Clone) -> None:
        """Change a copy of the template before it is used."""

    def env_of(self, clone: Clone) -> dict[str, str]:
        """The variables of the command that is disturbed."""
        return self.env

    def records(self, clone: Clone) -> list[workspace.Recorded]:
        """The runs in MLflow."""
        return workspace.records(clone.root / "mlflow.db")

    def told(self, clone: Clone, printed: str) -> str:
        """What the user can read of how the command ended."""
        return printed


@dataclass
class Reference:
    """What an undisturbed run leaves: the hashes of dvc.lock and outputs, all files, the content of its record."""

    hashes: dict[str, str]
    files: set[str]
    record: dict[str, object]


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
                found.append(_stage(name, copy_clone(clone, folder / name)))
            clone.run("-m", "tasks", name)
    clone.wait_for_end()
    return found


def _stage(name: str, template: Clone) -> Part:
    command = ("-m", "tasks", name)
    return Part(name, f"tasks {name}", template, command, command, NO_SENDER, stages=(name,))


def make(folder: Path, wanted: set[str]) -> list[Part]:
    """The parts of these names."""
    return stages(folder, wanted & set(STAGES))


def record(part: Part, folder: Path) -> None:
    """Run the part undisturbed and note its points, then what a user does next, and note what is left."""
    clone = copy_clone(part.template, folder)
    path = folder / "record"
    code, printed = workspace.run(
        clone, *part.command, **part.env_of(clone), **environment(part.process, clone.root.parent, record=path)
    )
    assert code == 0, printed
    part.points = recorded(path)
    again(part, clone)
    part.reference = observe(part, clone)


def again(part: Part, clone: Clone) -> tuple[int | str, str]:
    """What a user does next."""
    ended = workspace.run(clone, *part.again)
    clone.wait_for_end()
    return ended


def observe(part: Part, clone: Clone) -> Reference:
    """What there is now."""
    newest = part.records(clone)[-1]
    return Reference(clone.hashes(*part.stages), workspace.listing(clone), newest.content)
