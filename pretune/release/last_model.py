"""The model that is made last: `evaluate` measures it, sweeps judge it, commands without a model's name mean it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pretune.config import params
from pretune.config.params import FinetuneParams, Params
from pretune.evaluation.names import compared
from pretune.lineage.graph import Workspace


@dataclass(frozen=True)
class LastModel:
    """stage: that trains it. path: of its folder in the workspace. origin: of the model that training starts from."""

    stage: str = "finetune"
    path: str = "models/finetuned"
    origin: str = "models/pretrained"

    @property
    def section(self) -> str:
        """The section of params.yaml that it is trained and asked by; a stage of a graph of one's own has none."""
        return "align" if self.stage == "align" else "finetune"

    def params(self, settings: Params) -> FinetuneParams:
        """The same, as settings."""
        return (settings.align if self.section == "align" else None) or settings.finetune


def last_model(root: Path) -> LastModel:
    """That of the workspace's dvc.yaml: the first model among the deps of `evaluate`."""
    nodes = Workspace(root).nodes
    asked = nodes["evaluate"].deps if "evaluate" in nodes else []
    path = next(iter(compared(asked, params.load(root / "params.yaml").model.init)), "")
    node = next((node for node in nodes.values() if path in node.outs), None)
    if node is None:
        return LastModel()
    return LastModel(node.name, path, next((dep for dep in node.deps if dep.startswith("models/")), path))
