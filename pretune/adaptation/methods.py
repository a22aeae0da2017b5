"""The adaptations that `adaptation.method` may name, and how one is chosen. peft's come by their own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.adaptation import adapters
from pretune.config.section import Section
from pretune.errors import ParamsError, did_you_mean
from pretune.models import layers


class Nothing(Section):
    """No settings: `settings: {}`."""


class Adaptation:
    """What of a pretrained model is trained: everything, unless a method below says otherwise."""

    Settings: ClassVar[type[Section]] = Nothing

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings: Any = self.Settings.model_validate(settings)

    def apply(self, model: PreTrainedModel, new: frozenset[str]) -> None:
        """Say what is trained, in place. `new`: the weights that did not come from the pretrained model."""

    def unfreeze_schedule(self, model: PreTrainedModel, steps_per_epoch: float) -> dict[str, int]:  # noqa: ARG002
        """The step from which each parameter learns; from the first, where none is said."""
        return {}


class Head(Adaptation):
    """The head, and whatever else is new: the pretrained body stays as it is."""

    @override
    def apply(self, model: PreTrainedModel, new: frozenset[str]) -> None:
        _train_only(model, new | head(model), "adaptation.method: head; this model has no head of its own to train")


class Top(Adaptation):
    """The head and the layers next to it (Howard & Ruder 2018 tell why those first)."""

    class Settings(Section):
        """layers: how many of them."""

        layers: Annotated[int, Field(ge=1)]

    @override
    def apply(self, model: PreTrainedModel, new: frozenset[str]) -> None:
        most = layers.count(model)
        if self.settings.layers > most:
            raise ParamsError(
                f"adaptation.settings.layers: {self.settings.layers}, but the model has {most}",
                "lower it in params.yaml, or adaptation.method: full",
            )
        lowest = most - self.settings.layers
        chosen = {name for name, height in layers.layer_depths(model).items() if height >= lowest}
        _train_only(model, new | head(model) | chosen, "nothing is left to train")


class Gradual(Adaptation):
    """The head first, then one layer more after every so many epochs, embeddings last (Howard & Ruder 2018)."""

    class Settings(Section):
        """epochs_per_layer: how long the layers above learn before the next one does."""

        epochs_per_layer: Annotated[float, Field(gt=0)]

    @override
    def unfreeze_schedule(self, model: PreTrainedModel, steps_per_epoch: float) -> dict[str, int]:
        heights, every = layers.layer_depths(model), self.settings.epochs_per_layer * steps_per_epoch
        most = max(heights.values())  # a model whose head is its embeddings begins with its uppermost layer
        return {name: round((most - height) * every) for name, height in heights.items() if height < most}


class Adapter(Adaptation):
    """A method of peft: small weights are added and trained, those of the body stay; what is new is trained too."""

    def __init__(self, method: str, settings: Mapping[str, Any]) -> None:
        self.method, self.settings = method, dict(settings)

    @override
    def apply(self, model: PreTrainedModel, new: frozenset[str]) -> None:
        adapters.add(model, adapters.config_of(self.method, self.settings, model))
        for name, parameter in model.named_parameters():
            if name.replace(".base_layer", "") in new:
                parameter.requires_grad_(requires_grad=True)


METHODS: dict[str, type[Adaptation]] = {"full": Adaptation, "head": Head, "top": Top, "gradual": Gradual}


def choose(method: str, settings: Mapping[str, Any]) -> Adaptation:
    """The adaptation that the section `adaptation` names; ParamsError lists all that is wrong with it."""
    if found := problems(method, settings):
        raise ParamsError(found, "edit `adaptation` in params.yaml (docs/models.md), then run again")
    return METHODS[method](settings) if method in METHODS else Adapter(method, settings)


def problems(method: str, settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the section `adaptation`, one line each."""
    if method not in METHODS:
        known = [*METHODS, *adapters.methods()]
        if method not in known:
            why = adapters.refusal(method) or did_you_mean(method, known)
            return [f"adaptation.method: no adaptation `{method}`{why}; there are: {', '.join(known)}"]
        return adapters.problems(method, settings)
    kind = METHODS[method].Settings
    try:
        kind.model_validate(settings)
    except ValidationError as error:
        return [
            f"adaptation.settings.{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}; "
            f"the settings of {method}: {', '.join(kind.model_fields) or 'none'}"
            for item in error.errors()
        ]
    return []


def head(model: PreTrainedModel) -> set[str]:
    """The names of the parameters that are not in the body."""
    prefix = model.base_model_prefix + "."
    return {name for name, _ in model.named_parameters() if not name.startswith(prefix)}


def trained(model: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def _train_only(model: PreTrainedModel, names: frozenset[str] | set[str], otherwise: str) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    if not trained(model):
        raise ParamsError(otherwise, "name another adaptation.method in params.yaml")
