"""Whether what params.yaml names goes together: model, objectives, adaptation. Asked before any stage works.

The answers need transformers and peft, which take seconds to load: a process of its own gives them
(`python -m pretune.objectives.compatibility ROOT`), once for each choice.
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
from pretune.errors import ParamsError

if TYPE_CHECKING:
    from pretune.config.params import Params

STAGES = {"pretrain", "finetune", "scratch", "label_efficiency"}
NEXT = "edit params.yaml (docs/models.md lists what goes with what), then run again"


def before_work(root: Path, state: Path, params: Params, start: Callable[..., Any]) -> None:
    """Raise ParamsError with all that does not go together; `start` starts a module as a process."""
    note, digest = state / "checked", chosen(params)
    if note.is_file() and note.read_text(encoding="utf-8") == digest:
        return
    with start("pretune.check", str(root)) as child:
        said = child.stdout.read()
    if child.returncode:
        raise SystemExit(said)
    if found := json.loads(said.splitlines()[-1]):  # before it, warnings of what was imported
        raise ParamsError(found, NEXT)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(digest, encoding="utf-8")


def chosen(params: Params) -> str:
    """A digest of what is checked."""
    sections = {
        name: getattr(params, name).model_dump(include={"objective", "settings", "metric_for_best_model"})
        for name in ("pretrain", "finetune")
    }
    sections |= {"model": params.model.model_dump(), "adaptation": params.adaptation.model_dump()}
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()


def problems(params: Params) -> list[str]:
    """All that does not go together, one line each."""
    from pretune.adaptation import methods
    from pretune.models import build
    from pretune.objectives import registry
    from pretune.objectives.finetuning.table import OBJECTIVES as FINETUNING
    from pretune.objectives.pretraining.table import OBJECTIVES as PRETRAINING

    found = build.problems(params.model)
    found += registry.problems(PRETRAINING, "pretrain", params.pretrain, params.model.type)
    found += registry.problems(FINETUNING, "finetune", params.finetune, params.model.type)
    found += methods.problems(params.adaptation.method, params.adaptation.settings)
    return found or unsuited(params)


def unsuited(params: Params) -> list[str]:
    """Why the adaptation finds nothing to train in the model, if so; asked of one without data.

    A checkpoint may have another shape than `model.config` says: with `model.init` nothing is asked.
    """
    import torch
    from transformers.initialization import no_init_weights

    from pretune.adaptation import adapters, methods
    from pretune.objectives.finetuning.table import OBJECTIVES as FINETUNING
    from pretune.objectives.pretraining.table import OBJECTIVES as PRETRAINING

    if params.model.init is not None:
        return []
    method, settings = params.adaptation.method, params.adaptation.settings
    with torch.device("meta"), no_init_weights():
        before = _frame(PRETRAINING[params.pretrain.objective], params)
        after = _frame(FINETUNING[params.finetune.objective], params)
    for each in (before, after):
        each.tie_weights()  # what no_init_weights leaves out
    names, known = (frozenset(name for name, _ in each.named_parameters()) for each in (after, before))
    try:
        if method in methods.METHODS:
            methods.choose(method, settings).apply(after, names - known)
        else:  # some of peft's look at the weights when they are put in
            adapters.config_of(method, settings, after)
    except ParamsError as error:
        return error.problems
    return []


def _frame(kind: Any, params: Params) -> Any:
    """A model of the family with the head of the objective, for two labels."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(params.model.type, **copy.deepcopy(params.model.config))
    return kind.auto.from_config(type(config).from_dict(config.to_dict() | kind.head(["one", "other"])))


def main(arguments: list[str]) -> int:
    """Print what does not go together in the folder named, as JSON."""
    print(json.dumps(problems(load(Path(arguments[0]) / "params.yaml"))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
