"""The typed schema of params.yaml: one class per section, every key required.

No key has a default here: a default that is not in params.yaml would change a stage's output
without DVC seeing it. All problems are found at once, before any work starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pretune.errors import ParamsError, UndeclaredInputError, did_you_mean

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of params.yaml: unknown keys are refused, types are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class IngestParams(Section):
    """Where the documents come from."""

    source: Annotated[str, Field(min_length=1)]


class PrepareParams(Section):
    """Tokenizer and splits; counts are rows."""

    vocabulary_size: Annotated[int, Field(ge=300, le=65_536)]
    train_rows: Count
    test_rows: Count


class ModelParams(Section):
    """The encoder, in the names of transformers' configurations."""

    type: Literal["modernbert", "bert", "roberta"]
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    intermediate_size: Count

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelParams:
        if self.hidden_size % (2 * self.num_attention_heads):
            msg = (
                f"hidden_size {self.hidden_size} must be an even multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
            raise ValueError(msg)
        return self


class TrainingParams(Section):
    """What pretraining and finetuning share. `warmup` is a share of all steps."""

    batch_size: Count
    sequence_length: Annotated[int, Field(ge=8, le=512)]
    optimizer: Literal["adamw", "muon"]
    learning_rate: Rate
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    gradient_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    precision: Literal["auto", "bf16", "fp32"]


class PretrainParams(TrainingParams):
    """Masked language modelling on all documents."""

    steps: Count
    mask_rate: Rate


class FinetuneParams(TrainingParams):
    """Classification on the labelled training rows."""

    epochs: Count


class EvaluateParams(Section):
    """`confidence` of the intervals, from `resamples` bootstrap draws."""

    confidence: Rate
    resamples: Annotated[int, Field(ge=100, le=100_000)]


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Count
    ingest: IngestParams
    prepare: PrepareParams
    model: ModelParams
    pretrain: PretrainParams
    finetune: FinetuneParams
    evaluate: EvaluateParams


class DeclaredParams:
    """A view of Params that hands out only the sections that dvc.yaml declares for a stage."""

    def __init__(self, params: Params, sections: Iterable[str], stage: str) -> None:
        self._params, self._sections, self._stage = params, set(sections), stage

    def __getattr__(self, name: str) -> Any:
        if name in Params.model_fields and name not in self._sections:
            raise UndeclaredInputError(
                f"stage {self._stage} reads the parameters `{name}` but dvc.yaml does not say so",
                f"add `{name}` under stages.{self._stage}.params in dvc.yaml",
            )
        return getattr(self._params, name)


def declared(params: Params, sections: Iterable[str], stage: str) -> Params:
    """Restrict `params` to `sections`; reading another one raises UndeclaredInputError."""
    return cast("Params", DeclaredParams(params, sections, stage))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (there `1e-5` is a number, as it is for DVC)."""
    try:
        data = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise ParamsError(
            f"{path.name} is missing in {path.parent}",
            "git checkout " + path.name + "   (or run in the folder that holds dvc.yaml)",
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        where = ""
        if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
            mark = error.problem_mark
            where = f", line {mark.line + 1}, column {mark.column + 1}"
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ParamsError(f"{path.name}{where}: not valid YAML: {what}") from None
    if not isinstance(data, dict):
        raise ParamsError(f"{path.name} must hold `section: {{key: value}}`, not {type(data).__name__}")
    return data


def load(path: Path) -> Params:
    """Read and check params.yaml; ParamsError lists every problem."""
    return validate(read_yaml(path))


def validate(data: Mapping[str, Any]) -> Params:
    """Check the values of params.yaml; ParamsError lists every problem."""
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        problems = [_describe(dict(item)) for item in error.errors()]
        raise ParamsError(problems, "edit params.yaml (docs/params.md explains every key), then run again") from None


def _describe(item: dict[str, Any]) -> str:
    """One line for one pydantic error: dotted path, value, what is allowed, nearest match."""
    path = [str(part) for part in item["loc"]]
    dotted, value = ".".join(path) or "params.yaml", item["input"]
    if item["type"] == "extra_forbidden":
        return f"{dotted}: unknown key{did_you_mean(path[-1], _keys(path[:-1]))}"
    if item["type"] == "missing":
        return f"{dotted}: missing; every key must be in params.yaml"
    if item["type"] == "value_error":
        return f"{dotted}: {item['ctx']['error']}"
    message = item["msg"][0].lower() + item["msg"][1:]
    hint = did_you_mean(value, _choices(item)) if isinstance(value, str) else ""
    if isinstance(value, str) and _is_number(value):
        hint = f"; `{value}` is text here: write it without quotes"
    return f"{dotted}: {message}, got {value!r}{hint}"


def _choices(item: dict[str, Any]) -> list[str]:
    expected = str(item.get("ctx", {}).get("expected", ""))
    return [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]


def _keys(path: list[str]) -> list[str]:
    """The keys that the section at `path` allows."""
    model: type[BaseModel] = Params
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


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} becomes {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def overridden(path: Path, assignments: Iterable[str]) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """The content of params.yaml with `section.key=value` assignments applied, checked in full.

    Returns the document, comments and layout kept, and {dotted path: (old, new)}.
    """
    yaml = _round_trip()
    known = flatten(read_yaml(path))
    document = yaml.load(path)
    problems: list[str] = []
    changes: dict[str, tuple[Any, Any]] = {}
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals:
            problems.append(f"--set {assignment}: write it as section.key=value")
            continue
        if dotted not in known:
            problems.append(f"--set {assignment}: no such key{did_you_mean(dotted, known)}")
            continue
        try:
            value = YAML(typ="safe", pure=True).load(text)
        except YAMLError:
            problems.append(f"--set {assignment}: the value is not valid YAML")
            continue
        *sections, key = dotted.split(".")
        node = document
        for section in sections:
            node = node[section]
        changes[dotted] = (node[key], value)
        node[key] = value
    try:
        validate(document)
    except ParamsError as error:
        problems += error.problems
    if problems:
        raise ParamsError(problems, "mend --set or params.yaml (docs/params.md explains every key)")
    return document, changes


def override(path: Path, assignments: Iterable[str], target: Path) -> dict[str, tuple[Any, Any]]:
    """Write `path` with the assignments applied to `target`; returns {dotted path: (old, new)}."""
    document, changes = overridden(path, assignments)
    partial = target.with_name(target.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        _round_trip().dump(document, file)
    os.replace(partial, target)
    return changes


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    return yaml
