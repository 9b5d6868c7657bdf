"""What a model said as a list of calls, or the reason why it is none.

A prediction is a list of one-key objects, arguments as an object or as JSON text, or plain text;
text is read as Python calls, `[f(a=1), g(b="x")]`, which is how models without a call format are
asked to answer. Everything else is words.
Source: gorilla 4d05b53f, `decode_ast` and `ast_parse`; re-implemented from their behaviour.
"""

from __future__ import annotations

import ast
import json
import operator
import warnings
from collections.abc import Callable, Mapping

from edgeagent.evals.bfcl.checker import Calls, Fault
from edgeagent.messages import Json

FAILED = "ast_decoder:decoder_failed"
NO_CALLS = "ast_decoder:decoder_wrong_output_format"

_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
LARGEST = 1e100
LARGEST_EXPONENT = 64
"""Of arithmetic in arguments."""


class NotCalls(Exception):
    """The prediction cannot be read as calls."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(kind, detail)


def calls_of(result: Json) -> Calls:
    """Return the calls in a prediction; none where it is an empty list.

    Raises:
        NotCalls: it is words, or a list of something else.
    """
    if isinstance(result, str):
        result = _parsed(result)
    if not isinstance(result, list):
        raise NotCalls(NO_CALLS, "neither a list of calls nor text")
    return [_call(one) for one in result]


def _call(one: Json) -> Mapping[str, Mapping[str, Json]]:
    if not isinstance(one, dict) or len(one) != 1:
        raise NotCalls(NO_CALLS, "a call is an object with the function's name as its one key")
    ((name, arguments),) = one.items()
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as exc:
            raise NotCalls(FAILED, f"the arguments of {name} are not JSON") from exc
    if not isinstance(arguments, dict):
        raise NotCalls(NO_CALLS, f"the arguments of {name} are not an object")
    return {name: arguments}


def _parsed(text: str) -> Json:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's escapes are nobody's here to correct
            tree = ast.parse(text.strip("`\n ").strip("[]'"), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.Tuple | ast.List | ast.Set) else [tree]
        return [_python_call(one) for one in calls]
    except (
        SyntaxError, ValueError, TypeError, ArithmeticError, MemoryError, RecursionError
    ) as exc:  # fmt: skip
        raise NotCalls(FAILED, "the text is not a list of calls") from exc


def _python_call(node: ast.expr) -> Mapping[str, Mapping[str, Json]]:
    if not isinstance(node, ast.Call):
        raise ValueError("no call")
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("unpacked arguments")
    return {_dotted(node.func): {str(one.arg): _value(one.value) for one in node.keywords}}


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{_dotted(value)}.{name}"
    raise ValueError("no name of a function")


def _value(node: ast.expr) -> Json:
    match node:
        case ast.Constant(value) if value is Ellipsis:
            return "..."
        case ast.Constant(bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            return -value
        case ast.List(items):
            return [_value(one) for one in items]
        case ast.Tuple(items):
            return tuple(_value(one) for one in items)
        case ast.Dict(keys, values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {_value(key): _value(value) for key, value in pairs if key is not None}
        case ast.Name(name):
            return name
        case ast.BinOp():
            return _computed(node)
        case ast.Call(keywords=[]) | ast.Subscript():
            return ast.unparse(node)
        case ast.Call():
            return _python_call(node)
    raise ValueError("no value")


def _computed(node: ast.expr) -> float:
    """Return the value of arithmetic on numbers; sizes stay where results can be printed."""
    match node:
        case ast.Constant(int() | float() as value):
            pass
        case ast.UnaryOp(ast.USub(), operand):
            value = -_computed(operand)
        case ast.BinOp(left, ast.Pow(), right):
            base, exponent = _computed(left), _computed(right)
            if abs(exponent) > LARGEST_EXPONENT or base < 0:
                raise ValueError("no power of this size")
            value = base**exponent
        case ast.BinOp(left, kind, right) if type(kind) in _ARITHMETIC:
            value = _ARITHMETIC[type(kind)](_computed(left), _computed(right))
        case _:
            raise ValueError("no number")
    if abs(value) > LARGEST:
        raise ValueError("the number is too large")
    return value
