"""teacher: what a larger model holds likely at each token that the student learns, asked once.

The teacher reads the same samples as the student: the same rows in the same chat template, cut at the same length.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from pretune.data import rows, tokenizer
from pretune.errors import DataError
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning import teacher as answers
from pretune.objectives.finetuning.instruction import Instruction
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.training import device

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from pretune.config.params import Params
    from pretune.objectives.conversations import Sample
    from pretune.runtime.stage import Stage, StageInputs

SPLITS = ("train", "validation")  # that training reads


def teacher(stage: Stage) -> None:
    """Ask `teacher.init` at each target of each sample; write `data/teacher`, empty for objectives without a teacher.

    It reads only those keys of `finetune` that change the result: another weight leaves the teacher's answers as they
    are.
    """
    out = stage.out("data/teacher")
    out.mkdir(parents=True)
    if not asks(stage.params):
        return
    found = ask(stage, *prepare(stage), partial(stage.progress, note="targets"))
    found.save(out)
    stage.run.metrics(found.figures())


def asks(params: Params) -> bool:
    """Whether the objective learns from a teacher."""
    objective = OBJECTIVES.get(params.finetune.objective)
    return objective is not None and objective.taught


def prepare(stage: StageInputs) -> tuple[PreTrainedModel, list[Sample], int]:
    """The teacher, in eval mode, the samples that it reads, and the tokens of the tokenizer."""
    params, section = stage.params.finetune, stage.params.teacher
    assert section is not None  # DVC refuses a declared key that params.yaml lacks
    device.prepare(0, stage.params.threads)
    inputs = tokenizer.load(stage.dep("data/prepared/tokenizer"))
    source = build.source(section, stage.resolve_input, section="teacher")
    assert source is not None
    if problems := answers.problems(source, inputs, params.sequence_length):
        raise DataError(problems, answers.NEXT)
    keys = ("template", "loss", "reasoning", "too_long")
    settings = SimpleNamespace(**{key: params.settings[key] for key in keys})
    context = ObjectiveContext(inputs, params.sequence_length, 0, settings)
    labelled = stage.dep("data/prepared/labelled")
    read = [rows.read(labelled / f"{split}.parquet") for split in SPLITS]
    samples = [sample for part in read for sample in Instruction(part, context).conversations.samples]
    chosen = device.choose()
    half = device.computes_in_bf16(chosen, params.precision) and build.stored_dtype(source) == torch.bfloat16
    model, _ = build.load(Instruction, source, dtype=torch.bfloat16 if half else torch.float32)
    return model.to(chosen).eval(), samples, len(inputs)


def ask(
    stage: StageInputs,
    model: PreTrainedModel,
    samples: list[Sample],
    vocabulary: int,
    told: Callable[[int, int], None] | None = None,
) -> answers.Teacher:
    """What the teacher holds likely at each target of the samples."""
    assert stage.params.teacher is not None
    with device.autocast(model.device, stage.params.finetune.precision):
        return answers.Teacher.ask(model, samples, stage.params.teacher.top, vocabulary, told)
