"""Arithmetic on text that nobody trusts: + - * / and parentheses, no names, no calls."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

MAX_LENGTH = 200
MAX_EXPONENT = 64
ALLOWED = frozenset("0123456789+-*/(). ")

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def calculate(expression: str) -> str:
    """Return the value rounded to cents, always with a decimal point: `4.0`.

    Raises:
        ValueError: a character, a form or a size that is not allowed.
        ArithmeticError: division by zero, or a result beyond what a float holds.
    """
    if not ALLOWED.issuperset(expression):
        raise ValueError("invalid characters in expression")
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"expression is longer than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as exc:
        raise ValueError("invalid syntax in expression") from exc
    return str(round(float(_value(tree.body)), 2))


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left), _value(right))
    raise ValueError("only numbers, + - * / and parentheses can be calculated")


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > MAX_EXPONENT or abs(base) > 1e9:
        raise ValueError("power is too large")
    result: float | complex = base**exponent
    if isinstance(result, complex):
        raise ValueError("root of a negative number")
    return result
