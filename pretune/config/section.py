"""What every part of params.yaml is: a mapping with fixed keys and types."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown keys are refused, types are not coerced, and no key has a default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
