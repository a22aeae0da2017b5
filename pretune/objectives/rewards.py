"""Rewards that a program can verify: functions of an answer, chosen by name in params.yaml. No answer is executed."""

from __future__ import annotations

import ast
import json
import math
import re
from abc import abstractmethod
from typing import Annotated, Any, Self

import jsonschema
from pydantic import Field, RootModel, ValidationError, field_validator, model_validator
from typing_extensions import override

from pretune.config.section import Section

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
TOLERANCE = 1e-6  # relative, within which two numbers are the same
FENCE = re.compile(r"```[\w+-]*\n(.*?)```", re.DOTALL)


class Reward(Section):
    """weight: of this reward in the sum."""

    weight: Annotated[float, Field(gt=0)]

    @abstractmethod
    def score(self, answer: str, target: str) -> float:
        """From 0 to 1. target: the row's own answer."""


class ExactMatch(Reward):
    """1 if the answer is the target, but for white space around it."""

    @override
    def score(self, answer: str, target: str) -> float:
        return float(answer.strip() == target.strip())


class Numeric(Reward):
    """1 if the last number in the answer is the last one in the target, as in GSM8K (Cobbe et al. 2021)."""

    @override
    def score(self, answer: str, target: str) -> float:
        found, wanted = last_number(answer), last_number(target)
        if found is None or wanted is None:
            return 0.0
        return float(math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE))


class Regex(Reward):
    """1 if the pattern matches the whole answer, but for white space around it."""

    pattern: str

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern

    @override
    def score(self, answer: str, target: str) -> float:
        return float(re.fullmatch(self.pattern, answer.strip(), re.DOTALL) is not None)


class Json(Reward):
    """1 if the answer, or the block of code in it, is JSON that the JSON schema allows; `shape: {}` allows any."""

    shape: dict[str, Any]

    @field_validator("shape")
    @classmethod
    def _is_schema(cls, shape: dict[str, Any]) -> dict[str, Any]:
        try:
            jsonschema.Draft202012Validator.check_schema(shape)
        except jsonschema.SchemaError as error:
            raise ValueError(f"no JSON schema: {error.message}") from None
        return shape

    @override
    def score(self, answer: str, target: str) -> float:
        try:
            value = json.loads(code(answer))
        except (ValueError, RecursionError):
            return 0.0
        return float(jsonschema.Draft202012Validator(self.shape).is_valid(value))


class Python(Reward):
    """1 if the answer, or the block of code in it, can be parsed as Python and is not empty. It is never run."""

    @override
    def score(self, answer: str, target: str) -> float:
        try:
            return float(bool(ast.parse(code(answer)).body))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return 0.0


TABLE: dict[str, type[Reward]] = {
    "exact_match": ExactMatch, "numeric": Numeric, "regex": Regex, "json": Json, "python": Python,
}  # fmt: skip


class Rewards(RootModel[dict[str, Any]]):
    """{name of a reward: its settings}, at least one."""

    @model_validator(mode="after")
    def _are_known(self) -> Self:
        if not self.root:
            raise ValueError(f"none is named; there are: {', '.join(TABLE)}")
        if unknown := [name for name in self.root if name not in TABLE]:
            raise ValueError(f"no reward {', '.join(unknown)}; there are: {', '.join(TABLE)}")
        for name, settings in self.root.items():
            try:
                TABLE[name].model_validate(settings)
            except ValidationError as error:
                problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
                raise ValueError(f"{name}: {'; '.join(problems)}") from None
        return self

    def score(self, answer: str, target: str) -> float:
        """The weighted mean of the rewards: from 0 to 1."""
        chosen = [TABLE[name].model_validate(settings) for name, settings in self.root.items()]
        total = sum(reward.weight for reward in chosen)
        return sum(reward.weight * reward.score(answer, target) for reward in chosen) / total


def last_number(text: str) -> float | None:
    """The last number in a text, without the commas between thousands; None if there is none."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def code(text: str) -> str:
    """The content of the first fenced block, or the whole text."""
    block = FENCE.search(text)
    return (block[1] if block else text).strip()
