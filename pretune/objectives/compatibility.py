"""Check that model, objectives and adaptation in params.yaml go together, before any stage works.

The check needs transformers and peft, which take seconds to import. It runs in a process of its own
(`python -m pretune.objectives.compatibility ROOT`), once for each combination.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune.config.params import load
from pretune.errors import ParamsError, PretuneError
from pretune.objectives.requirements import REFERENCED, TAUGHT, WRITERS

if TYPE_CHECKING:
    from pretune.config.params import FinetuneParams, Params

STAGES = {"pretrain", "teacher", "finetune", "align", "scratch", "label_efficiency"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
NEXT = "edit params.yaml (docs/models.md lists what goes with what), then run again"


def before_work(root: Path, state: Path, params: Params, start: Callable[..., Any]) -> None:
    """Raise ParamsError with everything that does not go together; `start` starts a module as a process."""
    marker, digest = state / "checked", digest_of(params, root)
    if marker.is_file() and marker.read_text(encoding="utf-8") == digest:
        return
    with start("pretune.objectives.compatibility", str(root)) as child:
        output = child.stdout.read()
    if child.returncode:
        raise SystemExit(output)
    if errors := json.loads(output.splitlines()[-1]):  # imports may print warnings before it
        raise ParamsError(errors, NEXT)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(digest, encoding="utf-8")


def digest_of(params: Params, root: Path) -> str:
    """The sha256 of the parameters that are checked, and of the configuration of their checkpoint below `root`."""
    sections = {
        name: section.model_dump(include={"objective", "settings", "metric_for_best_model", "sequence_length"})
        for name, section in {"pretrain": params.pretrain, **labelled(params)}.items()
    }
    sections |= {
        name: getattr(params, name).model_dump() for name in ("model", "adaptation", "scratch", "label_efficiency")
    }
    sections["teacher"] = params.teacher.model_dump() if params.teacher else {}
    sections["benchmarks"] = {"any": bool(params.evaluate.benchmarks)}
    sections["untrained"] = {name: not section.epochs for name, section in labelled(params).items()}
    files: list[tuple[str, str]] = []
    named = [params.model.init, params.teacher.init if params.teacher else None]
    checkpoints = [folder for folder in named if folder is not None]
    if checkpoints:
        sections["prepare"] = params.prepare.model_dump(include={"tokenizer"})
        tokenizers = [*checkpoints, params.prepare.tokenizer]
        paths = [root / folder / "config.json" for folder in checkpoints]
        paths += [root / folder / name for folder in tokenizers for name in TOKENIZER_FILES]
        files = [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths if path.is_file()]
    return hashlib.sha256(json.dumps([sections, files], sort_keys=True).encode()).hexdigest()


def problems(params: Params, root: Path) -> list[str]:
    """Everything that does not go together, one line each; `root` is the folder to which paths are relative."""
    from pretune.adaptation import methods, quantization
    from pretune.models import build
    from pretune.objectives import registry
    from pretune.objectives.finetuning.table import OBJECTIVES as FINETUNING
    from pretune.objectives.pretraining.table import OBJECTIVES as PRETRAINING

    errors = build.problems(params.model)
    errors += registry.problems(PRETRAINING, "pretrain", params.pretrain, params.model.type)
    for name, section in labelled(params).items():
        errors += registry.problems(FINETUNING, name, section, params.model.type)
    errors += reference_problems(params) + teacher_problems(params)
    adapt = params.adaptation
    errors += methods.problems(adapt.method, adapt.settings)
    errors += quantization.problems(adapt.method, adapt.settings, adapt.quantization)
    errors = errors or checkpoint_problems(params, root) + teacher_checkpoint_problems(params, root)
    return errors or [*benchmark_problems(params), *adaptation_problems(params)]


def labelled(params: Params) -> dict[str, FinetuneParams]:
    """The sections of the stages that train on labelled rows."""
    return {"finetune": params.finetune} | ({"align": params.align} if params.align else {})


def reference_problems(params: Params) -> list[str]:
    """What cannot be trained on an objective that compares the model with the one that training starts from."""
    objective, alone = params.finetune.objective, "compares with the pretrained model"
    if objective not in REFERENCED:
        return []
    errors = []
    if params.scratch.trains(params.model):
        errors.append(f"scratch.train: {params.scratch.train}, but {objective} {alone}; write false")
    if params.label_efficiency.partial:
        errors.append(f"label_efficiency.shares: {objective} {alone}, whose reference is of all rows; write []")
    return errors


def teacher_problems(params: Params) -> list[str]:
    """Whether there is a teacher where one is learnt from, and nowhere else."""
    objective, taught = params.finetune.objective, ", ".join(sorted(TAUGHT))
    errors = []
    if objective in TAUGHT and params.teacher is None:
        errors.append(f"teacher: missing; finetune.objective {objective} needs the section (docs/params.md)")
    if objective not in TAUGHT and params.teacher is not None:
        errors.append(f"teacher: finetune.objective {objective} has none; take the section out, or write {taught}")
    if params.align is not None and params.align.objective in TAUGHT:
        errors.append(f"align.objective: {params.align.objective} is one for `finetune` only")
    return errors


def teacher_checkpoint_problems(params: Params, root: Path) -> list[str]:
    """Why the checkpoint `teacher.init` cannot teach, if it is a folder that is there."""
    from pretune.data import tokenizer
    from pretune.models import build
    from pretune.objectives.finetuning import teacher

    if params.teacher is None:
        return []
    if params.prepare.tokenizer in tokenizer.KINDS:
        learns = f"prepare.tokenizer: {params.prepare.tokenizer} learns other tokens than those of the teacher"
        return [f"{learns}, whose answers are about its own; write prepare.tokenizer: {params.teacher.init}"]
    try:
        source, named = build.source(params.teacher, root.joinpath, section="teacher"), root / params.prepare.tokenizer
        if not isinstance(source, Path) or not source.is_dir() or not named.is_dir():
            return []
        inputs = tokenizer.pretrained(named, params.prepare.max_length)
        return teacher.problems(source, inputs, params.finetune.sequence_length)
    except PretuneError as error:
        return error.problems


def benchmark_problems(params: Params) -> list[str]:
    """Benchmarks ask models that write text: those of the last objective are evaluated."""
    from pretune.objectives.finetuning.table import OBJECTIVES

    *_, objective = (section.objective for section in labelled(params).values())
    if not params.evaluate.benchmarks or OBJECTIVES[objective].answers in WRITERS:
        return []
    return [f"evaluate.benchmarks: models of {objective} write no text; write []"]


def checkpoint_problems(params: Params, root: Path) -> list[str]:
    """Why type, configuration or tokenizer do not fit the checkpoint `model.init`, if it is on this machine."""
    from pretune.data import tokenizer
    from pretune.models import build

    try:
        source = build.source(params.model, root.joinpath)
        if source is None or not (source.is_dir() if isinstance(source, Path) else build.is_cached(source)):
            return []
        named, shape = root / params.prepare.tokenizer, {}
        if hasattr(build.configuration(source), "vocab_size") and named.is_dir():
            shape = {"vocab_size": len(tokenizer.pretrained(named, params.prepare.max_length))}
        build.config_for(params.model, shape, source)
    except PretuneError as error:
        return error.problems
    return []


def adaptation_problems(params: Params) -> list[str]:
    """Why the adaptation cannot be applied to the model, tested on one without data; [] if it can.

    With `model.init` nothing is tested: the shape of a checkpoint may differ from `model.config`.
    """
    import torch
    from transformers.initialization import no_init_weights

    from pretune.adaptation import adapters, methods, quantization
    from pretune.objectives.finetuning.table import OBJECTIVES as FINETUNING
    from pretune.objectives.pretraining.table import OBJECTIVES as PRETRAINING

    if params.model.init is not None:
        return []
    method, settings = params.adaptation.method, params.adaptation.settings
    with torch.device("meta"), no_init_weights():
        pretrained = _model_without_data(PRETRAINING[params.pretrain.objective], params)
        finetuned = _model_without_data(FINETUNING[params.finetune.objective], params)
    for model in (pretrained, finetuned):
        model.tie_weights()  # no_init_weights leaves it out
    names, pretrained_names = (
        frozenset(name for name, _ in model.named_parameters()) for model in (finetuned, pretrained)
    )
    try:
        if method in methods.METHODS:
            methods.choose(method, settings).apply(finetuned, names - pretrained_names)
        else:  # some methods of peft read the weights when they are added, and there are none
            adapters.config_of(method, settings, finetuned)
    except ParamsError as error:
        return error.problems
    kind = params.adaptation.quantization
    return [quantization.refusal(finetuned, kind)] if kind and not quantization.matrices(finetuned) else []


def _model_without_data(objective: Any, params: Params) -> Any:
    """A model of the family with the objective's head for two labels."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(params.model.type, **copy.deepcopy(params.model.config))
    return objective.auto.from_config(type(config).from_dict(config.to_dict() | objective.head(["one", "other"])))


def main(arguments: list[str]) -> int:
    """Print the problems of params.yaml in the folder `arguments[0]`, as JSON."""
    root = Path(arguments[0])
    print(json.dumps(problems(load(root / "params.yaml"), root)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
