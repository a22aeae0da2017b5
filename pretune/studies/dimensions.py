"""The values that a sweep tries for one key: lists and ranges, and when the key applies.

full,lora,head      log:1e-5..1e-3      int:2..8      log:1e-5..1e-3/5      int:4..64 if adaptation.method=lora
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
RANGE = re.compile(r"(?P<kinds>(?:(?:log|int):)*)(?P<low>[^\s/]+?)\.\.(?P<high>[^\s/]+)(?:/(?P<points>\S*))?")
QUOTED = re.compile(r"""(?<![^\s,=:\[{])("(?:\\.|[^"\\])*"|'(?:''|[^'])*')""", re.DOTALL)
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")  # texts that need no quotes, in YAML and in a shell
DEEPEST = 10  # levels of lists and mappings in a value
MOST_POINTS = 10_000  # of one range
SIGNIFICANT = 12  # digits of a point between the ends of a range: 0.0001, not 0.00009999999999999999


class Trial(Protocol):
    """The part of Optuna's trial that draws values."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of `choices`: None, bool, int, float or str."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number from `low` to `high`."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number from `low` to `high`."""


@dataclass(frozen=True)
class Condition:
    """The values of another key with which a key applies."""

    key: str
    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Whether the key applies with this value of the other one."""
        return any(same(value, wanted) for wanted in self.values)


@dataclass(frozen=True)
class Choices:
    """A list of values, each once."""

    values: tuple[Any, ...]
    condition: Condition | None = None

    @property
    def listed(self) -> tuple[Any, ...]:
        """All values, for a grid."""
        return self.values

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values to check before anything runs: all."""
        return self.values

    def contains(self, value: Any) -> bool:
        """Whether the value is in the list; 8 and 8.0 are the same, 1 and true are not."""
        return any(same(value, other) for other in self.values)

    def suggest(self, name: str, trial: Trial) -> Any:
        """The value that the trial chooses."""
        names = _names(self.values)
        return self.values[names.index(trial.suggest_categorical(name, names))]

    def encoded(self, value: Any) -> Any:
        """The value as Optuna knows it: a list or a mapping is a text there."""
        index = next(index for index, other in enumerate(self.values) if same(value, other))
        return _names(self.values)[index]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; with `points`, only so many of them, evenly spaced, in the logarithm if `log`."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    points: int | None = None
    condition: Condition | None = None

    @property
    def listed(self) -> tuple[float, ...] | None:
        """The points, ascending, each once (whole numbers are rounded); None without a number of points."""
        if self.points is None:
            return None
        shares = [index / (self.points - 1) for index in range(1, self.points - 1)]
        return tuple(dict.fromkeys([self.low, *map(self._at, shares), self.high]))

    @property
    def ends(self) -> tuple[float, ...]:
        """The values to check before anything runs: the lowest and the highest."""
        return (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Whether the number is in the range, and one of its points if it has any."""
        kinds = int if self.integer else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            return False
        return self.listed is None or value in self.listed

    def suggest(self, name: str, trial: Trial) -> Any:
        """The value that the trial chooses."""
        if self.listed is not None:
            return trial.suggest_categorical(name, list(self.listed))
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return self._rounded(trial.suggest_float(name, self.low, self.high, log=self.log))

    def _rounded(self, number: float) -> float:
        """A number that people can read, within the range: four digits, or more in a narrow range."""
        places = 3 - math.floor(math.log10(abs(number) or 1.0))
        if not self.log and self.high > self.low:
            places = max(places, 3 - math.floor(math.log10(self.high - self.low)))
        return min(max(round(number, places), self.low), self.high)

    def encoded(self, value: Any) -> Any:
        """The value as Optuna knows it: itself."""
        return value if self.integer else float(value)

    def _at(self, share: float) -> float:
        """The number at a share of the way from the lowest to the highest."""
        if self.log:
            number = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            number = self.low + share * (self.high - self.low)
        number = round(number) if self.integer else float(f"{number:.{SIGNIFICANT}g}")
        return min(max(number, self.low), self.high)


Dimension = Choices | Range


def read(spec: str) -> Dimension:
    """The values that a SPEC of the command line describes. ValueError says what is wrong with it."""
    at = _masked(f"{spec} ").rfind(" if ")
    if at < 0:
        return _values(spec.strip())
    return replace(_values(spec[:at].strip()), condition=_condition(spec[at + 4 :].strip()))


def from_value(value: Any) -> Dimension:
    """The values that a value of a sweep file describes: a SPEC, a list, or one value. ValueError as `read`."""
    if isinstance(value, str):
        return read(value)
    return _choices(value if isinstance(value, list) else [value])


def same(one: Any, other: Any) -> bool:
    """Whether two values of YAML are the same for params.yaml: 8 and 8.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def written(value: Any) -> str:
    """A value in one line of YAML, which reads back as the same value of the same type."""
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and parsed(value) == value else f'"{"".join(map(_escaped, value))}"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(key)}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def parsed(text: str) -> Any:
    """The value of a text in YAML 1.2. ValueError where it is none, or no value of params.yaml (a date)."""
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, TypeError, LookupError, RecursionError):
        raise ValueError(f"`{text}` is not valid YAML") from None
    return _usable(value, text)


