"""The family `linear`, made known to transformers' Auto classes; what it is stands in predictor/linear.py."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from pretune.predictor.linear import LinearConfig, LinearModel

AutoConfig.register("linear", LinearConfig, exist_ok=True)
AutoModel.register(LinearConfig, LinearModel, exist_ok=True)
