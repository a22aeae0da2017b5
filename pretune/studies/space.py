"""The search space of a sweep: the keys it varies, their values, conditions and constraints.

On the command line KEY=SPEC, in a sweep file `space: {KEY: SPEC or values}` and `constraints: [EXPRESSION]`:

    full,lora,head                  a list; each value is YAML
    1e-5..1e-3, log:1e-5..1e-3      a range, even in the number or in its logarithm
    int:2..8, log:int:4..64         whole numbers
    log:1e-5..1e-3/5                5 points of a range, evenly spaced
    … if OTHER=VALUE,VALUE          only where OTHER has one of these values
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pretune.config import overrides
from pretune.config.files import read_yaml
from pretune.config.params import Params, validate
from pretune.errors import ParamsError, did_you_mean
from pretune.studies.conditions import in_order, relations
from pretune.studies.dimensions import Dimension, Range, Trial, from_value, read, written
from pretune.studies.expressions import Constraint
from pretune.studies.expressions import read as read_constraint
from pretune.studies.points import applied, assignments, value_of
from pretune.studies.results import Point

__all__ = ["Space", "assignments", "check", "from_file", "parse"]

MOST_CORNERS = 512
LARGEST_GRID = 100_000
HELP = "correct the space (`pretune sweep --help` explains how to write it)"


@dataclass(frozen=True)
class Space:
    """What a sweep may try. dimensions: by dotted key; a key that depends on another one comes after it."""

    dimensions: dict[str, Dimension]
    constraints: tuple[Constraint, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that the sweep varies."""
        return tuple(self.dimensions)

    @property
    def is_finite(self) -> bool:
        """Whether all points can be listed: every range has a number of points."""
        return all(dimension.listed is not None for dimension in self.dimensions.values())

    def active(self, key: str, point: Mapping[str, Any]) -> bool:
        """Whether the key applies, with the values that the point has for the keys it depends on."""
        condition = self.dimensions[key].condition
        if condition is None:
            return True
        other = condition.key
        return other in point and self.active(other, point) and condition.holds(point[other])

    def suggest(self, trial: Trial) -> Point:
        """The point that an Optuna trial chooses: only its active keys are asked for, each once."""
        point: Point = {}
        for key, dimension in self.dimensions.items():
            if self.active(key, point):
                point[key] = dimension.suggest(key, trial)
        return point

    def encoded(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point of the space as Optuna stores it, for `enqueue_trial`; `suggest` then returns the point itself."""
        return {key: self.dimensions[key].encoded(value) for key, value in point.items()}

    def grid(self) -> list[Point]:
        """All points, each once, the last key fastest; constraints are not applied. ParamsError if there is no end."""
        endless = [key for key, dimension in self.dimensions.items() if dimension.listed is None]
        if endless:
            raise ParamsError([f"{key}: a grid needs the number of points, as LOW..HIGH/5" for key in endless], HELP)
        points = list(islice(self._combinations(lambda dimension: dimension.listed or ()), LARGEST_GRID + 1))
        if len(points) > LARGEST_GRID:
            raise ParamsError(
                f"the grid has more than {LARGEST_GRID:,} points", "vary fewer keys, or sample: --trials N"
            )
        return points

    def corners(self) -> Iterator[Point]:
        """Points to check before anything runs: all combinations of listed values and the ends of ranges.

        If they are more than 512: points in which each value of each key occurs at least once.
        """
        points = list(islice(self._combinations(lambda dimension: dimension.ends), MOST_CORNERS + 1))
        yield from points if len(points) <= MOST_CORNERS else self._cover()

    def contains(self, point: Mapping[str, Any]) -> bool:
        """Whether the point could be suggested. Values of keys that do not apply in it are ignored."""
        return point.keys() <= self.dimensions.keys() and all(
            key in point and dimension.contains(point[key])
            for key, dimension in self.dimensions.items()
            if self.active(key, point)
        )

    def violated(self, point: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
        """The constraints that do not hold. Keys that the point lacks have their value in params.yaml."""
        return [text for text, _ in self._failing(point, params)]

    def _failing(self, point: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The constraints that do not hold, each with the reason if its values cannot be compared."""
        document, failing = applied(point, params), []
        for constraint in self.constraints:
            try:
                if not constraint.holds(lambda key: value_of(document, key)):
                    failing.append((constraint.text, ""))
            except ValueError as error:
                failing.append((constraint.text, str(error)))
        return failing

    def _combinations(self, values: Callable[[Dimension], Sequence[Any]]) -> Iterator[Point]:
        def extended(point: Point, keys: Sequence[str]) -> Iterator[Point]:
            if not keys:
                yield point
            elif not self.active(keys[0], point):
                yield from extended(point, keys[1:])
            else:
                for value in values(self.dimensions[keys[0]]):
                    yield from extended({**point, keys[0]: value}, keys[1:])

        return extended({}, self.keys)

    def _cover(self) -> Iterator[Point]:
        seen: set[str] = set()
        wanted = [(key, value) for key, dimension in self.dimensions.items() for value in dimension.ends]
        for index, (key, value) in enumerate(wanted):
            fixed, condition = {key: value}, self.dimensions[key].condition
            while condition is not None:
                fixed[condition.key] = condition.values[0]
                condition = self.dimensions[condition.key].condition
            point: Point = {}
            for name, dimension in self.dimensions.items():
                if self.active(name, point):
                    point[name] = fixed.get(name, dimension.ends[index % len(dimension.ends)])
            if written(point) not in seen:
                seen.add(written(point))
                yield point


def parse(assignments: Iterable[str], constraints: Iterable[str] = ()) -> Space:
    """The space of `KEY=SPEC` assignments and constraints of the command line. ParamsError lists every problem."""
    problems: list[str] = []
    pairs = []
    for assignment in assignments:
        key, equals, spec = assignment.partition("=")
        if equals and key.strip():
            pairs.append((key.strip(), lambda spec=spec: read(spec)))
        else:
            problems.append(f"{assignment}: write it as KEY=VALUES, as finetune.epochs=2,4")
    return _space(pairs, constraints, problems)


def from_file(content: Mapping[str, Any]) -> Space:
    """The space of a sweep file, from its `space` and `constraints`. ParamsError lists every problem."""
    space, constraints = content.get("space"), content.get("constraints", [])
    problems = []
    if not isinstance(space, Mapping):
        problems.append("space: a sweep file needs `space: {KEY: VALUES}`")
        space = {}
    if not isinstance(constraints, list) or not all(isinstance(constraint, str) for constraint in constraints):
        problems.append("constraints: a list of expressions between keys, each a text in quotes")
        constraints = []
    pairs = [(str(key), lambda value=value: from_value(value)) for key, value in space.items()]
    return _space(pairs, constraints, problems)


def _space(
    pairs: Sequence[tuple[str, Callable[[], Dimension]]], constraints: Iterable[str], problems: list[str]
) -> Space:
    dimensions: dict[str, Dimension] = {}
    failed: set[str] = set()
    for key, reading in pairs:
        if key in dimensions or key in failed:
            problems.append(f"{key}: stands twice")
            continue
        try:
            dimensions[key] = reading()
        except ValueError as error:
            failed.add(key)
            problems.append(f"{key}: {error}")
    checked = []
    for text in constraints:
        try:
            checked.append(read_constraint(text))
        except ValueError as error:
            problems.append(f"constraint {text}: {error}")
    if not pairs and not problems:
        problems.append("the space has no keys")
    problems += relations(dimensions, failed)
    if problems:
        raise ParamsError(problems, HELP)
    return Space({key: dimensions[key] for key in in_order(dimensions)}, tuple(checked))


def check(space: Space, params_path: Path) -> None:
    """Check a space against params.yaml and its schema, before anything runs. ParamsError lists every problem once.

    A small grid is checked point by point, any other space at its corners. A space is refused as well if it is finite
    and no point of it meets the constraints.
    """
    params = read_yaml(params_path)
    known = set(overrides._dotted_paths(params, Params))  # as --set knows them
    unknown = {key: reason for key in space.keys if (reason := _unknown(key, known))}
    problems = [f"{key}: {reason}" for key, reason in unknown.items()]
    problems += _unknown_in_constraints(space, known)
    problems += _refused(space, [key for key in space.keys if key not in unknown], params)
    if not problems and _is_empty(space, params):
        problems.append("no point meets the constraints: " + "; ".join(one.text for one in space.constraints))
    if problems:
        raise ParamsError(problems, f"{HELP}, or params.yaml (docs/params.md explains every key)")


def _unknown(key: str, known: Collection[str]) -> str:
    """Why `--set` would refuse the key; "" if it would not."""
    try:
        overrides._parse(f"{key}=null", known)  # as --set parses it
    except ValueError as error:
        return str(error)
    return ""


def _unknown_in_constraints(space: Space, known: Collection[str]) -> list[str]:
    problems = []
    for constraint in space.constraints:
        for key in constraint.keys:
            if key in known or any(key == varied or key.startswith(f"{varied}.") for varied in space.keys):
                continue
            hint = did_you_mean(key, [*known, *space.keys]) or ("" if "." in key else "; a text needs quotes")
            problems.append(f"constraint {constraint.text}: {key} is neither in params.yaml nor in the space{hint}")
    return problems


def _refused(space: Space, known_keys: Collection[str], params: Mapping[str, Any]) -> list[str]:
    """What the schema refuses, and constraints that cannot be evaluated, each once, with the first point it is at.

    Of a point that the constraints exclude, only what is wrong with a single value counts.
    """
    found: dict[str, str] = {}
    for whole in _samples(space):
        point = {key: value for key, value in whole.items() if key in known_keys}
        failing = space._failing(point, params)
        problems = [f"constraint {text}: {reason}" for text, reason in failing if reason]
        try:
            validate(applied(point, params))
        except ParamsError as error:
            problems += [line for line in error.problems if not failing or line.partition(":")[0] in point]
        for problem in problems:
            found.setdefault(problem, " ".join(assignments(point, params)))
    return [f"{problem}{_hint(space, problem)} (at {point})" for problem, point in found.items()]


def _hint(space: Space, problem: str) -> str:
    dimension = space.dimensions.get(problem.partition(":")[0])
    whole = isinstance(dimension, Range) and not dimension.integer and "valid integer" in problem
    return "; write int:LOW..HIGH for whole numbers" if whole else ""


def _samples(space: Space) -> Iterable[Point]:
    """The points to check: a small grid, or the corners."""
    if space.is_finite:
        points = list(islice(space._combinations(lambda dimension: dimension.listed or ()), MOST_CORNERS + 1))
        if len(points) <= MOST_CORNERS:
            return points
    return space.corners()


def _is_empty(space: Space, params: Mapping[str, Any]) -> bool:
    """Whether it is certain that no point meets the constraints."""
    if not space.is_finite or not space.constraints:
        return False
    points = space._combinations(lambda dimension: dimension.listed or ())
    searched = islice(points, LARGEST_GRID)
    return all(space.violated(point, params) for point in searched) and next(points, None) is None
