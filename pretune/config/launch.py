"""The section `launch` of params.yaml: what trains, and on which machines."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pretune.config.section import Count, Section

OPTION = re.compile(r"[a-z][a-z-]*")  # of sbatch
TAKEN = {"chdir", "cpus-per-task", "job-name", "nodes", "ntasks-per-node", "open-mode", "output", "signal", "wrap"}
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"  # of Kubernetes' objects
POD = {  # options of kubernetes; the first two are needed
    "image": r"[A-Za-z0-9][\w./:@-]*",
    "claim": NAME,
    "path": r"(?!.*\.\.)[\w.-][\w./-]*",
    "namespace": NAME,
    "gpu": r"[a-z0-9.-]+/[\w.-]+",
}


class LaunchParams(Section):
    """The number of processes that train one model, how they share its weights, and what runs them.

    options: of the engine, as it names them.
    """

    processes: Count
    nodes: Count
    strategy: Literal["ddp", "fsdp"]
    engine: Literal["local", "slurm", "ray", "kubernetes"]
    options: dict[str, str | int]
    rendezvous: Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-]+:[0-9]+$")]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.options and self.engine in {"local", "ray"}:
            raise ValueError("options are of another engine: write engine: slurm or kubernetes, or options: {}")
        taken = [name for name in self.options if name in TAKEN or not OPTION.fullmatch(name)]
        if self.engine == "slurm" and taken:
            raise ValueError(f"options: {', '.join(taken)} cannot be set here; long names of sbatch can, as time, gres")
        if self.engine == "kubernetes" and (problems := _pod_problems(self.options)):
            raise ValueError(f"options: {'; '.join(problems)}")
        return self


def _pod_problems(options: dict[str, str | int]) -> list[str]:
    """What is wrong with the options of a pod."""
    unknown = [f"`{name}` is none of {', '.join(POD)}" for name in options.keys() - POD.keys()]
    needed = [f"`{name}` is missing" for name in ("image", "claim") if name not in options]
    wrong = [f"{name}: `{options[name]}` is no {name}" for name, form in POD.items() if not _fits(options, name, form)]
    return [*unknown, *needed, *wrong]


def _fits(options: dict[str, str | int], name: str, form: str) -> bool:
    return name not in options or bool(re.fullmatch(form, str(options[name])))
