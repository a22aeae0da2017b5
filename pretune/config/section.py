"""The base class of every section of params.yaml, the types of its values, and pydantic's errors in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pretune.errors import did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
OpenFraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]  # (0, 1)
PositiveFraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]  # (0, 1]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]  # [0, 1)
Seed = Annotated[int, Field(ge=0, lt=2**32)]
NonEmptyStr = Annotated[str, Field(min_length=1)]

SCALARS = {"str": ["string_type"], "int": ["int_type"], "float": ["float_type"], "bool": ["bool_type"]}  # of pydantic


class Section(BaseModel):
    """Unknown keys are refused, types are not coerced, and no key has a default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NoSettings(Section):
    """The schema of `settings: {}`."""


def training_seed(own: int | None, seed: int) -> int:
    """The seed of a training: its own, or `seed`, the one of the pipeline. Splits always follow the latter."""
    return seed if own is None else own


def describe(
    error: ValidationError,
    model: type[BaseModel],
    prefix: str = "",
    *,
    unknown: str | None = None,
    missing: str = "every key must be in params.yaml",
    renamed: Mapping[str, str] | None = None,
) -> list[str]:
    """One line for each problem: its dotted path, the value, what is allowed, the nearest match.

    `model` is the class that refused the values, and `prefix` the dotted path of its section. `unknown` and `missing`
    say why a key is refused or required; `renamed` maps old keys to new ones.
    """
    lines = [
        _describe(details, model, prefix, unknown=unknown, missing=missing, renamed=renamed or {})
        for details in error.errors()
    ]
    return list(dict.fromkeys(lines))


def _describe(
    details: ErrorDetails,
    model: type[BaseModel],
    prefix: str,
    *,
    unknown: str | None,
    missing: str,
    renamed: Mapping[str, str],
) -> str:
    path, value = [str(part) for part in details["loc"]], details["input"]
    if path[-1:] and path[-1] in SCALARS and details["type"] in SCALARS[path[-1]]:  # one of several types
        return f"{'.'.join([prefix, *path[:-1]] if prefix else path[:-1])}: a text or a number, got {value!r}"
    dotted = ".".join([prefix, *path] if prefix else path) or "params.yaml"
    if details["type"] == "extra_forbidden":
        if path[-1] in renamed:
            return f"{dotted}: is called {renamed[path[-1]]} now; rename it"
        nearest = did_you_mean(path[-1], _keys(model, path[:-1]))
        return f"{dotted}: {unknown}{nearest}" if unknown else f"{dotted}: unknown key{nearest}"
    if details["type"] == "missing":
        return f"{dotted}: missing; {missing}"
    if details["type"] == "value_error":
        return f"{dotted}: {details['ctx']['error']}"
    message = details["msg"][0].lower() + details["msg"][1:]
    return f"{dotted}: {message}, got {value!r}{_hint(value, details.get('ctx', {}))}"


def _hint(value: Any, context: Mapping[str, Any]) -> str:
    """What a text was probably meant to be: a number, or one of the allowed words."""
    if not isinstance(value, str):
        return ""
    if _is_number(value):
        return f"; `{value}` is text here: write it without quotes"
    choices = str(context.get("expected", "")).replace(" or ", ",").split(",")
    return did_you_mean(value, [choice.strip(" '") for choice in choices])


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that the section at `path` allows."""
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
