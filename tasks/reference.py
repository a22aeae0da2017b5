"""reference: the log-probabilities of labelled rows under the model that preference training starts from.

The model before its first step is the reference. With adapters that is the base model: no second copy is ever held,
neither here nor in training.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from pretune.adaptation import quantization
from pretune.data import rows
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning import reference as files
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.training import device

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage

SPLITS = ("train", "validation")  # that training reads


def reference(stage: Stage) -> None:
    """Compute what an objective with a reference compares with; write `data/reference`, empty for other objectives.

    It reads only those keys of `align`, or of `finetune` without it, that change the result: another learning rate
    leaves the reference as it is.
    """
    model_path = next(path for path in stage.declared("models"))
    params = stage.params.align if model_path == "models/finetuned" else stage.params.finetune
    assert params is not None  # DVC refuses a declared key that params.yaml lacks
    device.prepare(0, stage.params.threads)
    out, labelled, folder = stage.out("data/reference"), stage.dep("data/prepared/labelled"), stage.dep(model_path)
    out.mkdir(parents=True)
    objective = OBJECTIVES.get(params.objective)
    if objective is None or not objective.referenced:
        return
    model, _ = quantization.load(objective, folder, stage.params.adaptation.quantization)
    model = model.to(device.choose()).eval()
    settings = SimpleNamespace(template=params.settings["template"])
    context = ObjectiveContext(objective.inputs(folder), params.sequence_length, 0, settings)
    for split in SPLITS:
        with device.autocast(model.device, params.precision), torch.no_grad():
            files.write(
                out / f"{split}.safetensors",
                objective(rows.read(labelled / f"{split}.parquet"), context).log_probs(
                    model, partial(stage.progress, note=split)
                ),
            )