def _usable(value: Any, text: str, depth: int = 0) -> Any:
    """The value itself, if params.yaml can hold it."""
    if depth > DEEPEST:
        raise ValueError(f"`{text}` has more than {DEEPEST} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{text}` is no finite number")
    if value is not None and not isinstance(value, (bool, int, float, str, list, dict)):
        raise ValueError(f"`{text}` is a {type(value).__name__}; write it in quotes if it is a text")
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        raise ValueError(f"`{text}` has keys that are no texts; write them in quotes")  # a sweep stores points as JSON
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    for part in parts:
        _usable(part, text, depth + 1)
    return value


def _values(spec: str) -> Dimension:
    found = RANGE.fullmatch(spec)
    if found and (found["kinds"] or NUMBER.fullmatch(found["low"]) or NUMBER.fullmatch(found["high"])):
        return _range(found["kinds"].split(":")[:-1], found["low"], found["high"], found["points"])
    if spec.startswith(("log:", "int:")):
        raise ValueError("write a range as LOW..HIGH, log:LOW..HIGH, int:LOW..HIGH or log:int:LOW..HIGH, or with /N")
    if spec.startswith("[") and _masked(spec).strip("\0") == "":  # one pair of brackets around all: a list
        return _choices(parsed(spec))
    return _choices([parsed(item) for item in _items(spec)])


def _range(kinds: list[str], low: str, high: str, points: str | None) -> Range:
    problems = [f"`{end}` is no number" for end in (low, high) if not NUMBER.fullmatch(end)]
    problems += [f"`{kind}:` stands twice" for kind in set(kinds) if kinds.count(kind) > 1]
    if points is not None and not (re.fullmatch(r"[0-9]{1,9}", points) and 2 <= int(points) <= MOST_POINTS):
        problems.append(f"/N is the number of points, from 2 to {MOST_POINTS}, not `/{points}`")
    if not problems:
        problems = _range_problems(kinds, low, high)
    if problems:
        raise ValueError("; ".join(problems))
    integer = "int" in kinds
    ends = [int(float(end)) if integer else float(end) for end in (low, high)]
    return Range(ends[0], ends[1], "log" in kinds, integer, None if points is None else int(points))


def _range_problems(kinds: list[str], low: str, high: str) -> list[str]:
    numbers = {end: float(end) for end in (low, high)}
    problems = [f"`{end}` is no finite number" for end, number in numbers.items() if math.isinf(number)]
    if "int" in kinds:
        problems += [f"`{end}` is no whole number" for end, number in numbers.items() if not number.is_integer()]
    if not numbers[low] < numbers[high]:
        problems.append(f"{low} is not below {high}")
    if "log" in kinds and numbers[low] <= 0:
        problems.append(f"`log:` needs numbers above 0, not {low}")
    return problems


def _choices(values: Any) -> Choices:
    if not isinstance(values, list) or not values:
        raise ValueError("it has no values")
    for index, value in enumerate(values):
        _usable(value, str(value))
        if any(same(value, other) for other in values[:index]):
            raise ValueError(f"`{written(value)}` stands twice")
    return Choices(tuple(values))


def _condition(text: str) -> Condition:
    key, equals, values = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"write the condition as `if KEY=VALUE` or `if KEY=VALUE,VALUE`, not `if {text}`")
    return Condition(key.strip(), _choices([parsed(item) for item in _items(values)]).values)


def _items(text: str) -> list[str]:
    """The parts between the commas outside brackets and quotes."""
    starts = [0, *(found.end() for found in re.finditer(",", _masked(text)))]
    items = [
        text[start:end].strip() for start, end in zip(starts, [*(at - 1 for at in starts[1:]), len(text)], strict=True)
    ]
    if not all(items):
        raise ValueError("a value is missing; null and '' are written out")
    return items


def _masked(text: str) -> str:
    """The text, of the same length, with all that stands in quotes and brackets, and these, as NUL."""
    unquoted = QUOTED.sub(lambda found: "\0" * len(found[0]), text)
    open_brackets, masked = "", []
    for character in unquoted:
        if character in "[{":
            open_brackets += character
        masked.append("\0" if open_brackets else character)
        if character in "]}":
            if not open_brackets or open_brackets[-1] + character not in {"[]", "{}"}:
                raise ValueError(f"`{character}` closes nothing; write texts with brackets in quotes")
            open_brackets = open_brackets[:-1]
    if open_brackets:
        raise ValueError(f"`{open_brackets[-1]}` is not closed; write texts with brackets in quotes")
    return "".join(masked)


def _names(values: tuple[Any, ...]) -> list[Any]:
    """The choices as Optuna takes them: lists and mappings as JSON; all of them where two could be mistaken."""
    names = [json.dumps(value) if isinstance(value, (list, dict)) else value for value in values]
    if any(name in names[:index] for index, name in enumerate(names)):  # 1 and true are equal in Python
        return [written(value) for value in values]
    return names


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
