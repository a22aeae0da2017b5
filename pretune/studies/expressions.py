"""Constraints between keys, such as `finetune.batch_size * 2 <= 64`: a small language of its own, never run as Python.

It has numbers, texts in quotes, true, false, null, lists, dotted keys, + - * / // % **, comparisons, and, or, not, in.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

LONGEST = 1000  # characters
LARGEST_EXPONENT = 64
ALLOWED = "numbers, 'texts', keys, + - * / // % **, comparisons, and, or, not, in"
WORDS = {"true": True, "false": False, "null": None}  # as YAML writes them

Lookup = Callable[[str], Any]  # the value of a dotted key; KeyError where it has none


@dataclass(frozen=True)
class Constraint:
    """A condition between keys that a point has to meet."""

    text: str

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The dotted keys that it names, each once."""
        return tuple(dict.fromkeys(_keys(self._tree)))

    @cached_property
    def _tree(self) -> ast.expr:
        return _checked(self.text)

    def holds(self, lookup: Lookup) -> bool:
        """Whether it holds with these values; ValueError says why where they cannot be compared.

        A constraint that needs a key without a value does not apply, so it holds. One without a finite result (a
        division by zero) does not hold.
        """
        try:
            return bool(_evaluate(self._tree, lookup))
        except KeyError:
            return True
        except ArithmeticError:
            return False


def read(text: str) -> Constraint:
    """The constraint that `text` describes. ValueError says what is not allowed in it."""
    constraint = Constraint(text.strip())
    list(constraint.keys)
    return constraint


def _checked(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"not an expression; allowed are {ALLOWED}") from None
    _check(tree)
    if not (isinstance(tree, (ast.Compare, ast.BoolOp)) or _is_not(tree)):
        raise ValueError("it compares nothing; write it as KEY <= VALUE")
    return tree


def _check(node: ast.expr) -> None:
    if _dotted(node) is None and not _is_allowed(node):
        raise ValueError(f"`{ast.unparse(node)[:60]}` is not allowed; allowed are {ALLOWED}")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        exponent = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
        if isinstance(exponent, ast.Constant):
            _check_exponent(exponent.value)
    for child in _parts(node):
        _check(child)


def _is_allowed(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return value is None or isinstance(value, (bool, int, float, str))
        case ast.UnaryOp(op=op):
            return isinstance(op, (ast.USub, ast.UAdd, ast.Not))
        case ast.BinOp(op=op):
            return type(op) in _ARITHMETIC
        case ast.Compare(ops=ops):
            return all(type(op) in _COMPARISONS for op in ops)
        case ast.BoolOp() | ast.List() | ast.Tuple():
            return True
    return False


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _parts(node: ast.expr) -> list[ast.expr]:
    """The expressions in an expression; a dotted key has none."""
    if _dotted(node) is not None:
        return []
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]


def _keys(node: ast.expr) -> Iterator[str]:
    dotted = _dotted(node)
    if dotted is not None and dotted not in WORDS:
        yield dotted
    for child in _parts(node):
        yield from _keys(child)


def _dotted(node: ast.expr) -> str | None:
    """`a.b.c` as a text, where the expression is such a name; no part of a key begins with an underscore."""
    if isinstance(node, ast.Name):
        return None if node.id.startswith("_") else node.id
    if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
        parent = _dotted(node.value)
        return None if parent is None else f"{parent}.{node.attr}"
    return None


def _evaluate(node: ast.expr, lookup: Lookup) -> Any:
    dotted = _dotted(node)
    if dotted is not None:
        return WORDS[dotted] if dotted in WORDS else lookup(dotted)
    if isinstance(node, ast.BoolOp):
        values = (_evaluate(part, lookup) for part in node.values)  # as far as they decide, as in Python
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.Compare):
        return _compare(node, lookup)
    return _computed(node, [_evaluate(part, lookup) for part in _parts(node)])


def _computed(node: ast.expr, parts: list[Any]) -> Any:
    """The value of a constant, a list, or an operation on the values of its parts."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BinOp):
        return _ARITHMETIC[type(node.op)](*map(_number, parts))
    if isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.Not):
            return not parts[0]
        return -_number(parts[0]) if isinstance(node.op, ast.USub) else _number(parts[0])
    return parts


def _compare(node: ast.Compare, lookup: Lookup) -> bool:
    """`a < b <= c`, from the left, as far as it holds."""
    left = _evaluate(node.left, lookup)
    for op, part in zip(node.ops, node.comparators, strict=True):
        right = _evaluate(part, lookup)
        try:
            holds = _COMPARISONS[type(op)](left, right)
        except TypeError:
            raise ValueError(f"{left!r} and {right!r} cannot be compared") from None
        if not holds:
            return False
        left = right
    return True


def _number(value: Any) -> int | float:
    """Arithmetic is for numbers: a text or a list times a large number would fill the memory."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no number to calculate with")  # noqa: TRY004
    return value


def _check_exponent(exponent: Any) -> None:
    if isinstance(exponent, (int, float)) and abs(exponent) > LARGEST_EXPONENT:
        raise ValueError(f"exponents go up to {LARGEST_EXPONENT}")


def _power(base: float, exponent: float) -> float:
    """In floating point: powers of powers of integers would never end."""
    _check_exponent(exponent)
    try:
        return math.pow(base, exponent)
    except ValueError:  # 0 ** -1, or a root of a negative number
        raise ZeroDivisionError from None


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
