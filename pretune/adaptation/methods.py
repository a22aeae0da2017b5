"""The adaptations that `adaptation.method` may name: those here, and the methods of peft under their own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.adaptation import adapters
from pretune.config.section import NoSettings, Section, describe
from pretune.errors import ParamsError, did_you_mean
from pretune.models import layers


class Adaptation:
    """Which weights of a pretrained model are trained: all of them, unless a subclass overrides it."""

    Settings: ClassVar[type[Section]] = NoSettings

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings: Any = self.Settings.model_validate(settings)

    def apply(self, model: PreTrainedModel, new: frozenset[str]) -> None:
        """Set which parameters are trained, in place; ParamsError if none are.

        new: the names of the weights that are not in the pretrained model.
        """

    def unfreeze_schedule(self, model: PreTrainedModel, steps_per_epoch: float) -> dict[str, int]:  # noqa: ARG002
        """The first step in which each parameter is trained; those not listed are trained from step 0."""
        return {}


class Head(Adaptation):
    """Trains the head and all other new weights; the pretrained body is frozen."""

    @override
    def apply(self, model: PreTrainedModel, new: frozenset[str]) -> None:
        _train_only(model, new | head(model), "adaptation.method: head; this model has no head of its own to train")


class Top(Adaptation):
    """Trains the head and the uppermost layers, which are the most task-specific (Howard & Ruder 2018)."""

    class Settings(Section):
        """layers: number of layers to train."""

        layers: Annotated[int, Field(ge=1)]

    @override
    def apply(self, model: PreTrainedModel, new: frozenset[str]) -> None:
        count = layers.count(model)
        if self.settings.layers > count:
            raise ParamsError(
                f"adaptation.settings.layers: {self.settings.layers}, but the model has {count}",
                "lower it in params.yaml, or adaptation.method: full",
            )
        lowest = count - self.settings.layers
        top = {name for name, depth in layers.layer_depths(model).items() if depth >= lowest}
        _train_only(model, new | head(model) | top, "nothing is left to train")


class Gradual(Adaptation):
    """Gradual unfreezing (Howard & Ruder 2018): the head first, then layer by layer downwards, embeddings last."""

    class Settings(Section):
        """epochs_per_layer: epochs between the unfreezing of two layers."""

        epochs_per_layer: Annotated[float, Field(gt=0)]

    @override
    def unfreeze_schedule(self, model: PreTrainedModel, steps_per_epoch: float) -> dict[str, int]:
        depths, steps_per_layer = layers.layer_depths(model), self.settings.epochs_per_layer * steps_per_epoch
        top = max(depths.values())  # the uppermost layer if the head is tied to the embeddings
        return {name: round((top - depth) * steps_per_layer) for name, depth in depths.items() if depth < top}


class Adapter(Adaptation):
    """A method of peft: trains the adapters it adds and all other new weights; the body is frozen."""

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
    """The adaptation that the section `adaptation` names; ParamsError with everything that is wrong with it."""
    if errors := problems(method, settings):
        raise ParamsError(errors, "edit `adaptation` in params.yaml (docs/models.md), then run again")
    return METHODS[method](settings) if method in METHODS else Adapter(method, settings)


def problems(method: str, settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the section `adaptation`, one line each."""
    if method not in METHODS:
        known = [*METHODS, *adapters.methods()]
        if method not in known:
            reason = adapters.refusal(method) or did_you_mean(method, known)
            return [f"adaptation.method: no adaptation `{method}`{reason}; there are: {', '.join(known)}"]
        return adapters.problems(method, settings)
    settings_class = METHODS[method].Settings
    try:
        settings_class.model_validate(settings)
    except ValidationError as error:
        unknown = f"no setting of {method}, which has {', '.join(settings_class.model_fields) or 'none'}"
        return describe(error, settings_class, "adaptation.settings", unknown=unknown, missing=f"{method} needs it")
    return []


def head(model: PreTrainedModel) -> set[str]:
    """The names of the parameters outside the body."""
    if model.base_model is model:  # a body by itself
        return set()
    prefix = model.base_model_prefix + "."
    return {name for name, _ in model.named_parameters() if not name.startswith(prefix)}


def trained(model: nn.Module) -> int:
    """Number of trained parameters (scalars)."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _train_only(model: PreTrainedModel, names: frozenset[str] | set[str], problem: str) -> None:
    """Train the parameters `names` only; ParamsError with `problem` if there are none."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    if not trained(model):
        raise ParamsError(problem, "name another adaptation.method in params.yaml")
