"""The body of a text model by itself, as an Auto class: without the pooler, which an embedding has no use for."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, PreTrainedModel


class TextEncoder:
    """AutoModel without `pooler`: its weights would be random in most checkpoints, and get no gradient."""

    _model_mapping = AutoModel._model_mapping

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> PreTrainedModel:
        """A model with random weights."""
        return _without_pooler(AutoModel.from_config(config, **options))

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """The model of a checkpoint, with `output_loading_info` as transformers gives it."""
        loaded = AutoModel.from_pretrained(*args, **options)
        if not isinstance(loaded, tuple):
            return _without_pooler(loaded)
        model, info = loaded
        missing = {name for name in info["missing_keys"] if not name.startswith("pooler.")}
        return _without_pooler(model), info | {"missing_keys": missing}


def _without_pooler(model: Any) -> PreTrainedModel:
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    assert isinstance(model, PreTrainedModel)
    return model
